"""Students learn what the slow reference learns, to the same bytes however often they are killed."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from random_networks import tiny
from reference import l2bt_reference as reference
from small_trainings import (
    LAYERS,
    OPTIONS,
    VARIANT,
    float64,
    make_cache,
    numbers_of,
    same,
    tokens_float64,
    train,
    weights,
)

from dinspect_export import training
from dinspect_export.cross_fit import measure_distances
from dinspect_export.errors import (
    TrainingDivergedError,
    TrainingError,
)
from dinspect_export.students import StudentPair
from dinspect_export.token_cache import TokenCache
from dinspect_export.training import (
    TrainingOptions,
    cosine_loss,
    epoch_batches,
    initial_students,
    train_students,
)

pytestmark = pytest.mark.usefixtures("one_thread")


# What is learnt


def test_first_loss_is_equation_2_of_the_first_batch(cache):
    pair = initial_students(4, OPTIONS.seed)
    batch = epoch_batches((0, 1, 2), OPTIONS, 0)[0]
    expected = reference.training_loss(
        *tokens_float64(cache, batch), float64(pair.forward_student), float64(pair.backward_student)
    )
    losses = []
    _, report = train(cache, on_step=lambda step, num_steps, loss: losses.append(loss))
    assert report.first_loss == losses[0] == pytest.approx(expected, abs=1e-4)


def test_weights_are_those_of_the_reference(cache):
    """Six steps, three of them with the last image alone, against differences of the loss."""
    students, _ = train(cache)
    pair = initial_students(4, OPTIONS.seed)
    forward, backward = float64(pair.forward_student), float64(pair.backward_student)
    batches = [
        tokens_float64(cache, batch)
        for epoch in range(OPTIONS.epochs)
        for batch in epoch_batches((0, 1, 2), OPTIONS, epoch)
    ]
    reference.train(batches, forward, backward, OPTIONS.learning_rate)
    for student, expected in (
        (students.pair.forward_student, forward),
        (students.pair.backward_student, backward),
    ):
        for name, tensor in student.state_dict().items():
            np.testing.assert_allclose(tensor.numpy(), expected[name], atol=1e-5, err_msg=name)


def test_portions_of_a_batch_learn_what_the_batch_does(cache, monkeypatch):
    options = dataclasses.replace(OPTIONS, batch_images=3)
    whole, whole_report = train(cache, options)
    monkeypatch.setattr(training, "_PATCHES_AT_ONCE", 12)  # two images and then one
    parts, parts_report = train(cache, options)
    assert parts_report.final_loss == pytest.approx(whole_report.final_loss, abs=1e-6)
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], tensor, rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [1.0, 1e-3, 1e-7, 0.0])
def test_loss_of_short_tokens_equals_pytorchs(length):
    generator = torch.Generator().manual_seed(0)
    predicted, actual = (torch.randn(2, 5, 4, generator=generator) for _ in range(2))
    similarity = torch.nn.CosineSimilarity(dim=-1, eps=1e-6)
    for a, b in ((predicted * length, actual), (predicted, actual * length)):
        expected = 1 - similarity(a, b).mean()
        torch.testing.assert_close(cosine_loss(a, b), expected, rtol=0, atol=1e-6)


def test_loss_of_a_zero_prediction_has_gradients_that_are_numbers():
    predicted = torch.zeros(1, 2, 4, requires_grad=True)
    cosine_loss(predicted, torch.ones(1, 2, 4)).backward()
    assert predicted.grad is not None
    assert predicted.grad.isfinite().all()


def test_students_begin_as_pytorch_initialises_linear_layers():
    with torch.random.fork_rng():
        torch.manual_seed(7)
        expected = StudentPair(32).state_dict()
    for name, tensor in initial_students(32, 7).state_dict().items():
        torch.testing.assert_close(tensor, expected[name], msg=name)


def test_each_epoch_takes_every_image_once_in_an_order_of_its_own():
    indices = (3, 5, 6, 8, 9)
    epochs = [epoch_batches(indices, OPTIONS, epoch) for epoch in range(4)]
    assert [[len(batch) for batch in batches] for batches in epochs] == [[2, 2, 1]] * 4
    assert all(sorted(sum(batches, ())) == list(indices) for batches in epochs)
    assert len({tuple(batches) for batches in epochs}) == 4
    assert epochs[1] == epoch_batches(indices, OPTIONS, 1)
    other = dataclasses.replace(OPTIONS, seed=116)
    assert epoch_batches(indices, other, 0) not in epochs


def test_training_lowers_the_loss_and_makes_an_odd_token_stand_out(tmp_path):
    cache = make_cache(tmp_path / "good", num_images=6, num_patches=64)
    options = TrainingOptions(epochs=60, learning_rate=0.01, batch_images=2)
    students, report = train(cache, options, indices=range(5))
    assert report.final_loss < report.first_loss / 5
    tokens_j, tokens_k = (tokens[0] for tokens in cache.read([5]))
    tokens_k[17] = -tokens_k[17]
    cache.put(5, tokens_j, tokens_k)
    (distances,) = measure_distances(students, cache, [5], (8, 8))
    assert distances.argmax() == 17
    assert distances.reshape(-1)[17] > 2 * np.sort(distances.reshape(-1))[-2]


def test_report_is_json_and_counts(cache):
    losses = []
    _, report = train(cache, on_step=lambda step, num_steps, loss: losses.append(loss))
    told = json.loads(json.dumps(dataclasses.asdict(report)))
    assert told.pop("duration_s") > 0
    # The last epoch: two images, then one.
    assert told.pop("final_loss") == pytest.approx((2 * losses[-2] + losses[-1]) / 3)
    assert told.pop("first_loss") == losses[0]
    assert told == {"epochs": 3, "num_images": 3, "num_steps": 6, "precision": "fp32"}


def test_every_step_is_told(cache):
    steps = []
    train(cache, on_step=lambda step, num_steps, loss: steps.append((step, num_steps)))
    assert steps == [(step, 6) for step in range(1, 7)]


def test_bf16_learns_nearly_the_same_into_weights_of_fp32(cache):
    students, report = train(cache)
    half, half_report = train(cache, dataclasses.replace(OPTIONS, precision="bf16"))
    assert {tensor.dtype for tensor in weights(half).values()} == {torch.float32}
    assert not same(weights(half), weights(students))
    assert half_report.final_loss == pytest.approx(report.final_loss, rel=0.02)
    assert half_report.precision == "bf16"


def test_same_seed_gives_the_same_bytes_and_another_others(cache):
    expected = weights(train(cache)[0])
    assert same(weights(train(cache)[0]), expected)
    assert not same(weights(train(cache, dataclasses.replace(OPTIONS, seed=116))[0]), expected)


def test_global_random_state_is_neither_used_nor_changed(cache):
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        before = torch.random.get_rng_state(), np.random.get_state()[1].tolist()
        found.append(weights(train(cache)[0]))
        assert torch.equal(torch.random.get_rng_state(), before[0])
        assert np.random.get_state()[1].tolist() == before[1]
    assert same(*found)


def test_students_are_ready_to_use(cache):
    students, _ = train(cache)
    assert not students.pair.training
    assert not any(parameter.requires_grad for parameter in students.pair.parameters())


# What cannot be trained


def test_training_that_diverges_stops_and_leaves_the_last_good_checkpoint(cache, tmp_path):
    options = dataclasses.replace(OPTIONS, learning_rate=1e30, batch_images=3)
    path = tmp_path / "checkpoint"
    expected = r"in epoch 2, step 1 of 1: the loss is nan, .* learning rate below 1e\+30"
    for tried in (None, path, path):
        with pytest.raises(TrainingDivergedError, match=expected):
            train(cache, options, checkpoint=tried)
    assert numbers_of(path) == (1, True)


def test_weights_that_are_no_numbers_are_neither_saved_nor_given(cache, tmp_path):
    """The loss is that of the weights before the step, and a number to the end."""
    options = dataclasses.replace(OPTIONS, learning_rate=1e39, epochs=1, batch_images=3)
    expected = (
        r"in epoch 1, step 1 of 1: there is NaN or infinity in forward_student\.input\.weight"
    )
    for path in (None, tmp_path / "checkpoint"):
        with pytest.raises(TrainingDivergedError, match=expected):
            train(cache, options, checkpoint=path)
    assert not (tmp_path / "checkpoint").exists()


def test_empty_list_of_images_is_refused(cache):
    with pytest.raises(TrainingError, match="no images"):
        train(cache, indices=[])


def test_images_without_tokens_are_refused(cache, tmp_path):
    partly = TokenCache.open(tmp_path / "partly", cache.key, 10**9)
    partly.put(0, *(tokens[0] for tokens in cache.read([0])))
    students, _ = train(partly, indices=[0])
    with pytest.raises(TrainingError, match="no tokens yet of image 2"):
        train(partly, indices=[0, 2])
    with pytest.raises(TrainingError, match="no tokens yet of image 2"):
        measure_distances(students, partly, [2], (2, 3))


@pytest.mark.parametrize(
    ("variant", "layers"), [(VARIANT, (1, 3)), (tiny(dim=8, name="other"), LAYERS)]
)
def test_tokens_of_other_blocks_or_another_backbone_are_refused(cache, variant, layers):
    with pytest.raises(TrainingError, match=r"tokens of blocks \[2, 3\], 4 wide, expected blocks"):
        train_students(cache, [0], variant, layers, OPTIONS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"epochs": 2.5},
        {"batch_images": 0},
        {"seed": -1},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"precision": "fp16"},
    ],
)
def test_impossible_option_is_named(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name} is .*, expected"):
        TrainingOptions(**wrong)


def test_defaults_are_the_official_codes():
    assert TrainingOptions() == TrainingOptions(50, 1e-4, 4, 115, "fp32")
