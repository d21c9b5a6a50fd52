from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from masks import box, tokens_of
from reference import anomaly_dino_reference as reference

from foreground import (
    THRESHOLD,
    centre_of,
    first_component,
    foreground_mask,
    object_component,
)


def drawn(rows):
    """A mask from a drawing, '#' for true."""
    return np.array([[letter == "#" for letter in row] for row in rows])


def structured(grid, dim, seed):
    """A blob on a background, each with its own direction, texture and noise, as tokens are."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(grid)
    centre = np.array(grid) * rng.uniform(0.35, 0.65, 2)
    distance = np.hypot((rows - centre[0]) / grid[0], (columns - centre[1]) / grid[1])
    inside = 1.0 / (1.0 + np.exp((distance - rng.uniform(0.2, 0.45)) * 40.0))
    object_, background = rng.normal(size=(2, dim)) * 2.0
    tokens = inside[..., None] * object_ + (1.0 - inside[..., None]) * background
    tokens = tokens + np.sin(rows / 3.0)[..., None] * rng.normal(size=dim)
    return (tokens + rng.normal(size=(*grid, dim))).reshape(-1, dim).astype(np.float32)


@pytest.mark.parametrize(
    ("grid", "dim"), [((32, 32), 384), ((32, 42), 96), ((11, 7), 200), ((9, 9), 3)]
)
def test_structured_tokens_equal_the_reference(grid, dim):
    both = 0
    for seed in range(6):
        tokens = structured(grid, dim, seed) * np.float32(1.0 if dim > 3 else 12.0)
        found = foreground_mask(tokens, grid)
        assert found.shape == grid
        assert found.dtype == bool
        both += found.any() and not found.all()
        np.testing.assert_array_equal(found, reference.foreground_mask(tokens, grid))
    assert both >= 3


@pytest.mark.parametrize("seed", range(4))
def test_noise_without_a_leading_component_equals_the_reference(seed):
    """Neighbouring eigenvalues are alike: the iteration gives up and the slow way is taken."""
    tokens = np.random.default_rng(seed).normal(size=(400, 64)).astype(np.float32) * 6.0
    found = foreground_mask(tokens, (20, 20))
    assert 0 < found.sum() < found.size
    np.testing.assert_array_equal(found, reference.foreground_mask(tokens, (20, 20)))
    np.testing.assert_allclose(
        first_component(tokens), reference.first_component(tokens), atol=1e-9
    )


@pytest.mark.parametrize(
    ("tokens", "slow"),
    [
        (structured((32, 32), 384, 0), False),
        (np.random.default_rng(0).normal(size=(400, 64)).astype(np.float32), True),
    ],
)
def test_all_eigenvectors_are_computed_only_where_needed(monkeypatch, tokens, slow):
    sizes = set()
    eigh = np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda matrix: sizes.add(len(matrix)) or eigh(matrix))
    first_component(tokens)
    assert sizes == ({8, 64} if slow else {8})


def test_component_equals_the_reference_however_the_tokens_are_turned():
    for seed in range(10):
        tokens = structured((8, 8), 32, seed)
        turned = tokens * np.float32((-1.0) ** seed) + np.float32(5.0)
        np.testing.assert_allclose(
            first_component(turned), reference.first_component(turned), atol=1e-9
        )


def test_component_has_the_sign_of_its_largest_entry():
    line = np.arange(-4.0, 5.0, dtype=np.float32)[:, None]
    component = first_component(line * np.array([[0.6, -0.8]], np.float32))
    np.testing.assert_allclose(component, -line[:, 0], atol=1e-6)


def test_equal_input_gives_equal_bits():
    tokens = structured((16, 16), 64, 1)
    first = first_component(tokens)
    assert np.array_equal(first, first_component(tokens.copy()))


def test_real_cells_equal_the_reference(torch_backbone, cells):
    import torch

    masks = []
    for cell in (cells[0], cells[len(cells) // 3]):
        pixels = torch.from_numpy(reference.pixels(cell.path).copy())[None]
        with torch.inference_mode():
            tokens = torch_backbone(pixels)[0][0].numpy()
        masks.append(foreground_mask(tokens, (32, 32)))
        np.testing.assert_array_equal(masks[-1], reference.foreground_mask(tokens, (32, 32)))
    assert any(mask.any() for mask in masks)


@pytest.mark.parametrize("weights", [1.0, -1.0])
def test_one_patch_in_a_corner_grows_to_four(weights):
    """Below the rest the sign rule finds it; above the rest it does not, as in the authors' code."""
    found = foreground_mask(tokens_of(box((8, 8), (7, 8), (7, 8)), -60.0 * weights), (8, 8))
    expected = box((8, 8), (6, 8), (6, 8)) if weights > 0 else np.zeros((8, 8), dtype=bool)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        # Two patches between the dilated ones are closed.
        (
            ["#....#...", ".........", ".........", "........."],
            ["#######..", "#######..", ".........", "........."],
        ),
        # Three are not; nor does the end of a row touch the start of the next.
        (
            ["#.....#.#", ".........", ".........", "........."],
            ["##...####", "##...####", ".........", "........."],
        ),
        (
            ["........#", ".........", ".........", "........."],
            [".......##", ".......##", ".........", "........."],
        ),
        # A frame closes over one patch of background, which dilation alone would fill as well.
        (
            [".........", ".###.....", ".#.#.....", ".###....."],
            ["#####....", "#####....", "#####....", "#####...."],
        ),
    ],
)
def test_dilation_and_closing_by_hand(before, after):
    mask = drawn(before)
    found = foreground_mask(tokens_of(mask, -40.0), mask.shape)
    np.testing.assert_array_equal(found, drawn(after))


def halves(in_centre):
    """7 x 8 patches, 28 of them high, of which so many are among the 20 in the centre."""
    high = np.zeros((7, 8), dtype=bool)
    centre = np.zeros((7, 8), dtype=bool)
    centre[1:5, 1:6] = True
    high[tuple(np.argwhere(centre)[:in_centre].T)] = True
    high[tuple(np.argwhere(~centre)[: 28 - in_centre].T)] = True
    return high


def test_sign_turns_at_exactly_35_percent():
    for in_centre, share in ((8, 8 / 20), (7, 13 / 20)):
        tokens = tokens_of(halves(in_centre), 40.0)
        assert centre_of(object_component(tokens, (7, 8)) > THRESHOLD).mean() == share
        np.testing.assert_array_equal(
            foreground_mask(tokens, (7, 8)), reference.foreground_mask(tokens, (7, 8))
        )


def test_threshold_is_not_foreground_itself():
    high = box((8, 8), (2, 6), (0, 8))
    for height, expected in ((20.0, False), (20.01, True)):
        tokens = tokens_of(high, height)[:, :1]  # in one dimension nothing is rounded
        assert foreground_mask(tokens, (8, 8)).any() == expected


def test_lengths_of_tokens_matter():
    tokens = structured((16, 16), 64, 3)
    assert foreground_mask(tokens, (16, 16)).any()
    assert not foreground_mask(tokens * np.float32(0.1), (16, 16)).any()


PROCESS = """
import sys
import numpy as np
from foreground import foreground_mask
sys.path.append(sys.argv[1])
from test_foreground import structured
masks = [foreground_mask(structured((32, 32), 384, seed), (32, 32)) for seed in range(3)]
masks.append(foreground_mask(np.random.default_rng(9).normal(size=(1024, 64)) * 6.0, (32, 32)))
print(np.packbits(masks).tobytes().hex())
"""


def test_every_process_finds_the_same_mask():
    found = set()
    for threads, hash_seed in (("1", "1"), ("2", "2"), ("2", "3")):
        environment = os.environ | {
            "PYTHONHASHSEED": hash_seed,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "OMP_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
        }
        result = subprocess.run(
            [sys.executable, "-c", PROCESS, str(Path(__file__).parent)],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        found.add(result.stdout)
    masks = np.array([structured((32, 32), 384, seed) for seed in range(3)])
    here = np.packbits([foreground_mask(tokens, (32, 32)) for tokens in masks]).tobytes().hex()
    assert len(found) == 1
    assert found.pop().startswith(here)


@pytest.mark.parametrize("value", [0.0, 7.3, -1e30])
def test_equal_tokens_have_no_foreground(value):
    assert not foreground_mask(np.full((1000, 24), value, np.float32), (25, 40)).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_tokens_that_are_not_finite_are_refused(value):
    tokens = np.zeros((64, 4), np.float32)
    tokens[3, 2] = value
    with pytest.raises(ValueError, match="not finite"):
        foreground_mask(tokens, (8, 8))


def test_tokens_of_another_grid_are_refused():
    with pytest.raises(ValueError, match="reshape"):
        foreground_mask(np.zeros((64, 4), np.float32), (8, 9))
