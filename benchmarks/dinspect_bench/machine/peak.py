"""What this machine reaches at best: matrix products in each precision, and a copy through memory.

The best of several shapes and of every runtime that is installed, seen in a few seconds. That is
no data sheet's figure: nobody promises that no shape is faster. But nothing a runtime computes here
is likely to be much faster either, so it is a fair measure of how much of the machine is used.

The shortest run counts, for whatever else the machine does can only make one longer; all shapes
run in turn, so that a busy second hits none alone. On a machine that is busy throughout the peak
still comes out too low, and the shares reached of it too high; of several records of one machine
the highest figures are the ones to use (`roofline.Peak.from_records`).
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dinspect_bench.errors import MissingDependencyError
from dinspect_bench.machine.environment import describe_environment

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
SHAPES = ((256, 256), (512, 512), (1024, 384), (256, 1024), (2048, 1024))
"""Rows and width of the products; the large ones are for machines of many cores."""
_CHAINED = 4  # products in a graph, so that handing tensors over costs little
_COPY_BYTES = 128 << 20  # each way; both together are larger than all but a few servers' caches
_DURATION_S = 9.0
_HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "f32"}
_TORCH_TYPES = {"fp32": "float32", "bf16": "bfloat16"}
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
_TURN_S = 0.05  # of each trial: many runs of a short one, some of which nothing disturbs


@dataclass(frozen=True)
class Trial:
    """Something to time.

    Attributes:
        kind: A precision, or ``copy``.
        what: Runtime and shape, for the record.
        amount: Operations, or bytes read and written, of one run.
        run: Does it.
    """

    kind: str
    what: str
    amount: int
    run: Callable[[], object]


@dataclass(frozen=True)
class Best:
    """The highest rate seen of one kind.

    Attributes:
        per_s: Operations or bytes per second.
        what: What reached it.
    """

    per_s: float
    what: str


def measure_peak(duration_s: float = _DURATION_S) -> dict[str, Any]:
    """Measure, and put a record of kind ``peak`` together.

    Args:
        duration_s: Seconds to measure for; making the graphs takes about one more.

    Returns:
        ``matrix_product_flops`` (precision to operations per second, None where the processor has
        no units for it or no runtime is installed that uses them), ``copy_bytes_per_s`` (read and
        written together), ``reached_by`` (which runtime and shape), ``num_threads``,
        ``duration_s``, ``load_average`` (processes that ran or wanted to, over the minute before)
        and the environment.

    Raises:
        MissingDependencyError: If neither OpenVINO nor PyTorch is installed.
    """
    environment = describe_environment()
    load_average = os.getloadavg()[0]
    trials = [*_openvino_trials(), *_torch_trials(environment["cpu"]["flags"])]
    if not trials:
        raise MissingDependencyError(
            "the peak of matrix products needs OpenVINO or PyTorch; install 'dinspect[serve]'"
        )
    num_threads = _usable_cores()
    with ThreadPoolExecutor(num_threads) as pool:
        found = best_rates([*trials, _copy_trial(pool, num_threads)], duration_s)
    copied = found["copy"]
    return {
        "record": "peak",
        "matrix_product_flops": {
            name: found[name].per_s if name in found else None for name in PRECISIONS
        },
        "copy_bytes_per_s": copied.per_s,
        "reached_by": {name: best.what for name, best in found.items()},
        "num_threads": num_threads,
        "duration_s": duration_s,
        "load_average": load_average,
        "environment": environment,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def best_rates(
    trials: Sequence[Trial],
    duration_s: float,
    clock_s: Callable[[], float] = time.perf_counter,
) -> dict[str, Best]:
    """Run all trials in turn, round after round, and take the shortest run of each.

    Args:
        trials: At least one.
        duration_s: A round that has begun is finished; at least one counts, after one that does
            not.
        clock_s: Monotonic clock in seconds.

    Returns:
        Kind to the highest rate of its trials.
    """
    for trial in trials:
        trial.run()
    shortest_s = [float("inf")] * len(trials)
    ends_s = clock_s() + duration_s
    with tqdm(total=duration_s, desc="peak", unit="s", leave=False, disable=None) as bar:
        while True:
            for index, trial in enumerate(trials):
                shortest_s[index] = min(shortest_s[index], _shortest_run_s(trial, clock_s))
            left_s = ends_s - clock_s()
            bar.update(round(min(duration_s - left_s, duration_s) - bar.n, 1))
            if left_s <= 0:
                break
    return _best_by_kind(trials, shortest_s)


def _shortest_run_s(trial: Trial, clock_s: Callable[[], float]) -> float:
    """One turn of a trial."""
    shortest_s, before_s = float("inf"), clock_s()
    ends_s = before_s + _TURN_S
    while before_s < ends_s:
        trial.run()
        now_s = clock_s()
        shortest_s, before_s = min(shortest_s, now_s - before_s), now_s
    return shortest_s


def _best_by_kind(trials: Sequence[Trial], shortest_s: Sequence[float]) -> dict[str, Best]:
    found: dict[str, Best] = {}
    for trial, seconds in zip(trials, shortest_s, strict=True):
        rate = trial.amount / seconds
        if trial.kind not in found or rate > found[trial.kind].per_s:
            found[trial.kind] = Best(rate, trial.what)
    return found


def _openvino_trials() -> list[Trial]:
    """Chains of products in every precision the processor has units for."""
    if importlib.util.find_spec("openvino") is None:
        return []
    import openvino

    core = openvino.Core()
    units = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    version = openvino.__version__.split("-")[0]
    trials = []
    for precision in (name for name in PRECISIONS if name.upper() in units):
        hints = {"INFERENCE_PRECISION_HINT": _HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
        for rows, width in SHAPES:
            compiled = core.compile_model(product_chain(rows, width, precision), "CPU", hints)
            request = compiled.create_infer_request()
            inputs = [_random(rows, width)]
            trials.append(
                Trial(
                    precision,
                    f"openvino {version}, {rows} x {width} by {width} x {width}",
                    2 * rows * width * width * _CHAINED,
                    lambda request=request, inputs=inputs: request.infer(  # type: ignore[misc]
                        inputs, share_inputs=True
                    ),
                )
            )
    return trials


def product_chain(rows: int, width: int, precision: str) -> Any:
    """An OpenVINO model of products one after the other, each with a matrix of its own.

    Args:
        rows: Of the input ``(rows, width)``, FP32.
        width: Of input and matrices.
        precision: ``int8`` makes a quantised graph, as a calibrated model has it: weights in INT8
            with a scale, inputs quantised before each product. The others are left to the hint the
            model is compiled with.
    """
    import openvino
    from openvino import opset13 as ops

    parameter = ops.parameter([rows, width], np.float32)
    found = parameter
    for matrix in chained_matrices(width):
        if precision == "int8":
            low, high = np.float32(-4), np.float32(4 - 8 / 256)  # of inputs of unit variance
            found = ops.fake_quantize(found, low, high, low, high, 256)
            scale = np.float32(np.abs(matrix).max() / 127)
            rounded = ops.constant(np.rint(matrix / scale).astype(np.int8))
            weights = ops.multiply(ops.convert(rounded, np.float32), ops.constant(scale))
        else:
            weights = ops.constant(matrix)
        found = ops.matmul(found, weights, False, True)
    # One number per row: the last product's output need not be handed over.
    return openvino.Model([ops.reduce_max(found, np.array([1]))], [parameter], "products")


def chained_matrices(width: int) -> list[NDArray[np.float32]]:
    """Matrices of a chain, ``(width, width)`` float32 each; inputs keep their unit variance."""
    scale = np.float32(np.sqrt(width))
    return [_random(width, width, seed=1 + number) / scale for number in range(_CHAINED)]


def _torch_trials(cpu_flags: Sequence[str]) -> list[Trial]:
    """Single products, by whichever library PyTorch was built with."""
    if importlib.util.find_spec("torch") is None:
        return []
    import torch

    trials = []
    for precision, name in _TORCH_TYPES.items():
        if precision == "bf16" and not _BF16_FLAGS.intersection(cpu_flags):
            continue  # it would be computed in FP32
        for rows, width in SHAPES:
            pair = [
                torch.from_numpy(_random(*shape)).to(getattr(torch, name))
                for shape in ((rows, width), (width, width))
            ]
            out = torch.empty(rows, width, dtype=pair[0].dtype)
            trials.append(
                Trial(
                    precision,
                    f"torch {torch.__version__}, {rows} x {width} by {width} x {width}",
                    2 * rows * width * width,
                    lambda pair=pair, out=out: torch.mm(*pair, out=out),  # type: ignore[misc]
                )
            )
    return trials


def _copy_trial(pool: ThreadPoolExecutor, num_threads: int) -> Trial:
    """A copy by all cores, each a part of it."""
    source = np.ones(_COPY_BYTES, np.uint8)
    target = np.zeros_like(source)
    parts = list(
        zip(np.array_split(target, num_threads), np.array_split(source, num_threads), strict=True)
    )

    def run() -> None:
        for _ in pool.map(lambda part: np.copyto(*part), parts):
            pass

    return Trial("copy", f"numpy, {_COPY_BYTES >> 20} MiB", 2 * _COPY_BYTES, run)


def _random(rows: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
