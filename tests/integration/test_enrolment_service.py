"""Enrolment on the real server: options, parts, refusals, and what is recorded."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
import tritonclient.grpc as triton
from integration.triton_calls import PLAIN, enroll, inspect, listed, same
from tritonclient.utils import InferenceServerException

from dinspect_client import wire


@pytest.fixture(scope="module")
def client(served):
    with triton.InferenceServerClient(served.grpc_url) as client:
        yield client


@pytest.fixture(scope="module")
def images(split):
    return [path.read_bytes() for path in split.enrolled[:6]]


def test_new_version_answers_the_next_request_and_old_ones_can_be_pinned(client, images, split):
    part = split.defective[0].read_bytes()
    assert enroll(client, "growing", images[:2], **PLAIN)[0] == 1
    first = inspect(client, "growing", part)
    assert enroll(client, "growing", images, **PLAIN)[0] == 2
    second = inspect(client, "growing", part)
    assert (first["bundle_version"][0, 0], second["bundle_version"][0, 0]) == (1, 2)
    assert second["anomaly_score"][0, 0] <= first["anomaly_score"][0, 0]
    assert same(inspect(client, "growing@1", part), first)


def test_bundle_records_its_origin(served, client, images):
    """Who, when, from which images, by what: on disk as in the answer."""
    before = datetime.now(timezone.utc) - timedelta(seconds=1)
    version, threshold, report = enroll(
        client, "recorded", images[:3], image_names=["a", "b", "c"], operator="ada",
        false_positive_rate=0.6,
    )  # fmt: skip
    folder = served.repository / "banks" / "recorded" / "1"
    record = json.loads((folder / "bundle.json").read_text())
    assert record == report
    assert (record["product"], record["version"], version) == ("recorded", 1, 1)
    digests = [hashlib.sha256(image).hexdigest() for image in images[:3]]
    assert record["references"] == [
        {"name": name, "sha256": digest} for name, digest in zip("abc", digests, strict=True)
    ]
    change = record["change"]
    assert (change["action"], change["operator"], change["from_version"]) == (
        "enrolled", "ada", None,
    )  # fmt: skip
    made = datetime.fromisoformat(change["at"])
    assert before <= made <= datetime.now(timezone.utc)
    assert record["created_at"] == change["at"]
    assert np.float32(record["threshold"]) == np.float32(threshold)
    assert record["calibration"]["method"] == "leave_one_out"
    scores = sorted(record["calibration"]["reference_scores"])
    assert scores[0] < record["threshold"] == scores[1] < scores[2]
    assert record["preprocessing"]["setting"] == "agnostic"
    assert record["num_patches"] == 3 * 8 * 1024
    for name in ("bank", "good_parts"):
        content = (folder / f"{name}.safetensors").read_bytes()
        assert record[f"{name}_sha256"] == hashlib.sha256(content).hexdigest()
    assert record["backbone"].keys() == {
        "name", "onnx_sha256", "weights_sha256", "file_sha256", "runtime", "precision",
        "search_precision",
    }  # fmt: skip
    model = served.repository / "models" / "dinov2_vits14_448" / "1" / "model.onnx"
    assert record["backbone"]["file_sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert record["backbone"]["precision"] in ("fp32", "fp16", "bf16")
    assert record["backbone"]["runtime"].startswith("openvino")


def test_enrolment_in_parts_equals_one_request(client, images, split):
    _, at_once, _ = enroll(client, "at-once", images, **PLAIN)
    part = PLAIN | {"session": "s1", "commit": False, "num_staged": 0, "threshold": None}
    version, _, report = enroll(client, "parts", images[:4], **part)
    assert (version, report) == (0, {"session": "s1", "num_staged": 4})
    with pytest.raises(InferenceServerException, match="unknown product 'parts'"):
        inspect(client, "parts", images[0])
    enroll(client, "parts", images[4:], **(part | {"num_staged": 4}))
    version, in_parts, report = enroll(client, "parts", [], session="s1", num_staged=6)
    assert (version, report["num_references"]) == (1, 6)
    assert in_parts == at_once
    part = split.functional[0].read_bytes()
    a, b = inspect(client, "parts", part), inspect(client, "at-once", part)
    assert np.array_equal(a["patch_distances"], b["patch_distances"])


@pytest.mark.parametrize(
    ("product", "images", "options", "reason"),
    [
        ("bad name", [b"x"], {}, "no product name"),
        ("fresh", [], {}, "at least one image"),
        ("fresh", [b"x"], {}, "reference #1: .* no image in a known format"),
        ("fresh", [b"x"], {"image_names": ["a.png"]}, r"reference a\.png: "),
        ("fresh", [], {"session": "new", "num_staged": 0}, "at least one image"),
        (
            "fresh",
            [b"x"],
            {"session": "lost", "num_staged": 8},
            "holds 0 images, the request follows 8",
        ),
        ("fresh", [b"x"], {"shots": 1}, "unknown options"),
        ("fresh", [b"x"], {"commit": False}, "no session is named"),
    ],
)
def test_refused_enrolment_changes_nothing(client, product, images, options, reason):
    with pytest.raises(InferenceServerException, match=reason):
        enroll(client, product, images, **options)
    assert "fresh" not in [one["product"] for one in listed(client)]


def test_refused_part_ends_the_session(client, images):
    enroll(client, "half", images[:1], session="s2", commit=False, num_staged=0, **PLAIN)
    with pytest.raises(InferenceServerException, match="enrols 'half', not 'other'"):
        enroll(client, "other", images[:1], session="s2", num_staged=1)
    with pytest.raises(InferenceServerException, match="reference #3: "):
        enroll(client, "half", [images[1], b"broken"], session="s2", commit=False, num_staged=1)
    with pytest.raises(InferenceServerException, match="'s2' holds 0 images"):
        enroll(client, "half", [], session="s2", num_staged=3)


def test_single_reference_calls_nothing_normal(client, images, split):
    """Its rotations say what is surely anomalous; what is surely normal one image cannot say."""
    enroll(client, "single", images[:1])
    verdicts = [
        int(inspect(client, "single", path.read_bytes(), outputs=["verdict"])["verdict"][0, 0])
        for path in split.defective[:10]
    ]
    assert wire.Verdict.NORMAL not in verdicts


def test_damaged_product_does_not_hide_the_others(served, client, images):
    enroll(client, "fine", images[:1], **PLAIN)
    enroll(client, "rotten", images[:1], **PLAIN)
    (served.repository / "banks" / "rotten" / "1" / "bundle.json").write_text("{")
    by_name = {one["product"]: one for one in listed(client)}
    assert "is damaged" in by_name["rotten"]["error"]
    assert by_name["fine"]["versions"] == [1]
    with pytest.raises(InferenceServerException, match="is damaged"):
        inspect(client, "rotten", images[0])


def test_size_that_is_not_served_says_what_to_assemble(client, images):
    with pytest.raises(InferenceServerException, match=r"672x672 .* this server has 448, 448x588"):
        enroll(client, "none", images[:1], resolution=672)


def test_products_are_listed(client, images):
    _, threshold, report = enroll(client, "listed", images[:1], **PLAIN)
    (one,) = listed(client, "listed")
    assert one["versions"] == [1]
    assert (one["current"], one["ensemble"]) == (1, "anomaly_dino_448")
    assert (np.float32(one["threshold"]), one["normal_below"]) == (np.float32(threshold), 0.0)
    assert (one["preprocessing"], one["masked"]) == ("no_mask_no_rotation", False)
    assert one["loaded_bytes"] > 1024 * 384 * 2
    assert one["backbone_sha256"] == report["backbone"]["onnx_sha256"]
    assert "listed" in [product["product"] for product in listed(client)]
    with pytest.raises(InferenceServerException, match="unknown product"):
        listed(client, "nobody")


def test_committed_session_is_closed(client, images):
    enroll(client, "committed", images[:1], session="s3", commit=False, num_staged=0, **PLAIN)
    assert enroll(client, "committed", [], session="s3", num_staged=1)[0] == 1
    with pytest.raises(InferenceServerException, match="'s3' holds 0 images"):
        enroll(client, "committed", [], session="s3", num_staged=1)


def test_session_enrols_one_product_and_every_image_has_its_name(client, images):
    enroll(client, "begun", images[:1], session="s4", commit=False, num_staged=0, **PLAIN)
    with pytest.raises(InferenceServerException, match="'s4' enrols 'begun', not 'mistaken'"):
        enroll(client, "mistaken", images[1:2], session="s4", num_staged=1)
    with pytest.raises(InferenceServerException, match="1 image_names for 2 images"):
        enroll(client, "misnamed", images[:2], image_names=["only"])
    assert not {"begun", "mistaken", "misnamed"} & {one["product"] for one in listed(client)}
