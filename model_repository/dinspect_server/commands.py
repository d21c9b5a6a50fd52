"""The ``dinspect`` commands of this package. Heavy imports wait until they run."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import types
from pathlib import Path


class InstallServerCommand:
    """Install the embedded server."""

    help = "install the embedded Triton server (from the nvidia-pytriton wheel, apart)"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's options."""
        parser.add_argument("--location", type=Path, help="folder (default: in the environment)")

    def run(self, args: argparse.Namespace) -> int:
        """Install, or leave an installation as it is."""
        from dinspect_server.installation import default_location, install_server

        location = args.location or default_location()
        install_server(location)
        print(f"Triton server in {location}")
        return 0


class AssembleCommand:
    """Write a model repository."""

    help = "write a Triton model repository from exported models"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's options."""
        parser.add_argument("repository", type=Path, help="folder of the repository")
        parser.add_argument("--artefacts", type=Path, default=Path("build/artefacts"))
        parser.add_argument(
            "--engines",
            type=Path,
            help="folder of engines, for triton-tensorrt (default: engines beside the artefacts)",
        )
        parser.add_argument(
            "--runtime",
            choices=("openvino", "onnxruntime", "triton-onnxruntime", "triton-tensorrt"),
            default="openvino",
            help="what runs the backbone (default openvino); the last two are native backends of "
            "NVIDIA's container",
        )
        parser.add_argument(
            "--precision",
            choices=("auto", "fp32", "fp16", "bf16", "int8"),
            default="auto",
            help="of the backbone and the search (default: auto, the backbone in FP32, the search "
            "in BF16 where this processor has units for it)",
        )
        parser.add_argument(
            "--max-bank-bytes",
            type=int,
            default=2 << 30,
            help="memory for loaded banks, and as much for loaded students, per input size "
            "(default 2 GiB)",
        )

    def run(self, args: argparse.Namespace) -> int:
        """Assemble and name the ensembles."""
        from dinspect_server.assemble import ServingOptions, assemble

        options = ServingOptions(args.runtime, args.precision, args.max_bank_bytes)
        ensembles = assemble(args.artefacts, args.repository, options, engines_dir=args.engines)
        print(f"{args.repository}: {', '.join(ensembles)}")
        return 0


class ServeCommand:
    """Serve a repository until told to stop."""

    help = "serve a model repository with the embedded Triton"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's options."""
        parser.add_argument("repository", type=Path)
        parser.add_argument(
            "--host",
            default="127.0.0.1",
            help="address to listen on (default loopback; Triton has no login, so open it only "
            "behind a gateway)",
        )
        parser.add_argument("--http-port", type=int, default=8000)
        parser.add_argument("--grpc-port", type=int, default=8001)
        parser.add_argument("--metrics-port", type=int, default=8002)
        parser.add_argument(
            "--admin-key",
            default=os.environ.get("DINSPECT_ADMIN_KEY", ""),
            help="needed to load and unload models (default: $DINSPECT_ADMIN_KEY, else random)",
        )
        parser.add_argument("--log", type=Path, help="default REPOSITORY/server.log")

    def run(self, args: argparse.Namespace) -> int:
        """Serve; SIGTERM and Ctrl-C stop in order. Exit status 3 when the server dies."""
        from dinspect_server.embedded import EmbeddedTriton, Endpoints

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
        endpoints = Endpoints(args.host, args.http_port, args.grpc_port, args.metrics_port)
        stopping = False

        def stop(signum: int, frame: types.FrameType | None) -> None:
            nonlocal stopping
            stopping = True
            raise KeyboardInterrupt

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        try:
            with EmbeddedTriton(args.repository, endpoints, args.admin_key, args.log) as server:
                print(
                    f"{server.version} is ready: gRPC {server.grpc_url}, HTTP {server.http_url}, "
                    f"metrics {server.metrics_url}",
                    flush=True,
                )
                status = server.wait()
                if not stopping:
                    excerpt = server.log_excerpt()
                    print(f"tritonserver ended with status {status}\n{excerpt}", file=sys.stderr)
                    return 3
        except KeyboardInterrupt:
            print("stopped", flush=True)
        return 0
