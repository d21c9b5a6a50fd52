"""From tokens to a verdict: what is masked, what counts, and what may never be called normal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bundles import make_bank, make_draft, make_good_parts
from enrolments import (
    GRID,
    IMAGE_SIZE,
    OBJECT,
    PATCHES,
    TEXTURE,
    close_all,
    enrol,
    part,
    surface,
    tokens_of,
)
from reference.anomaly_dino_reference import mean_of_k_nearest

from bank_search import open_bank
from bundle import Region
from defect_regions import defect_regions
from enrol_options import EnrolOptions
from foreground import foreground_mask
from image_preparation import backbone_pixels
from image_score import IMAGE_SCORES
from map_operator import anomaly_map
from nearest_neighbours import unit_vectors
from patch_scoring import MIN_FOREGROUND, PatchScorer
from refusals import InspectionRefused
from wire import Verdict

EVERYWHERE = np.ones(GRID, bool)
MASK = foreground_mask(tokens_of(part(0)), GRID)


@pytest.fixture(autouse=True)
def _no_open_files():
    yield
    close_all()


class Told:
    """A search that answers the distances it is told, whatever the tokens."""

    size_bytes = 0

    def __init__(self, distances):
        self._distances = np.broadcast_to(np.float32(distances), GRID)

    def distances(self, queries):
        assert len(queries) == PATCHES
        return self._distances.reshape(-1)


def region(inspected=EVERYWHERE, min_defect_area_px=0):
    rows = ["".join("1" if cell else "0" for cell in row) for row in inspected]
    return Region(rows, None, None, min_defect_area_px)


def version(
    masked=False,
    share=None,
    inspected=EVERYWHERE,
    min_defect_area_px=0,
    image_score="mean_top1p",
    **changes,
):
    """A version with thresholds 0.2 and 0.3, of which the rest may be chosen."""
    bank = make_bank()
    draft = make_draft(bank, make_good_parts(bank))
    return replace(
        draft,
        version=1,
        grid=list(GRID),
        image_size=list(IMAGE_SIZE),
        preprocessing=replace(draft.preprocessing, masked=masked, foreground_share=share),
        scoring=replace(draft.scoring, image_score=image_score),
        region=region(inspected, min_defect_area_px),
        **{"threshold": 0.3, "normal_below": 0.2, "defect_threshold": 0.25} | changes,
    )


def scored(bundle, distances, image=None, image_size=IMAGE_SIZE):
    tokens = tokens_of(part(0) if image is None else image)
    return PatchScorer(bundle, Told(distances)).score(tokens, image_size)


@pytest.mark.parametrize(
    ("distance", "expected"),
    [
        (0.1, Verdict.NORMAL),
        (0.25, Verdict.UNDECIDED),
        (0.31, Verdict.ANOMALOUS),
        (np.nan, Verdict.ANOMALOUS),
    ],
)
@pytest.mark.parametrize("image_score", IMAGE_SCORES)
def test_score_and_verdict_are_those_of_the_distances(image_score, distance, expected):
    found = scored(version(image_score=image_score), distance)
    np.testing.assert_array_equal(found.distances, np.full(GRID, distance, np.float32))
    assert found.anomaly_score == pytest.approx(distance, nan_ok=True)
    assert found.verdict is expected


def test_masked_patches_score_zero_and_the_others_what_they_are():
    distances = np.arange(1, PATCHES + 1).reshape(GRID) / 400
    found = scored(version(masked=True, share=[0.3, 0.3]), distances)
    assert MASK.any()
    assert not MASK.all()
    np.testing.assert_array_equal(found.distances[~MASK], 0)
    np.testing.assert_array_equal(found.distances[MASK], distances[MASK].astype(np.float32))
    assert found.anomaly_score == pytest.approx(distances[MASK].max())


def test_a_version_that_is_not_masked_never_masks():
    found = scored(version(masked=False), 0.1, image=part(0))
    assert (found.distances == np.float32(0.1)).all()


def test_patches_outside_the_region_score_zero():
    inspected = np.zeros(GRID, bool)
    inspected[:, 5:] = True
    distances = np.where(inspected, 0.1, 1.9)
    found = scored(version(inspected=inspected), distances)
    np.testing.assert_array_equal(found.distances, np.where(inspected, np.float32(0.1), 0))
    assert found.verdict is Verdict.NORMAL


def test_region_and_mask_both_hold():
    inspected = np.zeros(GRID, bool)
    inspected[:6] = True
    bundle = version(masked=True, share=[0.3, 0.3], inspected=inspected)
    found = scored(bundle, 0.15)
    np.testing.assert_array_equal(found.distances > 0, MASK & inspected)


def spike(value, rest=0.1):
    distances = np.full(GRID, rest, np.float32)
    distances[4, 5] = value
    return distances


@pytest.mark.parametrize("image_score", IMAGE_SCORES)
def test_a_small_defect_does_not_count_and_the_rest_still_does(image_score):
    distances = spike(1.5)
    area = defect_regions(anomaly_map(distances, IMAGE_SIZE), 0.25)[0].area_px
    kept = version(min_defect_area_px=area, image_score=image_score)
    assert scored(kept, distances).verdict is Verdict.ANOMALOUS
    dropped = scored(replace(kept, region=region(min_defect_area_px=area + 1)), distances)
    assert dropped.verdict is Verdict.NORMAL
    assert dropped.anomaly_score == pytest.approx(0.1, abs=1e-3)
    assert dropped.distances[4, 5] == np.float32(1.5)  # it is still told
    # The other patches decide: these would be undecided on their own.
    area = defect_regions(anomaly_map(spike(1.5, 0.22), IMAGE_SIZE), 0.25)[0].area_px
    higher = replace(kept, region=region(min_defect_area_px=area + 1))
    assert scored(higher, spike(1.5, 0.22)).verdict is Verdict.UNDECIDED


@pytest.mark.parametrize("factor", [0.25, 0.5, 1, 2])
def test_smallest_defect_is_that_of_the_references_whatever_the_size_of_the_image(factor):
    """A smaller image's map is flatter, and a defect in it would be too small to count."""
    area = defect_regions(anomaly_map(spike(1.5), IMAGE_SIZE), 0.25)[0].area_px
    size = (int(IMAGE_SIZE[0] * factor), int(IMAGE_SIZE[1] * factor))
    for min_area, expected in [(area, Verdict.ANOMALOUS), (area + 1, Verdict.NORMAL)]:
        bundle = version(min_defect_area_px=min_area)
        assert scored(bundle, spike(1.5), image_size=size).verdict is expected


@pytest.mark.parametrize("factor", [0.5, 2, 5])
def test_score_of_the_map_does_not_depend_on_the_size_of_the_image(factor):
    """4 px of smoothing flatten a small image's map, and the threshold is of the references'."""
    size = (int(IMAGE_SIZE[0] * factor), int(IMAGE_SIZE[1] * factor))
    bundle = version(image_score="max_map")
    found = scored(bundle, spike(0.4), image_size=size)
    assert found.anomaly_score == anomaly_map(spike(0.4), IMAGE_SIZE).max()
    assert found.verdict is scored(bundle, spike(0.4)).verdict


def test_image_of_another_geometry_is_refused_by_name():
    reason = "the image is 168 x 210 px, but product 'screw' was enrolled from 210 x 168 px"
    with pytest.raises(InspectionRefused, match=reason):
        scored(version(), 0.1, image_size=(210, 168))
    assert scored(version(), 0.1, image_size=(56, 70)).verdict is Verdict.NORMAL
    assert scored(version(), 0.1, image_size=(1680, 2100)).verdict is Verdict.NORMAL


# ----- what may never be called normal ------------------------------------------------------------


@pytest.mark.parametrize("image_score", IMAGE_SCORES)
@pytest.mark.parametrize("share", [[0.5, 0.5], [0.0, 0.5], [0.0, 0.0], None])
def test_an_image_without_foreground_is_not_normal(image_score, share):
    """Also where references had none either, and whatever the thresholds."""
    nothing = surface(1, darkest=0, brightest=3)
    assert not foreground_mask(tokens_of(nothing), GRID).any()
    for threshold in (0.0, 0.3, 2.0):
        bundle = version(
            masked=True,
            share=share,
            image_score=image_score,
            threshold=threshold,
            normal_below=threshold,
        )
        found = scored(bundle, 1.9, image=nothing)
        assert found.anomaly_score == 0.0
        assert found.verdict is Verdict.UNDECIDED


@pytest.mark.parametrize("image_score", IMAGE_SCORES)
def test_foreground_outside_the_region_alone_is_not_normal(image_score):
    """The part that the region looks at is missing; the rest of the object is there."""
    inspected = np.zeros(GRID, bool)
    inspected[:, 14] = True
    assert not (MASK & inspected).any()
    bundle = version(masked=True, share=[0.0, 0.8], inspected=inspected, image_score=image_score)
    assert scored(bundle, 1.9).verdict is Verdict.UNDECIDED


def test_share_of_foreground_is_taken_in_the_region():
    """All of a small region is foreground in the references, a quarter of it here."""
    inspected = np.zeros(GRID, bool)
    inspected[0:6, 0:6] = True
    within = (MASK & inspected).sum() / inspected.sum()
    assert 0.2 < within < MASK.mean()
    enough = [within / MIN_FOREGROUND, 1.0]
    bundle = version(masked=True, share=enough, inspected=inspected)
    assert scored(bundle, 0.1).verdict is Verdict.NORMAL
    more = [within / MIN_FOREGROUND + 1e-9, 1.0]
    bundle = version(masked=True, share=more, inspected=inspected)
    assert scored(bundle, 0.1).verdict is Verdict.UNDECIDED


@pytest.mark.parametrize(
    ("smallest", "expected"),
    [
        (MASK.mean(), Verdict.NORMAL),
        (MASK.mean() / 0.5, Verdict.NORMAL),  # half of what the references show, just
        (MASK.mean() / 0.499, Verdict.UNDECIDED),
    ],
)
def test_too_little_foreground_is_not_normal(smallest, expected):
    bundle = version(masked=True, share=[smallest, 1.0])
    assert scored(bundle, 0.1).verdict is expected


def test_too_little_foreground_is_still_anomalous_where_it_looks_odd():
    bundle = version(masked=True, share=[1.0, 1.0])
    assert scored(bundle, 0.25).verdict is Verdict.UNDECIDED
    assert scored(bundle, 0.4).verdict is Verdict.ANOMALOUS


@pytest.mark.parametrize("image_score", IMAGE_SCORES)
def test_region_without_patches_is_not_normal(image_score):
    bundle = version(inspected=np.zeros(GRID, bool), image_score=image_score)
    assert scored(bundle, 1.9).verdict is Verdict.UNDECIDED


@pytest.mark.parametrize("image_score", IMAGE_SCORES)
def test_smallest_defect_that_is_larger_than_what_is_seen_makes_nothing_normal(image_score):
    """Not even a part that is odd all over."""
    larger = version(min_defect_area_px=168 * 210 + 1, image_score=image_score)
    found = scored(larger, 1.9)
    assert (found.anomaly_score, found.verdict) == (0.0, Verdict.UNDECIDED)
    quarter = version(min_defect_area_px=168 * 210 // 4 + 1, image_score=image_score)
    assert scored(quarter, 1.9).verdict is Verdict.ANOMALOUS
    assert scored(quarter, 1.9, image_size=(84, 105)).verdict is Verdict.ANOMALOUS
    inspected = np.zeros(GRID, bool)
    inspected[:2, :2] = True
    bundle = version(
        inspected=inspected, min_defect_area_px=4 * 14 * 14 + 1, image_score=image_score
    )
    assert scored(bundle, 0.01).verdict is Verdict.UNDECIDED
    same = replace(bundle, region=region(inspected, 4 * 14 * 14))
    assert scored(same, 0.01).verdict is Verdict.NORMAL


def test_references_without_foreground_say_nothing_of_a_missing_part():
    bundle = version(masked=True, share=[0.0, 1.0])
    assert scored(bundle, 0.01).verdict is Verdict.UNDECIDED
    assert scored(bundle, 1.9).verdict is Verdict.ANOMALOUS
    assert scored(version(masked=True, share=[0.1, 1.0]), 0.01).verdict is Verdict.NORMAL


def test_foreground_smaller_than_the_smallest_defect_is_not_normal():
    area = int(MASK.sum()) * 14 * 14
    bundle = version(masked=True, share=[0.1, 1.0], min_defect_area_px=area)
    assert scored(bundle, 0.01).verdict is Verdict.NORMAL
    bundle = version(masked=True, share=[0.1, 1.0], min_defect_area_px=area + 1)
    assert scored(bundle, 0.01).verdict is Verdict.UNDECIDED


def broken(kind):
    tokens = tokens_of(part(0))
    if kind == "equal":
        tokens[:] = tokens[17]
    elif kind == "one value":  # what a garbled tensor looks like
        tokens[:] = 0.5
    elif kind == "zero":
        tokens[3] = 0
    else:
        tokens[3, 2] = float(kind)
    return tokens


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", ["equal", "one value", "zero", "nan", "inf", "-inf"])
def test_tokens_of_a_broken_backbone_get_no_score(kind, masked):
    scorer = PatchScorer(version(masked=masked, share=[0.1, 1.0] if masked else None), Told(0.0))
    with pytest.raises(ValueError, match="the backbone is broken"):
        scorer.score(broken(kind), IMAGE_SIZE)


def test_tokens_of_another_grid_get_no_score():
    scorer = PatchScorer(version(), Told(0.0))
    with pytest.raises(AssertionError):
        scorer.score(tokens_of(part(0))[:-1], IMAGE_SIZE)


# ----- a whole version, as enrolled ---------------------------------------------------------------


def opened(store, bundle, precision="fp32"):
    search = open_bank(store.read_bank(bundle), bundle.scoring, PATCHES, precision)
    return PatchScorer(bundle, search)


@pytest.mark.parametrize("num_neighbours", [1, 3])
def test_an_enrolled_version_scores_as_the_reference_does(tmp_path, num_neighbours):
    options = EnrolOptions(texture=True, num_neighbours=num_neighbours)
    store, bundle = enrol(tmp_path, [surface(seed) for seed in range(3)], options)
    tokens = tokens_of(surface(9))
    found = opened(store, bundle).score(tokens, IMAGE_SIZE)
    bank = store.read_bank(bundle).tokens
    expected = mean_of_k_nearest(tokens, bank, num_neighbours).reshape(GRID)
    np.testing.assert_allclose(found.distances, expected, atol=1e-6)
    assert found.anomaly_score == pytest.approx(expected.max(), abs=1e-6)  # 1 % of 180 is one


def test_a_reference_is_normal_and_a_part_that_is_missing_is_not(tmp_path):
    store, bundle = enrol(tmp_path, [part(seed) for seed in range(4)], EnrolOptions())
    assert bundle.preprocessing.masked
    scorer = opened(store, bundle)
    assert scorer.score(tokens_of(part(1)), IMAGE_SIZE).verdict is Verdict.NORMAL
    missing = part(1, shown=np.zeros(GRID, bool))
    assert scorer.score(tokens_of(missing), IMAGE_SIZE).verdict is Verdict.UNDECIDED
    scratched = part(1).copy()
    scratched[60:70, 60:70] = (255, 0, 0)
    assert scorer.score(tokens_of(scratched), IMAGE_SIZE).verdict is Verdict.ANOMALOUS


def test_masking_that_finds_nothing_in_any_reference_makes_nothing_normal(tmp_path):
    """'mask_no_rotation' asks for no masking test, so no mask may be any good."""
    dark = [surface(seed, brightest=4) for seed in range(3)]
    store, bundle = enrol(tmp_path, dark, EnrolOptions(preprocessing="mask_no_rotation"))
    assert bundle.preprocessing.masking_test is None
    assert bundle.preprocessing.foreground_share == [0.0, 0.0]
    assert (bundle.threshold, bundle.normal_below) == (0.0, 0.0)
    scorer = opened(store, bundle)
    for seed in range(5):
        assert scorer.score(tokens_of(surface(seed, brightest=4)), IMAGE_SIZE).verdict is (
            Verdict.UNDECIDED
        )


def test_another_size_of_the_same_camera_gets_nearly_the_same_score(tmp_path):
    store, bundle = enrol(tmp_path, [surface(seed) for seed in range(3)], TEXTURE)
    scorer = opened(store, bundle)
    large = surface(9).repeat(2, axis=0).repeat(2, axis=1)
    score = scorer.score(tokens_of(backbone_pixels(large, GRID)), large.shape[:2]).anomaly_score
    assert score == pytest.approx(
        scorer.score(tokens_of(surface(9)), IMAGE_SIZE).anomaly_score, rel=0.3
    )
    assert score > 0


def test_tokens_need_no_unit_length(tmp_path):
    store, bundle = enrol(tmp_path, [surface(seed) for seed in range(3)], TEXTURE)
    tokens = tokens_of(surface(9))
    scorer = opened(store, bundle)
    long, unit = (scorer.score(t, IMAGE_SIZE).distances for t in (tokens, unit_vectors(tokens)))
    np.testing.assert_allclose(long, unit, atol=1e-6)


def test_object_of_the_drawn_part_is_what_the_mask_finds():
    grown = np.zeros(GRID, bool)
    grown[3:9, 3:12] = True
    assert np.array_equal(MASK, grown)
    assert OBJECT.sum() == 28
