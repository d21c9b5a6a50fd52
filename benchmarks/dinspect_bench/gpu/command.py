"""The command line of ``benchmarks/gpu_run.py``.

Started by a person it runs the steps; started by itself with ``--task`` it is one task of them.
Nothing heavy is imported before a task asks for it: on a bare machine it is not there yet.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from dinspect_bench.errors import BenchmarkError, StepSkipped
from dinspect_bench.gpu.scope import page_name, scope_of
from dinspect_bench.gpu.session import Folders, GpuRun, reason_of
from dinspect_bench.gpu.steps import (
    DONE,
    EXIT_STATUS,
    INCOMPLETE,
    SKIPPED,
    STEPS,
    TASKS,
    Outcome,
    Task,
    run_steps,
)
from dinspect_export.engine import TARGETS
from dinspect_export.gpu import visible_gpu

_STATUS_OF = {name: status for status, name in EXIT_STATUS.items()}
_FAILED_STATUS = 1


def main(script: Path, argv: Sequence[str] | None = None) -> int:
    """Run the steps, or one task.

    Args:
        script: The file that was started, which each task starts again.
        argv: Arguments; those of the process when None.

    Returns:
        0 when everything asked for is done or does not apply here and every runtime agrees with
        PyTorch, 1 when not, 2 for wrong use.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(given)
    try:
        run = _run_of(args)
    except BenchmarkError as error:
        sys.stderr.write(f"gpu_run.py: {error}\n")
        return error.exit_status
    if args.task:
        return _run_task(run, args)
    # So that the task that runs is ended with this process.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    outcomes = run_steps(
        run,
        [str(script), *given],
        steps=[*args.steps, "page"],
        again=args.again,
        limit_s=args.time_limit_s,
    )
    sys.stdout.write(f"{run.page}\n")
    return _exit_status(run, outcomes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpu_run.py",
        description="Parity, engines, latency and peaks of this machine's NVIDIA GPU, without a "
        "network; writes a page named after the GPU. Started again, it goes on where it was.",
    )
    parser.add_argument(
        "--wheels",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="folder of wheels to install, searched with all below; may be given several times; "
        "name.whl.part00, .part01 and so on are joined",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("docs/results"),
        metavar="DIR",
        help="folder of the page and its records (default: %(default)s)",
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("out/gpu_run"),
        metavar="DIR",
        help="folder of graphs, engines and installed wheels (default: %(default)s)",
    )
    parser.add_argument(
        "--device",
        choices=("cuda", "cpu"),
        default="cuda",
        help="cpu tries the script as far as it goes without a GPU (default: %(default)s)",
    )
    parser.add_argument(
        "--steps",
        type=_steps,
        default=list(STEPS),
        metavar="STEP,...",
        help=f"steps to run, of {','.join(STEPS)} (default: all); the page is written in any case",
    )
    parser.add_argument(
        "--again",
        type=_steps,
        default=[],
        metavar="STEP,...",
        help="steps to run although they are done; rows that were measured are kept",
    )
    parser.add_argument(
        "--time-limit-s",
        type=float,
        default=1200.0,
        metavar="SECONDS",
        help="for all steps together; what is left is done by the next start (default: 1200)",
    )
    parser.add_argument("--quick", action="store_true", help="a small choice, to try it out")
    parser.add_argument(
        "--task", choices=[task.name for task in TASKS], default="", help=argparse.SUPPRESS
    )
    return parser


def _steps(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in STEPS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"no step {', '.join(unknown)}; there are {', '.join(STEPS)}"
        )
    return names


def _run_of(args: argparse.Namespace) -> GpuRun:
    gpu = visible_gpu()
    if args.device == "cuda" and gpu is None:
        raise BenchmarkError(
            "nvidia-smi shows no NVIDIA GPU here; with --device cpu the script is tried as far as "
            "a CPU goes"
        )
    scope = scope_of(args.device, quick=args.quick)
    return GpuRun(scope, Folders(args.work), args.output / page_name(scope, gpu))


def _exit_status(run: GpuRun, outcomes: Sequence[tuple[Task, Outcome]]) -> int:
    """A step that does not apply here is no failure; one that had no time, or disagreed, is."""
    undone = [one for _, one in outcomes if one.status not in (DONE, SKIPPED)]
    wrong = [record for record in run.all("parity") if not record["kept"]]
    return 1 if undone or wrong else 0


def _run_task(run: GpuRun, args: argparse.Namespace) -> int:
    """One task, in a process of its own; why it is not done is the last line of its output."""
    from dinspect_export.threads import share_the_processor

    share_the_processor()
    try:
        _work(run, args)
    except StepSkipped as skipped:
        return _ended(_STATUS_OF[SKIPPED], reason_of(skipped))
    except Exception as error:  # the parent reports it, and the other steps go on
        return _ended(_FAILED_STATUS, reason_of(error))
    if run.failed:
        rows = "1 row is" if run.failed == 1 else f"{run.failed} rows are"
        return _ended(_STATUS_OF[INCOMPLETE], f"{rows} missing; see below")
    return 0


def _ended(status: int, reason: str) -> int:
    sys.stdout.write(json.dumps({"reason": reason}) + "\n")
    return status


def _work(run: GpuRun, args: argparse.Namespace) -> None:
    step, _, part = args.task.partition(" ")
    if step == "install":
        from dinspect_bench.gpu.wheels import install_wheels

        if not args.wheels:
            raise StepSkipped("no folder of wheels was given")
        install_wheels(run, args.wheels)
    elif step == "parity":
        from dinspect_bench.gpu.parity import check_parity

        check_parity(run)
    elif step == "engines":
        module = TARGETS[part]
        if importlib.util.find_spec(module) is None:
            raise StepSkipped(f"{module.replace('_', '-')} is not installed")
        from dinspect_bench.gpu.engines import build_engines

        build_engines(run, part)
    elif step == "latency":
        from dinspect_bench.gpu.latency import measure_part

        for name in part.split(","):
            measure_part(run, name)
    elif step == "peak":
        from dinspect_bench.gpu.peak import measure_peaks

        measure_peaks(run)
    elif step == "served":
        from dinspect_bench.gpu.served import measure_served

        measure_served(run)
    else:
        from dinspect_bench.gpu.page import write_page

        write_page(run)
