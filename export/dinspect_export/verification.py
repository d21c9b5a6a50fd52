"""Hold a runtime against PyTorch in FP32, on real images: the gate of every build."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dinspect_export.check_images import CheckImages, check_pixels
from dinspect_export.parity import (
    Inspections,
    inspect_tokens,
    max_cosine_distance,
    max_score_change,
    verdict_flips,
)
from dinspect_export.proof import Proof
from dinspect_export.recipes import Tolerances
from dinspect_export.runtimes import PIXELS, Outputs, Runner


@dataclass(frozen=True)
class Agreement:
    """How close a run came to PyTorch in FP32 on the same pixels.

    Attributes:
        runtime: What ran, e.g. ``onnxruntime``.
        images: Images whose patch tokens were compared, references included.
        min_patch_cosine: Smallest cosine similarity of any patch token, over all taps and images.
        max_score_change: Largest relative change of an image score; None without references.
        verdict_flips: Images that changed sides of the threshold; None without references.
    """

    runtime: str
    images: int
    min_patch_cosine: float
    max_score_change: float | None
    verdict_flips: int | None

    def failures(self, tolerances: Tolerances) -> list[str]:
        """In words, each tolerance that is not kept; empty when all are."""
        failed = []
        if not self.min_patch_cosine >= tolerances.min_patch_cosine:
            failed.append(
                f"the worst patch has a cosine of {self.min_patch_cosine:.6f} to PyTorch, required "
                f"is {tolerances.min_patch_cosine:.6f}"
            )
        if self.max_score_change is not None and not (
            self.max_score_change <= tolerances.max_score_change
        ):
            failed.append(
                f"an image score changes by {self.max_score_change:.2%}, allowed is "
                f"{tolerances.max_score_change:.2%}"
            )
        if (self.verdict_flips or 0) > tolerances.max_verdict_flips:
            failed.append(
                f"{self.verdict_flips} verdicts flip, allowed are {tolerances.max_verdict_flips}"
            )
        return failed


class Reference:
    """PyTorch's answer to the check images at one input size.

    Args:
        runner: PyTorch in FP32.
        check: The images.
        size: Height and width of the backbone's input in pixels.
    """

    def __init__(self, runner: Runner, check: CheckImages, size: tuple[int, int]) -> None:
        self.check = check
        self.size = size
        self._answers = list(self._run(runner))  # one at a time: no image can touch another
        self._inspections = self._inspect(self._answers)

    def prove(self, runner: Runner, tolerances: Tolerances, batches: Sequence[int] = (1,)) -> Proof:
        """Run the same pixels elsewhere and tell whether it is close enough.

        Args:
            runner: What runs them; closed afterwards.
            tolerances: What is close enough.
            batches: Batch sizes to run all images in, each.
        """
        with contextlib.closing(runner):
            agreements = [self.compare(runner, batch) for batch in batches]
        failures = [
            f"in batches of {batch}, {failure}" if len(batches) > 1 else failure
            for batch, agreement in zip(batches, agreements, strict=True)
            for failure in agreement.failures(tolerances)
        ]
        return Proof(runner.name, asdict(_worst(agreements)), failures)

    def compare(self, runner: Runner, batch: int = 1) -> Agreement:
        """Run the same pixels elsewhere, in batches of one size, and tell how far it is off."""
        answers = list(self._run(runner, batch))
        if list(map(_shapes, answers)) != list(map(_shapes, self._answers)):
            return Agreement(runner.name, len(answers), -1.0, None, None)
        worst = max(
            max_cosine_distance(answer[name], expected[name])
            for answer, expected in zip(answers, self._answers, strict=True)
            for name in expected
        )
        worst = min(worst, 2.0)  # opposite is the worst there is, and infinity is no JSON
        found, expected_inspections = self._inspect(answers), self._inspections
        if found is None or expected_inspections is None:
            return Agreement(runner.name, len(answers), 1.0 - worst, None, None)
        return Agreement(
            runner.name,
            len(answers),
            1.0 - worst,
            max_score_change(found, expected_inspections),
            verdict_flips(found, expected_inspections),
        )

    def known_answer(self) -> dict[str, NDArray[Any]]:
        """The first image to inspect with PyTorch's tokens, as a server checks itself on it."""
        index = len(self.check.references)
        return {PIXELS: self._pixels(index), **self._answers[index]}

    def _run(self, runner: Runner, batch: int = 1) -> Iterator[Outputs]:
        """Answers image by image; a last batch that is not full is filled from the beginning."""
        count = len(self.check.all)
        label = f"{runner.name} {self.size[0]}x{self.size[1]}"
        starts = range(0, count, batch)
        for start in tqdm(starts, desc=label, unit="batch", leave=False, disable=None):
            indices = [index % count for index in range(start, start + batch)]
            outputs = runner.run({PIXELS: np.concatenate([self._pixels(i) for i in indices])})
            for item in range(min(batch, count - start)):
                yield {name: tokens[item : item + 1] for name, tokens in outputs.items()}

    def _pixels(self, index: int) -> NDArray[np.uint8]:
        return check_pixels(self.check.all[index], self.size)[None]

    def _inspect(self, answers: list[Outputs]) -> Inspections | None:
        enrolled = len(self.check.references)
        if not enrolled:
            return None
        last = max(answers[0], key=lambda name: int(name.rsplit("_", 1)[1]))
        tokens = np.concatenate([answer[last] for answer in answers])
        return inspect_tokens(tokens[:enrolled], tokens[enrolled:])


def _shapes(answer: Outputs) -> dict[str, tuple[int, ...]]:
    return {name: tokens.shape for name, tokens in answer.items()}


def _worst(agreements: Sequence[Agreement]) -> Agreement:
    """The worst of every figure."""
    changes = [a.max_score_change for a in agreements if a.max_score_change is not None]
    flips = [a.verdict_flips for a in agreements if a.verdict_flips is not None]
    return Agreement(
        agreements[0].runtime,
        agreements[0].images,
        min(agreement.min_patch_cosine for agreement in agreements),
        max(changes) if changes else None,
        max(flips) if flips else None,
    )
