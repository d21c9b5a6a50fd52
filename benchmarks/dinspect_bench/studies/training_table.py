"""The page of the study ``training``: durations extrapolated from what was measured, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dinspect_bench.machine.operations import backbone_operations, students_operations
from dinspect_bench.markdown import markdown_table, measured_on
from dinspect_bench.records import Record
from dinspect_export.geometry import grid_from_size
from dinspect_export.variants import variant_by_name

PAPER_HOURS = 2.361
"""Training time of a class of VisA at high resolution (L2BT, Table 10, "Ours")."""
VISA_TRAINING_IMAGES, VISA_CLASSES = 8659, 12
"""Of `split_csv/1cls.csv` in amazon-science/spot-diff, VisA's official one-class split."""
STUDENTS_TRAINING_PASSES = 8 / 3
"""Operations of a training step by those of the prediction alone: three layers' weight gradients
and two layers' input gradients come on top of three layers, for tokens need no gradient."""


@dataclass(frozen=True)
class ImageTimes:
    """What one image takes in training.

    Attributes:
        teacher_s: Its patch tokens, each time they are computed.
        students_s: Its share of a step of Adam.
    """

    teacher_s: float
    students_s: float

    def teacher_always_s(self, num_images: int, epochs: int) -> float:
        """A training whose teacher runs on every image of every epoch."""
        return num_images * epochs * (self.teacher_s + self.students_s)

    def teacher_once_s(self, num_images: int, epochs: int) -> float:
        """A training whose teacher runs once on every image."""
        return num_images * (self.teacher_s + epochs * self.students_s)


def format_training(records: Sequence[Record]) -> str:
    """The page, in Markdown.

    Args:
        records: As `training_study` measures them, one for each case.
    """
    return (
        "# Training L2BT: the teacher in every step, or once\n\n"
        f"{_introduction(records[0])}\n\n"
        + "\n".join(_case(record) for record in records)
        + f"\n{_formulas(records[0])}\n\n{_paper_section()}\n\n"
        f"Measured by `dinspect study training` on {measured_on(records)}\n"
    )


def _introduction(record: Record) -> str:
    batch = record["batch_images"]
    return (
        "Two ways to train the same students on the same images, on one machine:\n\n"
        f"- **the official code's loop**: the teacher in PyTorch {record['pytorch']} FP32 on every "
        f"batch of {batch} images of every epoch, the students in FP32, Adam. It is written anew "
        "on this project's networks; reading and preparing the images, which the official code "
        "does anew in every epoch, is left out, in its favour;\n"
        "- **ours**: patch tokens once per image through the served backbone "
        f"({record['runtime']}), one image at a time, decoding, gRPC and the FP16 cache on the "
        f"disk included; then steps of `train_students` on the cache, {batch} images each "
        f"({record['training_precision']}).\n\n"
        "The weights are random, for time does not depend on them, and the images are real solar "
        "cells made as large as the input; nothing here says anything of accuracy."
    )


def _case(record: Record) -> str:
    num_images, epochs, side = record["num_images"], record["epochs"], record["side_px"]
    official, ours = image_times(record)
    mixed_s = official.teacher_once_s(num_images, epochs)
    ours_s = ours.teacher_once_s(num_images, epochs)
    official_s = official.teacher_always_s(num_images, epochs)
    measured, computed = _parts(record, "official"), [f"{one:.3g}" for one in _both(official)]
    rows = [
        ["the official code's loop", *measured, *_whole_row(official_s, ours_s)],
        ["its times, but the teacher once", *computed, *_whole_row(mixed_s, ours_s)],
        ["ours", *_parts(record, "ours"), *_whole_row(ours_s, ours_s)],
    ]
    head = [
        "",
        "teacher, s per image",
        "students, s per image and epoch",
        f"{num_images} images, {epochs} epochs",
        "times ours",
    ]
    return (
        f"## {record['name']}: {num_images} images of {side} x {side}, {record['variant_name']}\n\n"
        + markdown_table(head, rows)
        + f"\n{_measured_remark(record)} By operations alone, on any machine, the official loop "
        f"takes {operations_ratio(record):.1f} times ours.\n\n{_whole_remark(record, ours_s)}\n"
    )


def image_times(record: Record) -> tuple[ImageTimes, ImageTimes]:
    """Medians over the rounds: of the official code's loop, and of ours."""
    official, ours = (
        ImageTimes(*(float(np.median(_values(record, name))) for name in names))
        for names in _NAMES.values()
    )
    return official, ours


_NAMES = {
    "official": ("official_teacher_s", "official_students_s"),
    "ours": ("served_teacher_s", "cached_students_s"),
}


def _values(record: Record, name: str) -> list[float]:
    return [one[name] for one in record["rounds"]]


def _both(times: ImageTimes) -> tuple[float, float]:
    return times.teacher_s, times.students_s


def _parts(record: Record, way: str) -> list[str]:
    """Cells: median of a part over the rounds, with the smallest and the largest."""
    cells = []
    for name in _NAMES[way]:
        values = _values(record, name)
        spread = f" ({min(values):.3g} to {max(values):.3g})" if len(values) > 1 else ""
        cells.append(f"{np.median(values):.3g}{spread}")
    return cells


def _whole_row(way_s: float, ours_s: float) -> list[str]:
    return [duration_text(way_s), f"{way_s / ours_s:.1f}"]


def duration_text(duration_s: float) -> str:
    """Hours from two on, minutes from two on, else seconds."""
    if duration_s >= 7200:
        return f"{duration_s / 3600:,.1f} h"
    return f"{duration_s / 60:.1f} min" if duration_s >= 120 else f"{duration_s:.1f} s"


def operations_ratio(record: Record) -> float:
    """Operations of the official code's loop by those of ours, counted from the shapes."""
    variant = variant_by_name(record["variant_name"])
    grid = grid_from_size(str(record["side_px"]), variant.patch_size)
    students = STUDENTS_TRAINING_PASSES * students_operations(variant.dim, grid).total
    teacher = backbone_operations(variant, grid, max(record["layers"])).total
    one = ImageTimes(teacher, students)  # a machine of one operation a second
    size = record["num_images"], record["epochs"]
    return one.teacher_always_s(*size) / one.teacher_once_s(*size)


def _measured_remark(record: Record) -> str:
    rounds = len(record["rounds"])
    measured = f"was {rounds} round" if rounds == 1 else f"were {rounds} rounds"
    brackets = "" if rounds == 1 else " (medians; smallest and largest in brackets)"
    return (
        f"Measured {measured} of one batch each way, in turn, after one that does not count"
        f"{brackets}; of ours the mean of {record['student_steps']} steps on the cache. **The "
        "durations are extrapolated from that**; the second row is computed from the first, and "
        "shows what caching alone would do. The tokens of the two ways differ by "
        f"{record['token_difference']:.1e} of their length, FP16 in the cache included."
    )


def _whole_remark(record: Record, ours_s: float) -> str:
    whole = record["whole"]
    if whole is None:
        return "No whole training of this size was run."
    whole_s = whole["tokens_s"] + whole["training_s"]
    official_s = image_times(record)[0].teacher_always_s(record["num_images"], record["epochs"])
    return (
        f"**Ours was also measured whole**: {duration_text(whole['tokens_s'])} for the tokens and "
        f"{duration_text(whole['training_s'])} for {whole['num_steps']:,} steps with a checkpoint "
        f"after each epoch, {duration_text(whole_s)} together, {100 * whole_s / ours_s:.0f} % of "
        f"what the formula says; the official code's loop, extrapolated, takes "
        f"{official_s / whole_s:.1f} times that. Export of the graph and publication are not "
        "counted, nor is the cross-fit, which is one more training."
    )


def _formulas(record: Record) -> str:
    return (
        "## How the durations come about\n\n"
        "With N images, E epochs, t and s the seconds of teacher and students per image:\n\n"
        "- official code's loop: N · E · (t + s);\n"
        "- teacher once: N · (t + E · s), its own t and s in each row."
    )


def _paper_section() -> str:
    each = VISA_TRAINING_IMAGES / VISA_CLASSES
    per_image_ms = 1e6 * 3.6 * PAPER_HOURS / (round(each) * 50)
    return (
        f"## The paper's {PAPER_HOURS} hours\n\n"
        f"L2BT's Table 10 gives {PAPER_HOURS} hours for a class of VisA at high resolution, on the "
        "authors' GPU (an RTX 4090). The official one-class split of VisA "
        "(amazon-science/spot-diff, split_csv/1cls.csv) has "
        f"{VISA_TRAINING_IMAGES:,} images to train on in {VISA_CLASSES} classes, {each:.0f} each "
        f"on average; over 50 epochs (Section IV-B.2) that is {per_image_ms:.0f} ms per image and "
        "epoch. Hours on another machine cannot be held against those, only the two ways against "
        "each other; and how much caching saves depends on what the teacher's share is there."
    )
