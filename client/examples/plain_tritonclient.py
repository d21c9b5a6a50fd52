"""Inspect one image with nothing but tritonclient and NumPy, as plant software would.

    python plain_tritonclient.py grpc localhost:8001 anomaly_dino_448 solar-mono cell.jpg
    python plain_tritonclient.py http localhost:8000 anomaly_dino_448 solar-mono cell.jpg

`dinspect products` tells which model inspects a product. gRPC needs `pip install
tritonclient[grpc]`, HTTP `pip install tritonclient[http]`. Any KServe v2 client in any language
sends and receives the same tensors.
"""

import sys

import numpy as np

VERDICTS = {0: "normal", 1: "anomalous", 2: "undecided"}


def main(protocol: str, url: str, model: str, product: str, path: str) -> None:
    """Send one encoded image and print every output of the wire contract."""
    if protocol == "grpc":
        import tritonclient.grpc as triton
    else:
        import tritonclient.http as triton

    with open(path, "rb") as file:
        encoded = file.read()
    # One image in a batch of one: every tensor's first dimension counts images.
    image = triton.InferInput("image", [1, 1], "BYTES")
    image.set_data_from_numpy(np.array([[encoded]], dtype=object))
    name = triton.InferInput("product", [1, 1], "BYTES")
    name.set_data_from_numpy(np.array([[product.encode()]], dtype=object))

    client = triton.InferenceServerClient(url)
    result = client.infer(model, [image, name])

    print(f"score {result.as_numpy('anomaly_score')[0, 0]:.6f}")
    print(f"threshold {result.as_numpy('threshold')[0, 0]:.6f}")
    print(f"normal below {result.as_numpy('normal_below')[0, 0]:.6f}")
    print(f"verdict {VERDICTS[int(result.as_numpy('verdict')[0, 0])]}")
    print(f"bundle version {result.as_numpy('bundle_version')[0, 0]}")
    print(f"patch distances {result.as_numpy('patch_distances')[0].shape}")
    print(f"anomaly map {result.as_numpy('anomaly_map')[0].shape}")
    print(f"defect regions {result.as_numpy('defect_regions')[0, 0].decode()}")
    client.close()


if __name__ == "__main__":
    if len(sys.argv) != 6:
        sys.exit("usage: plain_tritonclient.py grpc|http HOST:PORT MODEL PRODUCT IMAGE")
    main(*sys.argv[1:])
