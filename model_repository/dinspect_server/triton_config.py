"""Triton's model configs, built as protobuf messages so that no typo survives.

Names come from the wire contract. The queue of every model that takes batches is bounded, which a
test checks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from dinspect_client import wire
from dinspect_export.manifest import ENGINE_FILE, MODEL_FILE

MAX_BATCH = 8
MAX_QUEUE_SIZE = 256
QUEUE_DELAY_US = 0
QUEUE_TIMEOUT_US = 60_000_000

PIXELS = "pixels"
PADDED_PIXELS = "pixels_padded"
IMAGE_SIZE = wire.IMAGE_SIZE.name
DISTANCE_GRID = "distance_grid"
MAP_SETTINGS = "map_settings"
RUNTIME_INFO = "runtime_info"
_DTYPES = {
    "BYTES": pb.TYPE_STRING,
    "FP32": pb.TYPE_FP32,
    "INT32": pb.TYPE_INT32,
    "INT64": pb.TYPE_INT64,
    "UINT8": pb.TYPE_UINT8,
}


@dataclass(frozen=True)
class BackboneModel:
    """A backbone as the other models need to know it.

    Attributes:
        name: Triton model and artefact name.
        grid: Patch grid.
        dim: Width of a patch token.
        layers: Blocks whose tokens it puts out.
        patch_size: Edge of a patch in pixels.
    """

    name: str
    grid: tuple[int, int]
    dim: int
    layers: tuple[int, ...]
    patch_size: int = 14

    @property
    def label(self) -> str:
        """Input size as it appears in model names."""
        return wire.grid_label(self.grid, self.patch_size)

    @property
    def is_square(self) -> bool:
        """Whether images can be padded to its input."""
        return self.grid[0] == self.grid[1]

    @property
    def takes_students(self) -> bool:
        """Whether L2BT can use it: it pads images to a square, and compares two blocks."""
        return self.is_square and len(self.layers) > 1

    @property
    def last_tokens(self) -> wire.TensorSpec:
        """The tokens AnomalyDINO compares: those of the last tapped block."""
        return tokens_spec(self, self.layers[-1])


def tokens_spec(backbone: BackboneModel, layer: int) -> wire.TensorSpec:
    """The output of a backbone that carries a layer's patch tokens."""
    shape = (backbone.grid[0] * backbone.grid[1], backbone.dim)
    return wire.TensorSpec(f"patch_tokens_{layer}", "FP32", shape, f"patch tokens of block {layer}")


def _pixels_spec(backbone: BackboneModel, name: str = PIXELS) -> wire.TensorSpec:
    height, width = (side * backbone.patch_size for side in backbone.grid)
    return wire.TensorSpec(name, "UINT8", (height, width, 3), "the backbone's input, RGB")


_MAP_SETTINGS = wire.TensorSpec(
    MAP_SETTINGS,
    "FP32",
    (7,),
    "threshold of the map, smallest area, height and width of the references in pixels, and the "
    "rule of the map",
)


def preprocess_config(backbone: BackboneModel, *, raw: bool) -> pb.ModelConfig:
    """Images to pixels, cropped or padded to a square, for one input size."""
    source = wire.IMAGE_RGB if raw else wire.IMAGE
    padded = [_pixels_spec(backbone, PADDED_PIXELS)] if backbone.is_square else []
    return _python_model(
        preprocess_name(backbone, raw=raw),
        [source],
        [_pixels_spec(backbone), *padded, wire.IMAGE_SIZE],
        {"grid": f"{backbone.grid[0]},{backbone.grid[1]}", "input": source.name},
    )


def preprocess_name(backbone: BackboneModel, *, raw: bool) -> str:
    """Name of the preprocessing model of an input size."""
    return f"preprocess_{backbone.label}" + ("_raw" if raw else "")


def backbone_config(
    backbone: BackboneModel, runtime: str, precision: str, onnx_sha256: str
) -> pb.ModelConfig:
    """Pixels to patch tokens; the hash makes Triton reload when the file changed."""
    info = wire.TensorSpec(RUNTIME_INFO, "BYTES", (1,), "JSON: runtime and precision in force")
    return _python_model(
        backbone.name,
        [_pixels_spec(backbone)],
        [*(tokens_spec(backbone, layer) for layer in backbone.layers), info],
        {"runtime": runtime, "precision": precision, "onnx_sha256": onnx_sha256},
    )


def native_backbone_config(
    backbone: BackboneModel, onnx_sha256: str, backend: str, file_sha256: str
) -> pb.ModelConfig:
    """The same, run by a backend of Triton's own, on a GPU where the server has one.

    Args:
        backbone: The backbone.
        onnx_sha256: Digest of the graph, also where its engine is what runs.
        backend: ``onnxruntime`` or ``tensorrt``.
        file_sha256: Digest of the file that runs.
    """
    config = pb.ModelConfig(
        name=backbone.name,
        backend=backend,
        default_model_filename=ENGINE_FILE if backend == "tensorrt" else MODEL_FILE,
        max_batch_size=MAX_BATCH,
        input=[input_of(_pixels_spec(backbone))],
        output=[output_of(tokens_spec(backbone, layer)) for layer in backbone.layers],
        instance_group=[pb.ModelInstanceGroup(count=1, kind=pb.ModelInstanceGroup.KIND_AUTO)],
        parameters={
            "onnx_sha256": pb.ModelParameter(string_value=onnx_sha256),
            "file_sha256": pb.ModelParameter(string_value=file_sha256),
        },
    )
    _bound_queue(config)
    return config


def cosine_knn_config(
    backbone: BackboneModel, onnx_sha256: str, search_precision: str, max_bank_bytes: int
) -> pb.ModelConfig:
    """Patch tokens and a product to distances, score and verdict."""
    tokens = wire.TensorSpec("patch_tokens", "FP32", backbone.last_tokens.shape, "patch tokens")
    return _python_model(
        f"cosine_knn_{backbone.label}",
        [tokens, wire.PRODUCT, wire.IMAGE_SIZE],
        _scored(backbone),
        {
            "onnx_sha256": onnx_sha256,
            "search_precision": search_precision,
            "max_bank_bytes": str(max_bank_bytes),
        },
    )


def students_config(
    backbone: BackboneModel, onnx_sha256: str, runtime: str, precision: str, max_bank_bytes: int
) -> pb.ModelConfig:
    """Patch tokens of two blocks and a product to distances, score and verdict.

    Args:
        backbone: The backbone.
        onnx_sha256: Digest of its graph.
        runtime: ``openvino``, else ONNX Runtime.
        precision: Of the students.
        max_bank_bytes: Memory for loaded students.
    """
    # An ensemble feeds its product's two blocks by their names, so that the model sees which two.
    tokens = [replace(tokens_spec(backbone, layer), optional=True) for layer in backbone.layers]
    return _python_model(
        f"students_{backbone.label}",
        [*tokens, wire.PRODUCT, wire.IMAGE_SIZE],
        _scored(backbone),
        {
            "onnx_sha256": onnx_sha256,
            "runtime": runtime,
            "precision": precision,
            "max_bank_bytes": str(max_bank_bytes),
        },
    )


def _scored(backbone: BackboneModel) -> list[wire.TensorSpec]:
    """What a model puts out that scores images."""
    grid = wire.TensorSpec(DISTANCE_GRID, "FP32", backbone.grid, "patch distances for the map")
    return [
        wire.ANOMALY_SCORE,
        wire.THRESHOLD,
        wire.NORMAL_BELOW,
        wire.VERDICT,
        wire.BUNDLE_VERSION,
        patch_distances_spec(backbone),
        grid,
        _MAP_SETTINGS,
    ]


def anomaly_map_config() -> pb.ModelConfig:
    """Patch distances to the map and its defects; shared by all input sizes."""
    grid = wire.TensorSpec(DISTANCE_GRID, "FP32", (-1, -1), "patch distances")
    inputs = [grid, wire.IMAGE_SIZE, _MAP_SETTINGS]
    return _python_model("anomaly_map", inputs, wire.MAP_OUTPUTS, {})


def enroll_config(
    served_sizes_json: str, search_precision: str, max_bank_bytes: int
) -> pb.ModelConfig:
    """Good images to a bundle."""
    return _python_model(
        wire.ENROLL_MODEL,
        wire.ENROLL_INPUTS,
        wire.ENROLL_OUTPUTS,
        {
            "served_sizes": served_sizes_json,
            "search_precision": search_precision,
            "max_bank_bytes": str(max_bank_bytes),
        },
        batches=False,
    )


def manage_config(
    served_sizes_json: str,
    search_precision: str,
    students: tuple[str, str],
    max_bank_bytes: int,
) -> pb.ModelConfig:
    """A product's life after its enrolment or training.

    Args:
        served_sizes_json: The input sizes.
        search_precision: Of the search.
        students: Runtime and precision of the students.
        max_bank_bytes: Memory for loaded banks, and for loaded students.
    """
    return _python_model(
        wire.MANAGE_MODEL,
        wire.MANAGE_INPUTS,
        wire.MANAGE_OUTPUTS,
        {
            "served_sizes": served_sizes_json,
            "search_precision": search_precision,
            "students_runtime": students[0],
            "students_precision": students[1],
            "max_bank_bytes": str(max_bank_bytes),
        },
        batches=False,
    )


def zero_shot_config(served_sizes_json: str) -> pb.ModelConfig:
    """Images without references, each scored against all others."""
    return _python_model(
        wire.ZERO_SHOT_MODEL,
        wire.ZERO_SHOT_INPUTS,
        wire.ZERO_SHOT_OUTPUTS,
        {"served_sizes": served_sizes_json},
        batches=False,
    )


def products_config() -> pb.ModelConfig:
    """The list of products."""
    return _python_model(
        wire.PRODUCTS_MODEL, wire.PRODUCTS_INPUTS, wire.PRODUCTS_OUTPUTS, {}, batches=False
    )


def config_text(config: pb.ModelConfig) -> str:
    """The config as ``config.pbtxt`` holds it."""
    text: str = text_format.MessageToString(config)
    return text


def patch_distances_spec(backbone: BackboneModel) -> wire.TensorSpec:
    """The patch distances of an input size."""
    spec = wire.PATCH_DISTANCES
    return wire.TensorSpec(spec.name, spec.datatype, backbone.grid, spec.meaning)


def _python_model(
    name: str,
    inputs: Sequence[wire.TensorSpec],
    outputs: Sequence[wire.TensorSpec],
    parameters: Mapping[str, str],
    *,
    batches: bool = True,
) -> pb.ModelConfig:
    config = pb.ModelConfig(
        name=name,
        backend="python",
        max_batch_size=MAX_BATCH if batches else 0,
        input=[input_of(spec) for spec in inputs],
        output=[output_of(spec) for spec in outputs],
        instance_group=[pb.ModelInstanceGroup(count=1, kind=pb.ModelInstanceGroup.KIND_CPU)],
        parameters={key: pb.ModelParameter(string_value=text) for key, text in parameters.items()},
    )
    if batches:
        _bound_queue(config)
    return config


def _bound_queue(config: pb.ModelConfig) -> None:
    """Batch what waits. Without this block Triton neither drops cancelled requests nor bounds."""
    batching = config.dynamic_batching
    batching.max_queue_delay_microseconds = QUEUE_DELAY_US
    policy = batching.default_queue_policy
    policy.timeout_action = pb.ModelQueuePolicy.REJECT
    policy.default_timeout_microseconds = QUEUE_TIMEOUT_US
    policy.allow_timeout_override = True
    policy.max_queue_size = MAX_QUEUE_SIZE


def input_of(spec: wire.TensorSpec) -> pb.ModelInput:
    """An input of a model's config."""
    return pb.ModelInput(
        name=spec.name, data_type=_DTYPES[spec.datatype], dims=spec.shape, optional=spec.optional
    )


def output_of(spec: wire.TensorSpec) -> pb.ModelOutput:
    """An output of a model's config."""
    return pb.ModelOutput(name=spec.name, data_type=_DTYPES[spec.datatype], dims=spec.shape)
