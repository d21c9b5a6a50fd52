from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from reference import l2bt_reference as reference

from dinspect_export.errors import InvalidGeometryError
from dinspect_export.students import (
    Combination,
    DistanceOptions,
    Metric,
    Normalisation,
    Student,
    StudentDistance,
    StudentPair,
    TrainedStudents,
)
from dinspect_export.variants import variant_by_name

VARIANT = variant_by_name("dinov2_vits14")
EVERY_OPTION = [
    DistanceOptions(*choice) for choice in itertools.product(Normalisation, Metric, Combination)
]


def words(options):
    return options.normalisation.value, options.metric.value, options.combination.value


def random_pair(dim, seed=0):
    torch.manual_seed(seed)
    return StudentPair(dim).eval().requires_grad_(False)


def constant_pair(predicted_k, predicted_j):
    """Students that predict the same whatever they see."""
    pair = random_pair(len(predicted_k))
    for student, prediction in (
        (pair.forward_student, predicted_k),
        (pair.backward_student, predicted_j),
    ):
        student.output.weight.zero_()
        student.output.bias.copy_(torch.tensor(prediction))
    return pair


def float64(student):
    return {name: tensor.double().numpy() for name, tensor in student.state_dict().items()}


@pytest.mark.parametrize("options", EVERY_OPTION, ids=words)
def test_distances_equal_the_reference(options):
    pair = random_pair(16)
    tokens_j, tokens_k = torch.randn(2, 6, 16) * 3, torch.randn(2, 6, 16) * 3
    found = StudentDistance(pair, (2, 3), options)(tokens_j, tokens_k)
    assert found.dtype == torch.float32
    for image in range(2):
        expected = reference.patch_distances(
            tokens_j[image].double().numpy(),
            tokens_k[image].double().numpy(),
            float64(pair.forward_student),
            float64(pair.backward_student),
            *words(options),
            grid=(2, 3),
        )
        np.testing.assert_allclose(found[image].numpy(), expected, rtol=1e-4, atol=1e-4)


# Predicted are k = (0, 2) and j = (6, 8), found are k = (2, 0) and j = (4, 3): the angle at k is a
# right one, the cosine at j is 24/25, and the differences are (-2, 2) and (2, 5).
AT_K = {("l2", "euclidean"): 2**0.5, ("none", "euclidean"): 8**0.5, ("l2", "cosine"): 1.0}
AT_J = {("l2", "euclidean"): 0.08**0.5, ("none", "euclidean"): 29**0.5, ("l2", "cosine"): 0.04}


@pytest.mark.parametrize(("normalisation", "metric"), AT_K)
def test_distances_of_one_patch_by_hand(normalisation, metric):
    at_k, at_j = AT_K[normalisation, metric], AT_J[normalisation, metric]
    expected = {"product": at_k * at_j, "sum": at_k + at_j, "forward": at_k, "backward": at_j}
    pair = constant_pair(predicted_k=[0.0, 2.0], predicted_j=[6.0, 8.0])
    for combination, value in expected.items():
        model = StudentDistance(pair, (1, 1), DistanceOptions(normalisation, metric, combination))
        found = model(torch.tensor([[[4.0, 3.0]]]), torch.tensor([[[2.0, 0.0]]]))
        assert found.item() == pytest.approx(value, rel=1e-6), combination


def test_defaults_are_the_official_codes():
    assert DistanceOptions() == DistanceOptions("l2", "euclidean", "product")
    assert words(DistanceOptions()) == ("l2", "euclidean", "product")


def test_gelu_is_exact_and_follows_the_first_two_layers():
    """GELU of GELU of -1 by hand; the usual approximation by tanh is 6e-5 beside it."""
    student = Student(1).requires_grad_(False)
    for layer in (student.input, student.projection, student.output):
        layer.weight.fill_(1.0)
        layer.bias.zero_()
    assert student(torch.tensor([-1.0])).item() == pytest.approx(-0.06932763, abs=1e-7)


@pytest.mark.parametrize("options", EVERY_OPTION, ids=words)
def test_zero_tokens_and_zero_predictions_give_numbers(options):
    zero, token = torch.zeros(1, 1, 4), torch.tensor([[[0.0, 3.0, 0.0, 4.0]]])
    for predicted in ([0.0] * 4, [1.0, 0.0, 0.0, 0.0]):
        model = StudentDistance(constant_pair(predicted, predicted), (1, 1), options)
        for tokens in itertools.product((zero, token), repeat=2):
            found = model(*tokens)
            assert torch.isfinite(found).all()
            assert (found >= 0).all()


def test_zero_prediction_is_far_and_not_near():
    """A student that says nothing must not pass for one that was right."""
    model = StudentDistance(constant_pair([0.0, 0.0], [0.0, 0.0]), (1, 1))
    assert model(torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[1.0, 0.0]]])).item() == 1.0


def test_a_small_cosine_distance_keeps_its_digits():
    """1 - cos of an angle of 1e-3 is 5e-7; the difference of two FP32 numbers near 1 loses it."""
    pair = constant_pair([1.0, 1e-3], [1.0, 1e-3])
    model = StudentDistance(pair, (1, 1), DistanceOptions("l2", "cosine", "forward"))
    tokens = torch.tensor([[[1.0, 0.0]]])
    assert model(tokens, tokens).item() == pytest.approx(5e-7, rel=1e-3)


def test_length_of_a_prediction_does_not_matter_by_default():
    tokens_j, tokens_k = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[-2.0, 1.0]]])
    short, long = (
        StudentDistance(constant_pair([scale, 0.0], [0.0, scale]), (1, 1))(tokens_j, tokens_k)
        for scale in (1.0, 1000.0)
    )
    torch.testing.assert_close(short, long)


def test_patches_are_row_major():
    pair = random_pair(8)
    tokens_j, tokens_k = torch.randn(1, 1, 8).expand(1, 6, 8), torch.randn(1, 1, 8).expand(1, 6, 8)
    marked = tokens_j.clone()
    marked[0, 3] = torch.randn(8)  # second row, first column
    model = StudentDistance(pair, (2, 3))
    changed = ~torch.isclose(model(marked, tokens_k), model(tokens_j, tokens_k))
    assert changed.tolist() == [[[False, False, False], [True, False, False]]]


@pytest.mark.parametrize(
    ("combination", "unused"), [("forward", "backward_student"), ("backward", "forward_student")]
)
def test_one_direction_does_not_run_the_other_student(combination, unused):
    pair = random_pair(4)
    getattr(pair, unused).input.bias.fill_(torch.nan)
    options = DistanceOptions(combination=combination)
    found = StudentDistance(pair, (1, 2), options)(torch.randn(1, 2, 4), torch.randn(1, 2, 4))
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("shape", [(1, 7, 8), (1, 6, 9), (1, 12, 8), (6, 8)])
@pytest.mark.parametrize("which", [0, 1])
def test_tokens_of_another_grid_or_width_are_refused(shape, which):
    tokens = [torch.zeros(1, 6, 8), torch.zeros(1, 6, 8)]
    tokens[which] = torch.zeros(shape)
    with pytest.raises(InvalidGeometryError, match=r"expected \(batch, 6, 8\) for a grid of 2 x 3"):
        StudentDistance(random_pair(8), (2, 3))(*tokens)


def test_empty_grid_is_refused():
    with pytest.raises(InvalidGeometryError, match="empty"):
        StudentDistance(random_pair(8), (0, 3))


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("normalisation", "l2, none"),
        ("metric", "euclidean, cosine"),
        ("combination", "product, sum, forward, backward"),
    ],
)
def test_unknown_option_lists_the_known(name, known):
    with pytest.raises(ValueError, match=f"{name} is 'other', expected one of: {known}"):
        DistanceOptions(**{name: "other"})


@pytest.mark.parametrize("layers", [(0, 12), (8, 13), (8, 8), (12, 8)])
def test_students_of_impossible_blocks_are_refused(layers):
    with pytest.raises(InvalidGeometryError, match=r"ascending block numbers .* within 1\.\.12"):
        TrainedStudents(random_pair(384), VARIANT, layers)


def test_students_of_another_width_are_refused():
    with pytest.raises(InvalidGeometryError, match="768 wide, dinov2_vits14's tokens 384"):
        TrainedStudents(random_pair(768), VARIANT, (8, 12))
