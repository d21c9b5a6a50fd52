"""Hold a runtime against PyTorch in FP32, on real images: the gate of every build."""

from __future__ import annotations

from collections.abc import Iterator
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
        self._answers = list(self._run(runner))
        self._inspections = self._inspect(self._answers)

    def prove(self, runner: Runner, tolerances: Tolerances) -> Proof:
        """Run the same pixels elsewhere and tell whether it is close enough."""
        agreement = self.compare(runner)
        return Proof(runner.name, asdict(agreement), agreement.failures(tolerances))

    def compare(self, runner: Runner) -> Agreement:
        """Run the same pixels elsewhere and tell how far it is off."""
        answers = list(self._run(runner))
        worst = max(
            max_cosine_distance(answer[name], expected[name])
            for answer, expected in zip(answers, self._answers, strict=True)
            for name in expected
        )
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

    def _run(self, runner: Runner) -> Iterator[Outputs]:
        indices = range(len(self.check.all))
        label = f"{runner.name} {self.size[0]}x{self.size[1]}"
        for index in tqdm(indices, desc=label, unit="image", leave=False, disable=None):
            yield runner.run({PIXELS: self._pixels(index)})

    def _pixels(self, index: int) -> NDArray[np.uint8]:
        return check_pixels(self.check.all[index], self.size)[None]

    def _inspect(self, answers: list[Outputs]) -> Inspections | None:
        enrolled = len(self.check.references)
        if not enrolled:
            return None
        last = max(answers[0], key=lambda name: int(name.rsplit("_", 1)[1]))
        tokens = np.concatenate([answer[last] for answer in answers])
        return inspect_tokens(tokens[:enrolled], tokens[enrolled:])
