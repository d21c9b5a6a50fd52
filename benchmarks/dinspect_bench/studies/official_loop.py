"""The official code's training loop, timed: the teacher on every batch of every epoch, all in FP32.

Written from what `A_train_VisA.py` of alex-costanzino/L2BT does, on this project's own networks;
what it logs to a website is left out, and so are reading and preparing the images, which it does
anew in every epoch.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dinspect_export.backbone import ExportableBackbone
from dinspect_export.students import StudentPair

LEARNING_RATE = 1e-4
_SHORTEST_LENGTH = 1e-6


@dataclass(frozen=True)
class OfficialStep:
    """One step of Adam.

    Attributes:
        teacher_s: Patch tokens of the batch.
        students_s: Prediction, loss, gradients and Adam.
        loss: Before the step, about 2 at the beginning.
    """

    teacher_s: float
    students_s: float
    loss: float


class OfficialLoop:
    """Teacher, students and Adam.

    Args:
        teacher: The frozen backbone with its two tapped blocks.
        students: What learns; trained in place.
    """

    def __init__(self, teacher: ExportableBackbone, students: StudentPair) -> None:
        self._teacher = teacher.eval()
        self._students = students.train()
        self._adam = torch.optim.Adam(students.parameters(), lr=LEARNING_RATE)

    def tokens(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Have the teacher compute patch tokens.

        Args:
            pixels: ``(B, H, W, 3)`` uint8, RGB.

        Returns:
            ``(B, N, D)`` float32 of block j and of block k.
        """
        with torch.no_grad():
            tokens_j, tokens_k = self._teacher(pixels)
        return tokens_j, tokens_k

    def step(self, pixels: Tensor) -> OfficialStep:
        """Learn from a batch as the official code does.

        Args:
            pixels: As `tokens` takes them.
        """
        started_s = time.perf_counter()
        tokens_j, tokens_k = self.tokens(pixels)
        computed_s = time.perf_counter()
        loss = _loss(self._students.forward_student(tokens_j), tokens_k) + _loss(
            self._students.backward_student(tokens_k), tokens_j
        )
        found = loss.item()
        self._adam.zero_grad()
        loss.backward()
        self._adam.step()
        return OfficialStep(computed_s - started_s, time.perf_counter() - computed_s, found)


def _loss(predicted: Tensor, actual: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(predicted, actual, dim=-1, eps=_SHORTEST_LENGTH).mean()
