"""How far a job is: numbered stages with the seconds each took, and bars."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from tqdm import tqdm


class Stages:
    """Announces the stages of a long job and records how long each took.

    Args:
        total: Number of stages to come.
        stream: Where to write; standard error when None.
        clock_s: Monotonic clock in seconds.

    Attributes:
        seconds: Stage name to duration, of the stages that finished.
    """

    def __init__(
        self,
        total: int,
        stream: TextIO | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds: dict[str, float] = {}
        self._total = total
        self._number = 0
        self._stream = sys.stderr if stream is None else stream
        self._clock_s = clock_s

    @contextlib.contextmanager
    def stage(self, name: str, description: str) -> Iterator[None]:
        """Announce a stage, run it, say how long it took; a stage that fails is not recorded.

        Args:
            name: Key in `seconds`.
            description: What happens, for a person.
        """
        self._number += 1
        self._write(f"[{self._number}/{self._total}] {description}\n")
        started_s = self._clock_s()
        yield
        self.seconds[name] = round(self._clock_s() - started_s, 2)
        self._write(f"      {name} took {self.seconds[name]:.1f} s\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


@contextlib.contextmanager
def stage_bar(stage: str, num_steps: int) -> Iterator[Callable[[int], object]]:
    """A bar of a training's stage, as `train_product` asks for them.

    Args:
        stage: What is going on.
        num_steps: Images to come; 0 for a stage that tells percent.

    Returns:
        What is told how many of them are done.
    """
    total, unit = (num_steps, "image") if num_steps else (100, "%")
    with tqdm(total=total, desc=stage, unit=unit, leave=False, disable=None) as bar:
        yield lambda done: bar.update(done - bar.n)
