"""A product after its enrolment, on the real server: versions, thresholds, what counts."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import tritonclient.grpc as triton
from integration.triton_calls import PLAIN, enroll, inspect, listed, manage, same
from PIL import Image
from reference import anomaly_dino_reference as reference
from scipy import ndimage
from tritonclient.utils import InferenceServerException

from dinspect_client.wire import Verdict


@pytest.fixture(scope="module")
def client(served):
    with triton.InferenceServerClient(served.grpc_url) as client:
        yield client


@pytest.fixture(scope="module")
def images(split):
    return [path.read_bytes() for path in split.enrolled[:6]]


@pytest.fixture(scope="module")
def part(split):
    return split.defective[0].read_bytes()


def versions_of(client, product):
    report = manage(client, product, "history")[1]
    return report["current"], [one["version"] for one in report["versions"]]


def actions_of(client, product):
    changes = manage(client, product, "history")[1]["changes"]
    return [(one["action"], one["version"], one["operator"]) for one in changes]


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_rollback_is_seen_by_the_next_request(client, images, part):
    enroll(client, "rolled", images[:1], operator="ada", **PLAIN)
    first = inspect(client, "rolled", part)
    enroll(client, "rolled", images[:2], operator="bob", **PLAIN)
    second = inspect(client, "rolled", part)
    assert not np.array_equal(first["patch_distances"], second["patch_distances"])
    version, report, _ = manage(client, "rolled@1", "activate", operator="eve")
    assert (version, report["version"], report["product"]) == (1, 1, "rolled")
    assert same(inspect(client, "rolled", part), first)
    assert same(inspect(client, "rolled@2", part), second)
    assert listed(client, "rolled")[0]["current"] == 1
    manage(client, "rolled@2", "activate")
    assert same(inspect(client, "rolled", part), second)
    assert actions_of(client, "rolled") == [
        ("enrolled", 1, "ada"), ("enrolled", 2, "bob"), ("activated", 1, "eve"),
        ("activated", 2, ""),
    ]  # fmt: skip


def test_version_that_is_not_activated_waits(client, images, part):
    enroll(client, "waits", images[:1], **PLAIN)
    before = inspect(client, "waits", part)
    assert enroll(client, "waits", images[:2], activate=False, **PLAIN)[0] == 2
    assert same(inspect(client, "waits", part), before)
    assert inspect(client, "waits@2", part)["bundle_version"][0, 0] == 2
    assert versions_of(client, "waits") == (1, [1, 2])
    # The first version of a product is in force whatever was said: there is no other.
    enroll(client, "first", images[:1], activate=False, **PLAIN)
    assert inspect(client, "first", part)["bundle_version"][0, 0] == 1


def test_deleted_versions_are_gone_and_their_numbers_are_not_given_again(client, images, part):
    for _ in range(3):
        enroll(client, "deleted", images[:1], **PLAIN)
    manage(client, "deleted@2", "activate")
    with pytest.raises(InferenceServerException, match="version 2 .* is in force"):
        manage(client, "deleted@2", "delete")
    assert inspect(client, "deleted@3", part)["bundle_version"][0, 0] == 3  # and is loaded
    assert manage(client, "deleted@3", "delete", operator="ada")[1]["deleted"] == [3]
    with pytest.raises(InferenceServerException, match=r"no version 3; it has \[1, 2\]"):
        inspect(client, "deleted@3", part)
    assert enroll(client, "deleted", images[:1], **PLAIN)[0] == 4
    assert manage(client, "deleted", "delete", operator="ada")[1]["deleted"] == [1, 2, 4]
    for reference_ in ("deleted", "deleted@1"):
        with pytest.raises(InferenceServerException, match="unknown product 'deleted'"):
            inspect(client, reference_, part)
    assert "deleted" not in [one["product"] for one in listed(client)]
    with pytest.raises(InferenceServerException, match="unknown product 'deleted'"):
        manage(client, "deleted", "delete")
    assert enroll(client, "deleted", images[:1], **PLAIN)[0] == 5
    assert ("deleted", None, "ada") in actions_of(client, "deleted")


def test_appended_version_equals_an_enrolment_of_all_images(client, images, part):
    _, at_once, whole = enroll(client, "whole", images[:4], **PLAIN)
    enroll(client, "appended", images[:2], **PLAIN)
    version, threshold, report = enroll(
        client, "appended", images[2:4], append=True, operator="bob"
    )
    assert (version, threshold) == (2, at_once)
    assert report["bank_sha256"] == whole["bank_sha256"]
    assert report["change"] | {"at": None} == {
        "action": "appended", "from_version": 1, "operator": "bob", "origin": "", "at": None,
    }  # fmt: skip
    assert [one["sha256"] for one in report["references"]] == [
        one["sha256"] for one in whole["references"]
    ]
    a, b = inspect(client, "appended", part), inspect(client, "whole", part)
    assert all(np.array_equal(a[name], b[name]) for name in a if name != "bundle_version")
    with pytest.raises(InferenceServerException, match="the same file as"):
        enroll(client, "appended", images[:1], append=True)
    with pytest.raises(InferenceServerException, match="unknown product 'nobody'"):
        enroll(client, "nobody", images[:1], append=True)


def test_good_images_set_the_thresholds_and_are_in_no_bank(client, images, split, part):
    """Three good parts more; without them a single reference could call nothing normal."""
    enroll(client, "single-good", images[:1], **PLAIN)
    assert inspect(client, "single-good", images[1])["verdict"][0, 0] != Verdict.NORMAL
    session = {"session": "good", "commit": False}
    enroll(client, "single-good", images[:1], num_staged=0, **session, **PLAIN)
    _, threshold, report = enroll(
        client, "single-good", images[1:4], session="good", num_staged=1, role="good",
        image_names=["x", "y", "z"],
    )  # fmt: skip
    calibration = report["calibration"]
    assert calibration["method"] == "good_images"
    assert [one["name"] for one in calibration["good_images"]] == ["x", "y", "z"]
    assert (report["num_references"], report["num_patches"]) == (1, 1024)
    scores = []
    for image in images[1:4]:
        answer = inspect(client, "single-good", image)
        scores.append(answer["anomaly_score"][0, 0])
        assert answer["verdict"][0, 0] == Verdict.NORMAL
    assert sorted(np.float32(calibration["reference_scores"])) == sorted(scores)
    assert np.float32(threshold) == max(scores)


def test_thresholds_by_hand_make_a_version_with_an_undecided_band(client, images, part):
    enroll(client, "banded", images[:4], **PLAIN)
    before = inspect(client, "banded", part)
    score = float(before["anomaly_score"][0, 0])
    for by_hand, verdict in (
        ((score * 2, score * 1.5), Verdict.NORMAL),
        ((score * 1.5, score * 0.5), Verdict.UNDECIDED),
        ((score * 0.5, score * 0.2), Verdict.ANOMALOUS),
    ):
        _, report, _ = manage(
            client, "banded", "threshold", threshold=by_hand[0], normal_below=by_hand[1],
            operator="ada",
        )  # fmt: skip
        answer = inspect(client, "banded", part)
        assert answer["verdict"][0, 0] == verdict
        assert answer["threshold"][0, 0] == np.float32(by_hand[0])
        assert answer["normal_below"][0, 0] == np.float32(by_hand[1])
        assert answer["bundle_version"][0, 0] == report["version"]
        assert report["calibration"]["method"] == "by_hand"
        assert report["change"]["operator"] == "ada"
        for name in ("patch_distances", "anomaly_score", "anomaly_map"):
            assert np.array_equal(answer[name], before[name])
    assert same(inspect(client, "banded@1", part), before)
    assert versions_of(client, "banded") == (4, [1, 2, 3, 4])


def test_thresholds_by_rates_are_quantiles_of_the_good_parts(client, images):
    _, _, report = enroll(client, "rated", images[:5], **PLAIN)
    scores = sorted(report["calibration"]["reference_scores"])
    assert (report["threshold"], report["normal_below"]) == (scores[4], scores[4])
    _, found, _ = manage(client, "rated", "threshold", undecided_rate=0.4)
    assert (found["threshold"], found["normal_below"]) == (scores[4], scores[3])
    _, found, _ = manage(client, "rated", "threshold", false_positive_rate=0.5)
    assert (found["threshold"], found["normal_below"]) == (scores[2], scores[1])
    assert found["calibration"]["false_positive_rate"] == 0.5
    assert found["calibration"]["undecided_rate"] == 0.4
    assert found["bank_sha256"] == report["bank_sha256"]
    # Back from thresholds by hand, to what both rates are by default.
    manage(client, "rated", "threshold", threshold=0.5)
    _, found, _ = manage(client, "rated", "threshold", false_positive_rate=0.05)
    assert (found["threshold"], found["normal_below"]) == (scores[4], scores[4])


@pytest.fixture(scope="module")
def refusing(client, images):
    enroll(client, "refusing", images[:1], **PLAIN)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({}, "say at least one of threshold"),
        ({"normal_below": 0.1}, "goes with a threshold"),
        ({"threshold": 0.1, "normal_below": 0.2}, "not below it"),
        ({"threshold": 0.1, "false_positive_rate": 0.1}, "exclude each other"),
        ({"false_positive_rate": 0.6, "undecided_rate": 0.5}, "together reach 1"),
        ({"threshold": 2.1}, "a cosine distance in"),
        ({"threshold": float("nan")}, "a cosine distance in|no JSON"),
    ],
)
def test_contradicting_thresholds_are_refused(client, refusing, keys, reason):
    before = versions_of(client, "refusing")
    with pytest.raises(InferenceServerException, match=reason) as caught:
        manage(client, "refusing", "threshold", **keys)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert versions_of(client, "refusing") == before


def test_region_of_interest_leaves_out_what_is_outside(client, images, part):
    """300 px are 32 patches of 9.375 px: x 95..194 touch patches 10..20, y 0..99 patches 0..10."""
    enroll(client, "roi", images[:4], **PLAIN)
    before = inspect(client, "roi", part)
    _, report, _ = manage(client, "roi", "region", roi_px=[95, 0, 100, 100], operator="ada")
    inside = np.zeros((32, 32), bool)
    inside[0:11, 10:21] = True
    assert report["region"]["inspected"] == [
        "".join("1" if cell else "0" for cell in row) for row in inside
    ]
    after = inspect(client, "roi", part)
    whole = before["patch_distances"][0]
    assert np.array_equal(after["patch_distances"][0], np.where(inside, whole, np.float32(0)))
    score = reference.image_score(whole[inside])
    assert after["anomaly_score"][0, 0] == pytest.approx(score, abs=1e-6)
    # The references are scored anew in the region, so the threshold is of the same kind.
    assert (
        report["calibration"]["reference_scores"]
        != (manage(client, "roi", "history")[1]["versions"][0]["calibration"]["reference_scores"])
    )
    manage(client, "roi", "region", roi_px=[])
    again = inspect(client, "roi", part)
    assert all(
        np.array_equal(again[name], before[name]) for name in before if name != "bundle_version"
    )


def test_ignore_mask_leaves_out_what_is_bright(client, images, part):
    """The left half: 150 px end in the middle of patch 16, of which half is inspected."""
    enroll(client, "ignored", images[:4], **PLAIN)
    before = inspect(client, "ignored", part)
    mask = np.zeros((300, 300, 3), np.uint8)
    mask[:, :150] = 255
    _, report, _ = manage(client, "ignored", "region", content=png(mask))
    assert report["region"]["inspected"] == ["0" * 16 + "1" * 16] * 32
    after = inspect(client, "ignored", part)["patch_distances"][0]
    assert (after[:, :16] == 0).all()
    assert np.array_equal(after[:, 16:], before["patch_distances"][0][:, 16:])
    with pytest.raises(InferenceServerException, match="send it again"):
        manage(client, "ignored", "region", roi_px=[0, 0, 300, 150])
    _, report, _ = manage(client, "ignored", "region", content=png(mask), roi_px=[0, 0, 300, 150])
    assert report["region"]["inspected"] == ["0" * 16 + "1" * 16] * 16 + ["0" * 32] * 16
    _, report, _ = manage(client, "ignored", "region", clear_ignore_mask=True)
    assert report["region"]["inspected"] == ["1" * 32] * 16 + ["0" * 32] * 16
    assert report["region"]["ignore_mask_sha256"] is None
    with pytest.raises(InferenceServerException, match="no patch is left"):
        manage(client, "ignored", "region", content=png(np.full_like(mask, 255)))
    with pytest.raises(InferenceServerException, match="400 x 300 px"):
        manage(client, "ignored", "region", content=png(np.zeros((300, 400, 3), np.uint8)))


def test_small_defects_neither_count_nor_are_told(client, images, split):
    """Below the smallest area a defect is no region, and its patches are not in the score."""
    _, _, report = enroll(
        client, "area", images[:4], false_positive_rate=0.9, image_score="max", **PLAIN
    )
    part = next(
        content
        for content in (path.read_bytes() for path in split.defective)
        if len(regions(inspect(client, "area", content))) > 1
    )
    before = inspect(client, "area", part)
    areas = sorted(one["area_px"] for one in regions(before))
    manage(client, "area", "region", min_defect_area_px=areas[0])
    assert regions(inspect(client, "area", part)) == regions(before)
    manage(client, "area", "region", min_defect_area_px=areas[-1])
    assert [one["area_px"] for one in regions(inspect(client, "area", part))] == areas[-1:]
    manage(client, "area", "region", min_defect_area_px=areas[-1] + 1)
    after = inspect(client, "area", part)
    assert regions(after) == []
    assert np.array_equal(after["patch_distances"], before["patch_distances"])
    # The largest distance of the patches whose centre lies in no region.
    labels, _ = ndimage.label(
        before["anomaly_map"][0] > report["defect_threshold"], np.ones((3, 3))
    )
    centres = ((np.arange(32) + 0.5) * 300 / 32).astype(int)
    left = before["patch_distances"][0][labels[np.ix_(centres, centres)] == 0]
    assert after["anomaly_score"][0, 0] == left.max() < before["anomaly_score"][0, 0]


def regions(answer):
    return json.loads(answer["defect_regions"][0, 0])


def test_products_of_a_batch_keep_their_own_life(client, images, part):
    """Four products, and a pinned version, in one request: each with its own settings."""
    enroll(client, "one", images[:1], num_neighbours=3, **PLAIN)
    enroll(client, "two", images[1:2], image_score="mean_top1p_foreground", **PLAIN)
    manage(client, "two", "region", roi_px=[0, 0, 150, 150])
    manage(client, "two", "threshold", threshold=0.7, normal_below=0.3)
    enroll(client, "three", images[2:3], image_score="max_map", preprocessing="mask_no_rotation")
    names = ["one", "two", "three", "two@1"]
    alone = [inspect(client, name, part) for name in names]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        inputs = []
        for kind, values in (
            ("image", [part] * 4),
            ("product", [names[i].encode() for i in order]),
        ):
            tensor = triton.InferInput(kind, [4, 1], "BYTES")
            tensor.set_data_from_numpy(np.array(values, dtype=object).reshape(4, 1))
            inputs.append(tensor)
        result = client.infer("anomaly_dino_448", inputs)
        for row, index in enumerate(order):
            for output, value in alone[index].items():
                assert np.array_equal(result.as_numpy(output)[row], value[0]), (
                    names[index],
                    output,
                )
    assert len({answer["anomaly_score"].item() for answer in alone}) == 4


def test_answers_and_records_say_who_made_what(client, images, part):
    """From the answer's version back to people, images and backbone."""
    enroll(client, "audited", images[:2], operator="ada", image_names=["a.png", "b.png"], **PLAIN)
    manage(client, "audited", "threshold", threshold=0.4, operator="bob")
    manage(client, "audited", "region", roi_px=[0, 0, 200, 200], operator="eve")
    version = int(inspect(client, "audited", part)["bundle_version"][0, 0])
    _, report, _ = manage(client, "audited", "history")
    by_version = {one["version"]: one for one in report["versions"]}
    assert report["current"] == version == 3
    chain = []
    while version is not None:
        change = by_version[version]["change"]
        chain.append((change["action"], change["operator"]))
        assert [one["name"] for one in by_version[version]["references"]] == ["a.png", "b.png"]
        version = change["from_version"]
    assert chain == [("region", "eve"), ("thresholds", "bob"), ("enrolled", "ada")]
    assert len({one["bank_sha256"] for one in report["versions"]}) == 1
    assert len({one["created_at"] for one in report["versions"]}) == 1
    assert actions_of(client, "audited") == [
        ("enrolled", 1, "ada"), ("thresholds", 2, "bob"), ("region", 3, "eve"),
    ]  # fmt: skip


def test_damaged_version_is_told_in_the_history_and_cannot_be_put_in_force(served, client, images):
    for count in (1, 2):
        enroll(client, "scratched", images[:count], **PLAIN)
    folder = served.repository / "banks" / "scratched" / "1"
    content = bytearray((folder / "bank.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "bank.safetensors").write_bytes(content)
    with pytest.raises(InferenceServerException, match="is damaged"):
        manage(client, "scratched@1", "activate")
    assert versions_of(client, "scratched") == (2, [1, 2])
    (folder / "bundle.json").write_text("{}")
    _, report, _ = manage(client, "scratched", "history")
    assert "is damaged" in report["versions"][0]["error"]
    assert report["versions"][1]["num_references"] == 2
