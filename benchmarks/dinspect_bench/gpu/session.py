"""One run: where it keeps its things, and its rows, each recorded as soon as it is measured."""

from __future__ import annotations

import re
import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

from dinspect_bench.errors import DeviceLostError, MissingDependencyError
from dinspect_bench.gpu.packages import installed_versions
from dinspect_bench.gpu.scope import Scope
from dinspect_bench.records import Record, RecordFile
from dinspect_export.errors import MissingDependencyError as ExportDependencyError
from dinspect_export.errors import RuntimeUnavailableError

NOT_RUN = "not_run"
NOT_THERE = (MissingDependencyError, ExportDependencyError, RuntimeUnavailableError)
_PATH = re.compile(r"(?<![\w.:/])(?:/[\w.@+~=-]+)+/([\w.@+~=-]+)")
_LONGEST_REASON = 600
# What PyTorch and CuPy say when the GPU itself has given up. Memory that ran out is no such case,
# nor is an engine that TensorRT refuses to build, whatever CUDA told it.
_LOST = re.compile(r"CUDA error|cudaError(?!MemoryAllocation)|CUDA_ERROR(?!_OUT_OF_MEMORY)")


@dataclass(frozen=True)
class Folders:
    """Where a run keeps what it makes.

    Attributes:
        work: Graphs, engines, installed wheels; may stay for the next run.
    """

    work: Path

    @property
    def identity(self) -> str:
        """Random name of the folder's content: what another machine made lies elsewhere."""
        file = self.work / "identity"
        if not file.is_file():
            self.work.mkdir(parents=True, exist_ok=True)
            file.write_text(secrets.token_hex(8), encoding="utf-8")
        return file.read_text(encoding="utf-8")

    @property
    def site(self) -> Path:
        """Installed wheels."""
        return self.work / "site"

    @property
    def server_environment(self) -> Path:
        """Virtual environment of the embedded server, which wants packages of its own versions."""
        return self.work / "server"

    @property
    def server_site(self) -> Path:
        """Where the packages of that environment lie."""
        python = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.server_environment / "lib" / python / "site-packages"

    @property
    def triton(self) -> Path:
        """The unpacked embedded server."""
        return self.work / "triton"

    @property
    def joined_wheels(self) -> Path:
        """Wheels that came in pieces."""
        return self.work / "wheels"


class GpuRun:
    """What all steps share.

    Args:
        scope: What is measured.
        folders: Where things are kept.
        page: The page; its records lie beside it, with the ending ``.jsonl``.

    Attributes:
        failed: Rows of this process that raised an error.
    """

    def __init__(self, scope: Scope, folders: Folders, page: Path) -> None:
        self.scope = scope
        self.folders = folders
        self.page = page
        self.records = RecordFile(page.with_suffix(".jsonl"))
        self.failed = 0

    def append(self, kind: str, **facts: Any) -> None:
        """Add a record of a kind; ``versions`` are this process's unless the facts have some."""
        self.records.append(
            {
                "record": kind,
                "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "quick": self.scope.quick,
                "versions": installed_versions(),
                **facts,
                "environment": _environment(),
            }
        )

    def find(self, kind: str, **key: Any) -> Record | None:
        """The last record of a kind with the values of a key."""
        return self.records.find(record=kind, quick=self.scope.quick, **key)

    def all(self, kind: str) -> list[Record]:
        """All records of a kind, oldest first."""
        wanted = (kind, self.scope.quick)
        return [one for one in self.records.read() if (one["record"], one["quick"]) == wanted]

    def row(
        self,
        kind: str,
        key: Mapping[str, Any],
        measure: Callable[[], Mapping[str, Any]],
        *,
        again: bool = False,
    ) -> None:
        """Measure a row unless its record is there; what fails is recorded and the rest goes on.

        A runtime that is not there is no failure, and is recorded too.

        Args:
            kind: Kind of record.
            key: What tells the row from others.
            measure: Gives the row's figures.
            again: Measure it although its record is there.

        Raises:
            DeviceLostError: If the GPU has given up, so that no further row can be measured here.
        """
        if not again and self.find(kind, **key) is not None:
            return
        sys.stderr.write(f"  {kind}: {label_of(key)}\n")
        try:
            figures = measure()
        except NOT_THERE as error:
            self.not_run(kind, key, reason_of(error))
        except Exception as error:  # whatever it is, the other rows can still be measured
            self.failed += 1
            self.not_run(kind, key, reason_of(error))
            if not _is_own(error) and _LOST.search(str(error)):
                raise DeviceLostError(reason_of(error)) from error
            _free_memory()
        else:
            self.append(kind, **key, **figures)

    def not_run(self, kind: str, key: Mapping[str, Any], reason: str) -> None:
        """Record why a row has no figures, unless its last record says the same."""
        row = {"of": kind, **key}
        last, told = self.find(NOT_RUN, **row), without_paths(reason)
        if last is None or last["reason"] != told:
            self.append(NOT_RUN, **row, reason=told)
        sys.stderr.write(f"  not run: {label_of(key)}: {reason}\n")


def label_of(key: Mapping[str, Any]) -> str:
    """A row's settings in one line, without those that do not apply."""
    return ", ".join(f"{name} {value}" for name, value in key.items() if value is not None)


def reason_of(error: BaseException) -> str:
    """An error in one line, as a published page may show it."""
    text = " ".join(str(error).split())
    return without_paths(text if _is_own(error) and text else f"{type(error).__name__}: {text}")


def _is_own(error: BaseException) -> bool:
    """Whether the project raised it on purpose, with words of its own."""
    return type(error).__module__.startswith("dinspect_")


def without_paths(text: str) -> str:
    """A text in which each absolute path is cut to its last part, and which is not too long.

    >>> without_paths("cannot parse /home/me/build/model.onnx: at 3 ms/image")
    'cannot parse model.onnx: at 3 ms/image'
    """
    short = _PATH.sub(r"\1", text)
    return short if len(short) <= _LONGEST_REASON else short[: _LONGEST_REASON - 1] + "…"


@lru_cache(maxsize=1)
def _environment() -> dict[str, Any] | None:
    """The environment; None before the packages that tell it are installed."""
    try:
        from dinspect_bench.machine.environment import describe_environment
    except ModuleNotFoundError:
        return None
    return describe_environment()


def _free_memory() -> None:
    """Give back what the failed row left on the GPU."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
