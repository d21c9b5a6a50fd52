from __future__ import annotations

import json

import grpc
import numpy as np
import pytest
from fake_products import sha256
from fake_server import Fault, bytes_array, decode_inputs

from dinspect_client import (
    InvalidImageError,
    ModelUnavailable,
    ProtocolMismatch,
    RequestRejected,
    ServerFault,
    ServerUnreachable,
    codec,
)

IMAGES = [b"%d" % number for number in range(11)]


def sent(triton) -> list[tuple[dict, list[bytes], set[str]]]:
    """Options, images and outputs asked for of each request."""
    found = []
    for request in triton.requests_to("zero_shot"):
        inputs = decode_inputs(request)
        images = list(inputs["images"]) if "images" in inputs else []
        asked = {output.name for output in request.outputs}
        found.append((json.loads(inputs["options"][0]), images, asked))
    return found


def test_every_image_is_scored_in_its_order(client) -> None:
    scores = list(client.zero_shot(IMAGES))

    assert [score.index for score in scores] == list(range(11))
    assert [score.anomaly_score for score in scores[:4]] == [0.0, 0.125, 0.25, 0.0]
    assert scores[3].name == "image-4"
    assert scores[3].sha256 == sha256(b"3")
    assert scores[3].patch_distances.shape == (4, 5)
    assert scores[3].anomaly_map.shape == (30, 40)
    assert scores[3].masked is True
    assert (scores[3].num_images, scores[3].num_bank_patches) == (11, 200)
    assert scores[3].backbone.name == "vits14"
    assert scores[3].latency_ms > 0


def test_images_are_staged_in_parts_and_scored_one_by_one(client, triton) -> None:
    progress: list[tuple[int, int]] = []

    list(client.zero_shot(IMAGES, on_progress=lambda *done: progress.append(done)))

    staging, scoring = sent(triton)[:2], sent(triton)[2:]
    assert [images for _, images, _ in staging] == [IMAGES[:8], IMAGES[8:]]
    assert [options["num_staged"] for options, _, _ in staging] == [0, 8]
    assert [asked for _, _, asked in staging] == [{"report"}] * 2
    assert [options["score"] for options, _, _ in scoring] == list(range(11))
    assert [options["close"] for options, _, _ in scoring] == [False] * 10 + [True]
    assert all(images == [] for _, images, _ in scoring)
    assert len({options["session"] for options, _, _ in sent(triton)}) == 1
    assert progress == [(8, 11), (11, 11)]
    assert triton.staged == {}


def test_options_given_are_sent_with_every_part_and_no_others(client, triton) -> None:
    given = {
        "resolution": 672,
        "masking": "never",
        "alpha": 0.01,
        "statistic": "mean",
        "image_score": "max",
    }

    next(client.zero_shot(IMAGES, **given))

    for options, _, _ in sent(triton)[:2]:
        del options["session"], options["num_staged"], options["image_names"]
        assert options == given


def test_map_is_not_even_asked_for_when_not_wanted(client, triton) -> None:
    (score, _) = client.zero_shot(IMAGES[:2], with_map=False)

    assert score.anomaly_map is None
    assert sent(triton)[-1][2] == {"report", "anomaly_score", "patch_distances"}


def test_scores_come_as_they_are_asked_for(client, triton) -> None:
    """Nothing is computed ahead, and nothing kept: what is scored is one request before the last."""
    scores = client.zero_shot(IMAGES)
    assert triton.requests == []
    next(scores)
    next(scores)

    assert len(sent(triton)) == 2 + 2


def test_to_dict_is_json_without_arrays(client) -> None:
    score = next(client.zero_shot(IMAGES))

    dictionary = json.loads(json.dumps(score.to_dict()))

    assert dictionary["anomaly_map"] == {"shape": [30, 40], "peak": 1.0, "peak_at": [29, 39]}
    assert dictionary["backbone"]["precision"] == "fp16"


@pytest.mark.parametrize("images", [[], [b"x"]])
def test_fewer_than_two_images_are_refused_at_once(client, triton, images) -> None:
    with pytest.raises(RequestRejected, match="expected at least two"):
        client.zero_shot(images)

    assert triton.requests == []


def test_missing_or_empty_image_is_told_at_once(client, triton, tmp_path) -> None:
    (tmp_path / "empty.png").touch()

    with pytest.raises(InvalidImageError, match=r"empty\.png is empty"):
        client.zero_shot([*IMAGES, tmp_path / "empty.png"])
    with pytest.raises(InvalidImageError, match="No such file"):
        client.zero_shot([*IMAGES, tmp_path / "missing.png"])
    assert triton.requests == []


def closed(triton) -> bool:
    """Whether the one session was closed, and the server holds nothing any more."""
    return len(triton.closed) == 1 and not triton.staged


def test_batch_is_forgotten_when_the_generator_is_closed(client, triton) -> None:
    scores = client.zero_shot(IMAGES)
    next(scores)
    assert not closed(triton)
    scores.close()

    assert closed(triton)


def test_batch_is_forgotten_when_an_image_vanishes(client, triton, tmp_path) -> None:
    path = tmp_path / "vanishing.png"
    path.write_bytes(b"x")
    scores = client.zero_shot(
        [*IMAGES, *(b"%d" % n for n in range(20, 26)), path],
        on_progress=lambda *_: path.unlink(missing_ok=True),
    )

    with pytest.raises(InvalidImageError, match="vanishing"):
        next(scores)

    assert closed(triton)


def test_batch_is_forgotten_when_staging_is_interrupted(client, triton) -> None:
    def interrupt(*_) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(client.zero_shot(IMAGES, on_progress=interrupt))

    assert closed(triton)


def test_batch_is_forgotten_when_the_server_refuses_an_image(client, triton) -> None:
    triton.faults["zero_shot"] = Fault(grpc.StatusCode.INVALID_ARGUMENT, "image #1: no image")

    with pytest.raises(RequestRejected, match="no image"):
        next(client.zero_shot(IMAGES))

    assert closed(triton)


def test_batch_is_forgotten_when_a_score_fails(client, triton) -> None:
    scores = client.zero_shot(IMAGES)
    next(scores)
    triton.faults["zero_shot"] = Fault(grpc.StatusCode.INTERNAL, "broken")

    with pytest.raises(ServerFault, match="broken"):
        next(scores)

    assert closed(triton)


def test_error_is_told_although_the_server_cannot_be_asked_to_forget(client, triton) -> None:
    triton.faults["zero_shot"] = Fault(grpc.StatusCode.INTERNAL, "broken", times=9)

    with pytest.raises(ServerFault, match="broken"):
        next(client.zero_shot(IMAGES))


def test_whole_run_closes_with_its_last_score_and_not_again(client, triton) -> None:
    list(client.zero_shot(IMAGES))

    assert len(triton.closed) == 1
    assert len(sent(triton)) == 2 + 11


def test_part_is_never_staged_twice(client, triton) -> None:
    triton.faults["zero_shot"] = Fault(grpc.StatusCode.UNAVAILABLE, "queue full", times=1)

    with pytest.raises(ServerUnreachable, match="queue full"):
        next(client.zero_shot(IMAGES))

    assert [bool(images) for _, images, _ in sent(triton)] == [True, False]  # then closed


def test_score_is_asked_for_again_when_unavailable_once(client, triton) -> None:
    scores = client.zero_shot(IMAGES)
    next(scores)
    triton.faults["zero_shot"] = Fault(grpc.StatusCode.UNAVAILABLE, "busy", times=1)

    assert next(scores).index == 1


def test_server_without_zero_shot_is_told(client, triton) -> None:
    del triton.models["zero_shot"]

    with pytest.raises(ModelUnavailable, match="'zero_shot' is not served"):
        next(client.zero_shot(IMAGES))


def tampered(triton, change) -> None:
    """Let the server do its work and say something else."""
    original = triton._zero_shot

    def tampering(inputs):
        outputs = original(inputs)
        report = json.loads(outputs["report"][0])
        change(report, outputs)
        outputs["report"] = bytes_array(json.dumps(report))
        return outputs

    triton._zero_shot = tampering


def when_scored(**fields):
    return lambda report, outputs: report.update(fields) if "index" in report else None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda report, outputs: report.update(num_staged=7), "holds 7 images of 8 sent"),
        (when_scored(index=1), "about image 1 'image-1', asked was 0"),
        (when_scored(name="other"), "about image 0 'other', asked was 0"),
        (when_scored(sha256="00"), "asked was 0"),
        (when_scored(num_images=10), "10 images were compared, 11 were sent"),
    ],
)
def test_score_of_something_else_is_never_returned(client, triton, change, message) -> None:
    tampered(triton, change)

    with pytest.raises(ServerFault, match=message):
        next(client.zero_shot(IMAGES))

    assert closed(triton)


@pytest.mark.parametrize("missing", ["num_bank_patches", "backbone", "sha256"])
def test_malformed_report_is_a_mismatch_that_names_the_request(client, triton, missing) -> None:
    tampered(triton, lambda report, outputs: report.pop(missing, None))

    with pytest.raises(ProtocolMismatch, match=f"lacks '{missing}'") as caught:
        next(client.zero_shot(IMAGES))

    assert caught.value.request_id in {request.id for request in triton.requests}


def test_score_that_is_not_finite_is_refused(client, triton) -> None:
    def spoil(report, outputs) -> None:
        if "anomaly_score" in outputs:
            outputs["anomaly_score"] = np.array([np.nan])

    tampered(triton, spoil)

    with pytest.raises(ServerFault, match="'anomaly_score' holds values that are not finite"):
        next(client.zero_shot(IMAGES))


def test_images_are_read_when_their_part_is_due(client, triton, tmp_path, monkeypatch) -> None:
    """So that memory holds one part, whatever the number of images."""
    monkeypatch.setattr(codec, "IMAGES_PER_PART", 1)
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path in paths:
        path.write_bytes(b"old")

    def renew(num_staged: int, _: int) -> None:
        for number, path in enumerate(paths):
            path.write_bytes(b"%d after %d" % (number, num_staged))

    next(client.zero_shot(paths, on_progress=renew))

    images = [one for _, part, _ in sent(triton) for one in part]
    assert images == [b"old", b"old", b"2 after 1"]
