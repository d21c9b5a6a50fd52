"""Training with the teacher in every step and once: the two loops, the formulas and the page."""

from __future__ import annotations

from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dinspect_bench.errors import BenchmarkError
from dinspect_bench.studies import training as training_study
from dinspect_bench.studies.official_loop import OfficialLoop, OfficialStep
from dinspect_bench.studies.training import CASES, run_training_study
from dinspect_bench.studies.training_table import (
    STUDENTS_TRAINING_PASSES,
    VISA_CLASSES,
    VISA_TRAINING_IMAGES,
    ImageTimes,
    duration_text,
    format_training,
    image_times,
    operations_ratio,
)
from dinspect_export.students import StudentPair
from dinspect_export.token_cache import TokenCache, TokenCacheKey
from dinspect_export.training import TrainingOptions, initial_students, train_students
from dinspect_export.variants import VARIANTS

SMALL = replace(VARIANTS["dinov2_vits14"], dim=8)
LAYERS = (8, 12)


class Teacher(nn.Module):
    """Knows its tokens beforehand and counts how often it is asked."""

    def __init__(self, tokens):
        super().__init__()
        self.known = tokens
        self.num_calls = 0

    def forward(self, pixels):
        self.num_calls += 1
        return self.known


@pytest.fixture
def tokens():
    """Of four images of six patches, numbers that FP16 holds."""
    return tuple(
        torch.from_numpy(np.random.default_rng(0).normal(size=(2, 4, 6, 8))).half().float()
    )


@pytest.fixture
def cache(tmp_path, tokens):
    key = TokenCacheKey(("a", "b", "c", "d"), "e", LAYERS, 6, 8)
    cache = TokenCache.open(tmp_path / "tokens", key, 1 << 20)
    for index in range(4):
        cache.put(index, *(block[index] for block in tokens))
    return cache


def test_official_loop_learns_what_training_on_the_cache_learns(tokens, cache):
    teacher = Teacher(tokens)
    official = OfficialLoop(teacher, initial_students(8, seed=3))
    losses = [official.step(torch.zeros(4, 2, 2, 3, dtype=torch.uint8)).loss for _ in range(5)]
    ours = []
    train_students(
        cache, range(4), SMALL, LAYERS, TrainingOptions(epochs=5, seed=3),
        on_step=lambda step, num_steps, loss: ours.append(loss),
    )  # fmt: skip
    assert losses == pytest.approx(ours, abs=1e-6)
    assert losses[-1] < losses[0]
    assert teacher.num_calls == 5


def test_official_step_times_teacher_and_students_apart(monkeypatch, tokens):
    ticks = iter([10.0, 17.0, 19.5])
    monkeypatch.setattr(
        "dinspect_bench.studies.official_loop.time",
        SimpleNamespace(perf_counter=lambda: next(ticks)),
    )
    step = OfficialLoop(Teacher(tokens), initial_students(8, 0)).step(torch.zeros(4, 2, 2, 3))
    assert (step.teacher_s, step.students_s) == (7.0, 2.5)


def test_durations_by_the_formulas():
    times = ImageTimes(teacher_s=3.0, students_s=0.5)
    assert times.teacher_always_s(num_images=10, epochs=4) == 10 * 4 * 3.5
    assert times.teacher_once_s(num_images=10, epochs=4) == 10 * (3.0 + 4 * 0.5)


def test_training_step_takes_the_operations_that_pytorch_counts():
    pair, given = StudentPair(8), torch.randn(4, 8)
    with FlopCounterMode(display=False) as forward:
        loss = pair.forward_student(given).sum()
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    both = forward.get_total_flops() + backward.get_total_flops()
    assert both == pytest.approx(STUDENTS_TRAINING_PASSES * forward.get_total_flops())


def measured(name, rounds, whole=None):
    return asdict(CASES[name]) | {
        "rounds": [
            dict(zip(("official_teacher_s", "official_students_s", "served_teacher_s",
                      "cached_students_s"), values, strict=True))
            for values in rounds
        ],
        "whole": whole, "token_difference": 2.5e-4, "layers": list(LAYERS), "batch_images": 4, "student_steps": 3,
        "runtime": "openvino fp32", "training_precision": "bf16", "pytorch": "2.13.0",
    }  # fmt: skip


VISA = measured("visa", [(10, 1, 6, 0.3), (12, 1.5, 8, 0.5), (11, 1.25, 7, 0.4)])
DEMO = measured(
    "demo", [(0.5, 0.05, 0.25, 0.02)], {"tokens_s": 8.5, "training_s": 35.5, "num_steps": 400}
)


def rows(page, first):
    """Cells of the rows that begin with a text."""
    lines = [line for line in page.splitlines() if line.startswith(f"| {first} |")]
    return [[cell.strip() for cell in line.strip("|").split("|")][1:] for line in lines]


def test_times_are_medians_over_the_rounds():
    assert image_times(VISA) == (ImageTimes(11, 1.25), ImageTimes(7, 0.4))


def test_page_has_each_way_its_extrapolated_duration_and_the_ratio():
    page = format_training([VISA, DEMO])
    (visa, demo) = rows(page, "the official code's loop")
    # 722 * 50 * 12.25 s against 722 * (7 + 50 * 0.4) s
    assert visa == ["11 (10 to 12)", "1.25 (1 to 1.5)", "122.8 h", "22.7"]
    assert demo == ["0.5", "0.05", "14.7 min", "22.0"]
    # 722 * (11 + 50 * 1.25) s
    assert rows(page, "its times, but the teacher once")[0] == ["11", "1.25", "14.7 h", "2.7"]
    assert rows(page, "ours") == [
        ["7 (6 to 8)", "0.4 (0.3 to 0.5)", "5.4 h", "1.0"],
        ["0.25", "0.02", "40.0 s", "1.0"],
    ]
    assert "## A class of VisA's size: 722 images of 1036 x 1036, dinov2_vitb14" in page
    assert page.count("**The durations are extrapolated from that**") == 2
    assert "differ by 2.5e-04 of their length" in page
    assert "of ours the mean of 3 steps on the cache" in page


def test_page_tells_a_whole_training_from_an_extrapolated_one():
    visa, demo = format_training([VISA]), format_training([DEMO])
    assert "No whole training of this size was run." in visa
    assert "**Ours was also measured whole**" not in visa
    assert "8.5 s for the tokens and 35.5 s for 400 steps" in demo
    assert "44.0 s together, 110 % of what the formula says" in demo
    assert "extrapolated, takes 20.0 times that" in demo


def test_page_says_where_the_number_of_images_comes_from():
    page = format_training([VISA])
    assert round(VISA_TRAINING_IMAGES / VISA_CLASSES) == CASES["visa"].num_images
    assert "8,659 images to train on in 12 classes, 722 each" in page
    assert "2.361 hours" in page
    assert "235 ms per image and epoch" in page  # 2.361 * 3600 / (722 * 50) s
    assert "Measured by `dinspect study training` on " in page


def test_operations_alone_give_a_ratio_of_their_own():
    # ViT-B/14 at 1036: 2041.1 GFLOP the teacher, 38.8 both students' prediction.
    teacher, students = 2041.1, 38.8 * 8 / 3
    expected = 50 * (teacher + students) / (teacher + 50 * students)
    assert operations_ratio(VISA) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [(9.94, "9.9 s"), (119.9, "119.9 s"), (120, "2.0 min"), (7199, "120.0 min"), (7200, "2.0 h"),
     (3600 * 1234.5, "1,234.5 h")],
)  # fmt: skip
def test_durations_are_readable(duration_s, text):
    assert duration_text(duration_s) == text


def ours_that(case, **does):
    return SimpleNamespace(case=case, **does)


def test_round_tells_seconds_per_image():
    asked = []
    report = SimpleNamespace(duration_s=6.0, num_steps=3)
    ours = ours_that(
        CASES["demo"],
        fill=lambda batch: asked.append(list(batch)) or 10.0,
        train=lambda batch, epochs: asked.append((list(batch), epochs)) or report,
    )
    official = SimpleNamespace(step=lambda pixels: OfficialStep(20.0, 2.0, 1.9))
    assert training_study._round(official, torch.zeros(4, 2, 2, 3), ours) == {
        "official_teacher_s": 5.0, "official_students_s": 0.5, "served_teacher_s": 2.5,
        "cached_students_s": 0.5,
    }  # fmt: skip
    assert asked == [[0, 1, 2, 3], ([0, 1, 2, 3], 3)]


def test_whole_training_takes_every_image_and_epoch_with_checkpoints(monkeypatch, tmp_path):
    asked = []
    ticks = iter([100.0, 131.5])
    monkeypatch.setattr(training_study, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    ours = ours_that(
        CASES["demo"],
        fill=lambda images: asked.append(images) or 8.5,
        train=lambda *arguments: asked.append(arguments) or SimpleNamespace(num_steps=400),
    )
    found = training_study._whole(ours, tmp_path)
    assert found == {"tokens_s": 8.5, "training_s": 31.5, "num_steps": 400}
    assert asked == [range(32), (range(32), 50, tmp_path / "students.safetensors")]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("quick", "r w r"), ("demo", "r r r r r r w r r r r r"), ("visa", "r r r r")],
)
def test_both_ways_take_turns_after_a_round_that_does_not_count(
    monkeypatch, tmp_path, name, expected
):
    case = replace(CASES[name], side_px=28)
    images = [tmp_path / f"{index}.png" for index in range(4)]
    for image in images:
        Image.new("RGB", (28, 28), "grey").save(image)
    order = []

    def one_round(official, pixels, ours):
        assert (pixels.shape, pixels.dtype) == ((4, 28, 28, 3), torch.uint8)
        order.append("r")
        return {"number": len(order)}

    monkeypatch.setattr(training_study, "_round", one_round)
    monkeypatch.setattr(training_study, "_whole", lambda *_: order.append("w") or {})
    monkeypatch.setattr(training_study, "_token_difference", lambda *_: 0.001)
    ours = ours_that(case, images=images, cache=None)
    found = training_study._both_ways(None, ours, tmp_path)
    assert " ".join(order) == expected
    assert found["rounds"][0]["number"] > 1
    assert len(found["rounds"]) == case.num_rounds
    assert (found["whole"] is None) == (name == "visa")


def test_tokens_of_the_two_ways_are_compared_at_both_blocks(tokens, cache):
    first = [block[:1] for block in tokens]
    known = SimpleNamespace(tokens=lambda pixels: first)
    assert training_study._token_difference(known, None, cache) == 0.0
    near = SimpleNamespace(tokens=lambda pixels: [first[0], first[1] / 1.01])
    assert training_study._token_difference(near, None, cache) == pytest.approx(0.01)
    swapped = SimpleNamespace(tokens=lambda pixels: first[::-1])
    with pytest.raises(BenchmarkError, match="would not train the same"):
        training_study._token_difference(swapped, None, cache)


def test_killed_study_goes_on_with_the_case_that_is_missing(monkeypatch, tmp_path):
    asked = []

    def measure(case, folder):
        asked.append(case.name)
        if asked.count(CASES["demo"].name) == 1:
            raise RuntimeError("killed")
        return {"visa": VISA, "demo": DEMO}[{c.name: key for key, c in CASES.items()}[case.name]]

    monkeypatch.setattr(training_study, "_measure", measure)
    with pytest.raises(RuntimeError, match="killed"):
        run_training_study(tmp_path / "page.md")
    assert not (tmp_path / "page.md").exists()
    page = run_training_study(tmp_path / "page.md")
    assert asked == [CASES[name].name for name in ("visa", "demo", "demo")]
    assert run_training_study(tmp_path / "page.md") == page == (tmp_path / "page.md").read_text()
    assert len(asked) == 3
