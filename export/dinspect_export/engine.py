"""ONNX to TensorRT engine: the only importer of ``tensorrt`` and ``tensorrt_rtx``.

Both modules have one API, so there is one code path. Native TensorRT builds on the GPU it builds
for, for Triton's ``tensorrt`` backend; TensorRT-RTX compiles ahead of time without any GPU, for
several compute capabilities at once, and finishes on the GPU it is loaded on. Networks are strongly
typed in both: the precision is what the graph says.
"""

from __future__ import annotations

import importlib
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dinspect_export.errors import EngineError, MissingDependencyError, RuntimeUnavailableError

TARGETS = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Target to the module that builds for it, whose package has the same name."""

RTX_DEFAULT_TARGETS = ("8.0", "8.6", "8.9", "12.0", "12.1")
"""Compute capabilities TensorRT-RTX 1.7 builds for when none is chosen."""

_LOG_LINES_SHOWN = 6
# What TensorRT calls its fused attention kernels: in a plan's text, and in the inspector's.
_FUSED_IN_PLAN = b"fmha_v2"
_FUSED_IN_INSPECTION = re.compile(r"fmha|_mha|\bMHA", re.IGNORECASE)
# A TensorRT-RTX plan starts with 64 bytes that hold, at this offset, one bit per target. NVIDIA
# does not document them, so they are reported and never decided upon.
_RTX_MAGIC = b"vtrt"
_RTX_TARGETS_OFFSET = 0x20
_RTX_TARGETS = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is built.

    Attributes:
        target: One of `TARGETS`.
        batch: Smallest, optimal and largest batch of a graph whose batch is dynamic.
        compute_capabilities: TensorRT-RTX only: what the engine must run on, e.g. ``8.6``;
            ``current`` is the GPU at hand; empty leaves it to the builder.
        version_compatible: Native only: runs on later TensorRT versions too.
        hardware_compatible: Native only: runs on every GPU from Ampere on, somewhat slower.
        optimization_level: Native only: 0 to 5, None for the builder's own.
        timing_cache: Native only: file of kernel timings, read if there and written back.

    Raises:
        EngineError: If an option does not exist for the target or makes no sense.
    """

    target: str
    batch: tuple[int, int, int] = (1, 4, 8)
    compute_capabilities: tuple[str, ...] = ()
    version_compatible: bool = False
    hardware_compatible: bool = False
    optimization_level: int | None = None
    timing_cache: Path | None = None

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise EngineError(f"target {self.target!r}, expected one of {', '.join(TARGETS)}")
        smallest, optimal, largest = self.batch
        if not 1 <= smallest <= optimal <= largest:
            raise EngineError(
                f"batch {list(self.batch)}, expected 1 <= smallest <= best <= largest"
            )
        native_only = {
            "version_compatible": self.version_compatible,
            "hardware_compatible": self.hardware_compatible,
            "optimization_level": self.optimization_level is not None,
            "timing_cache": self.timing_cache is not None,
        }
        asked = [name for name, value in native_only.items() if value]
        if self.target == "tensorrt-rtx" and asked:
            raise EngineError(f"TensorRT-RTX has no {', '.join(asked)}; leave them out")
        if self.target == "tensorrt" and self.compute_capabilities:
            raise EngineError(
                "native TensorRT builds for the GPU at hand, so compute_capabilities cannot be "
                "chosen; leave them out or build on the GPU you mean"
            )


@dataclass(frozen=True)
class Engine:
    """A built engine.

    Attributes:
        plan: The serialised engine.
        profile: Input name to its smallest, optimal and largest shape; empty for a fixed batch.
        layers: Layers of the parsed network, by kind, e.g. ``{"MATRIX_MULTIPLY HALF": 72}``.
    """

    plan: bytes
    profile: dict[str, list[list[int]]]
    layers: dict[str, int]


def build_engine(model: Path, options: EngineOptions) -> Engine:
    """Parse a graph and build an engine of it.

    Args:
        model: The ONNX file; weights in a file beside it are found.
        options: How.

    Raises:
        MissingDependencyError: If the target's module is not installed.
        EngineError: If the graph cannot be parsed or built; the message carries the nodes at fault
            and what TensorRT logged.
    """
    trt = load_tensorrt(options.target)
    log = _log_of(options.target, trt)
    log.lines.clear()
    builder = trt.Builder(log)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(model)):
        raise EngineError(f"{options.target} cannot parse {model}: {_parser_errors(parser)}")
    config = builder.create_builder_config()
    _configure(trt, config, options)
    profile = _add_profile(builder, config, network, options)
    layers = _count_layers(network)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"{options.target} cannot build {model}: {log.last_errors()}")
    _keep_timings(config, options)
    return Engine(bytes(plan), profile, layers)


def load_tensorrt(target: str) -> Any:
    """Import the module that builds for a target.

    Raises:
        MissingDependencyError: If it is not installed or its libraries are missing.
    """
    module = TARGETS[target]
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f"{target} engines need the package {module.replace('_', '-')}, which cannot be "
            f"imported ({error}); run: pip install 'dinspect[{target}]'"
        ) from error


def inspect_plan(engine: Engine) -> dict[str, Any]:
    """What an engine tells about itself without being loaded, which would take a GPU.

    Returns:
        ``size_bytes``; ``layers`` of the network by kind and type; ``fused_attention_kernels``
        named in the plan, one per block and per group of targets that shares kernels; and for
        TensorRT-RTX ``targets``, the compute capabilities in its header. NVIDIA documents neither
        the names nor the header: diagnostics.
    """
    found: dict[str, Any] = {
        "size_bytes": len(engine.plan),
        "layers": engine.layers,
        "fused_attention_kernels": engine.plan.count(_FUSED_IN_PLAN),
    }
    if engine.plan[:4] == _RTX_MAGIC:
        mask = int.from_bytes(engine.plan[_RTX_TARGETS_OFFSET : _RTX_TARGETS_OFFSET + 4], "little")
        found["targets"] = [name for bit, name in enumerate(_RTX_TARGETS) if mask >> bit & 1]
    return found


def load_engine(plan: Path, target: str) -> Any:
    """An engine, ready to run on this machine's GPU.

    Args:
        plan: The engine file.
        target: ``tensorrt`` or ``tensorrt-rtx``.

    Returns:
        TensorRT's ``ICudaEngine``.

    Raises:
        MissingDependencyError: If the target's module is not installed.
        RuntimeUnavailableError: If there is no GPU, or one that the engine or TensorRT is not for.
    """
    trt = load_tensorrt(target)
    log = _log_of(target, trt)
    if target not in _runtimes:
        _runtimes[target] = trt.Runtime(log)
        # A version-compatible engine carries its own runtime.
        _runtimes[target].engine_host_code_allowed = True
    engine = _runtimes[target].deserialize_cuda_engine(plan.read_bytes())
    if engine is None:
        raise RuntimeUnavailableError(
            f"{plan} cannot be loaded on this machine: {log.last_errors()}"
        )
    return engine


def fused_attention_layers(plan: Path, target: str) -> int:
    """Layers of fused attention in an engine, by TensorRT's own inspector; needs its GPU.

    Raises:
        MissingDependencyError: If the target's module is not installed.
        RuntimeUnavailableError: If the engine cannot be loaded here.
    """
    engine = load_engine(plan, target)
    as_json = load_tensorrt(target).LayerInformationFormat.JSON
    report = json.loads(engine.create_engine_inspector().get_engine_information(as_json))
    return sum(
        bool(_FUSED_IN_INSPECTION.search(json.dumps(layer))) for layer in report.get("Layers", [])
    )


def _network_flags(trt: Any) -> int:
    """Strong typing where it is still a choice; from TensorRT 11 on it is the only mode."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parser_errors(parser: Any) -> str:
    """Each complaint with the node it is about; the parser's own text is at times just "false"."""
    found = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        reason = error.desc() if error.desc() not in ("", "false") else "not supported"
        found.append(f"node {error.node_name()!r} ({error.node_operator()}): {reason}")
    return "; ".join(dict.fromkeys(found)) or "no reason given"


def _configure(trt: Any, config: Any, options: EngineOptions) -> None:
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that the inspector says more
    if options.compute_capabilities:
        config.num_compute_capabilities = len(options.compute_capabilities)
        for index, name in enumerate(options.compute_capabilities):
            config.set_compute_capability(_compute_capability(trt, name), index)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.timing_cache is not None:
        known = options.timing_cache.read_bytes() if options.timing_cache.is_file() else b""
        # One of another GPU or version is refused, and then the build begins without any.
        if not config.set_timing_cache(config.create_timing_cache(known), False):
            config.set_timing_cache(config.create_timing_cache(b""), False)


def _compute_capability(trt: Any, name: str) -> Any:
    known = {
        "current" if member == "CURRENT" else re.sub(r"SM(\d+)(\d)", r"\1.\2", member): value
        for member, value in trt.ComputeCapability.__members__.items()
        if member != "NONE"
    }
    try:
        return known[name]
    except KeyError:
        raise EngineError(
            f"this TensorRT-RTX cannot build for compute capability {name!r}; it knows "
            f"{', '.join(known)}"
        ) from None


def _add_profile(
    builder: Any, config: Any, network: Any, options: EngineOptions
) -> dict[str, list[list[int]]]:
    """Give every input with a dynamic batch its smallest, optimal and largest shape."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    shapes = {tensor.name: [int(side) for side in tensor.shape] for tensor in inputs}
    for name, shape in shapes.items():
        if -1 in shape[1:]:
            raise EngineError(
                f"input {name!r} has the shape {shape}; only its first dimension, the batch, may "
                "be dynamic"
            )
    dynamic = {name: shape for name, shape in shapes.items() if shape[:1] == [-1]}
    if not dynamic:
        return {}
    profile = builder.create_optimization_profile()
    result = {}
    for name, shape in dynamic.items():
        result[name] = [[size, *shape[1:]] for size in options.batch]
        profile.set_shape(name, *map(tuple, result[name]))
    config.add_optimization_profile(profile)
    return result


def _count_layers(network: Any) -> dict[str, int]:
    """Kinds of layers with the type they compute in, the most frequent first."""
    kinds = Counter(
        f"{layer.type.name} {layer.get_output(0).dtype.name}"
        for layer in map(network.get_layer, range(network.num_layers))
        if layer.num_outputs and "INT" not in layer.get_output(0).dtype.name
    )
    return dict(kinds.most_common())


def _keep_timings(config: Any, options: EngineOptions) -> None:
    if options.timing_cache is None:
        return
    from dinspect_export.artefact_store import replace_file

    replace_file(options.timing_cache, bytes(config.get_timing_cache().serialize()))


_logs: dict[str, Any] = {}
_runtimes: dict[str, Any] = {}  # kept, for an engine must not outlive its runtime


def _log_of(target: str, trt: Any) -> Any:
    """The one log of a target: TensorRT keeps the first it is given for the whole process."""
    if target not in _logs:

        class Log(trt.ILogger):  # type: ignore[misc]
            """Keeps what TensorRT complains about, for the error message."""

            def __init__(self) -> None:
                trt.ILogger.__init__(self)
                self.lines: list[str] = []

            def log(self, severity: Any, message: str) -> None:
                if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                    self.lines.append(message.strip())

            def last_errors(self) -> str:
                return " | ".join(self.lines[-_LOG_LINES_SHOWN:]) or "no reason was logged"

        _logs[target] = Log()
    return _logs[target]
