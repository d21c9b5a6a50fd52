"""Garbage in every key of the JSON requests: refused with a reason, and nobody else notices."""

from __future__ import annotations

import json

import pytest
import tritonclient.grpc as triton
from integration.triton_calls import PLAIN, bytes_input, enroll, inspect, listed, manage, same
from tritonclient.utils import InferenceServerException

EMOJI = "\x00\U0001f600\x7f"
PATH = "../../etc/passwd"
GARBAGE = [
    None, True, False, 0, -1, 7, 2**63, 0.5, -0.5, 1e308, float("nan"), float("inf"), "", "x",
    EMOJI, "\ud800", "x" * 100_000, PATH, [], [[]], ["x"], ["\ud800"], [1, 2, 3, 4],
    [-1, 0, 10**12, 1.5], {}, {"a": {"b": [None]}},
]  # fmt: skip
"""Values of every JSON type; NaN and half a character, which are none; and too much of one."""

NO_IMAGE = "no image in a known format"
ENROLL_KEYS = {
    "resolution": [None],
    "preprocessing": [None],
    "rotated": [None, False],
    "texture": [None, True, False],
    "num_neighbours": [None, 7],
    "image_score": [None],
    "search": [None],
    "coreset_fraction": [None, 0.5],
    "false_positive_rate": [None, 0.5],
    "undecided_rate": [None, 0, 0.5],
    "threshold": [None, 0, 0.5],
    "normal_below": [None],
    "append": [None, False],
    "activate": [None, True, False],
    "role": [None],
    "image_names": [None, [], ["x"]],
    "operator": [None, "", "x", EMOJI, PATH],
    "session": [None, "", "x", EMOJI, PATH],
    "num_staged": [None, 0],
    "commit": [None, True],
}
"""Which of the garbage is none, for each option of an enrolment."""

MANAGE_KEYS = {
    "operation": ({}, []),
    "operator": ({"operation": "threshold", "threshold": 0.5}, [None, "", "x", EMOJI, PATH]),
    "threshold": ({"operation": "threshold"}, [0, 0.5]),
    "normal_below": ({"operation": "threshold", "threshold": 0.5}, [None, 0, 0.5]),
    "false_positive_rate": ({"operation": "threshold"}, [0.5]),
    "undecided_rate": ({"operation": "threshold", "false_positive_rate": 0.1}, [None, 0, 0.5]),
    "roi_px": ({"operation": "region"}, [[], [1, 2, 3, 4]]),
    "clear_ignore_mask": ({"operation": "region"}, [True, False]),
    "min_defect_area_px": ({"operation": "region"}, [0, 7]),
    "file": ({"operation": "read"}, []),
    "offset": ({"operation": "read", "file": "bundle.json"}, [None, 0, 7]),
    "session": ({"operation": "history"}, [None, "", "x", EMOJI, PATH]),
    "commit": ({"operation": "import", "session": "s", "file": "bundle.json"}, [None, False]),
}
"""For each key of `manage` a request it goes with, and which of the garbage is none."""


@pytest.fixture(scope="module")
def client(served):
    with triton.InferenceServerClient(served.grpc_url) as client:
        yield client


@pytest.fixture(scope="module")
def images(split):
    return [path.read_bytes() for path in split.enrolled[:2]]


@pytest.fixture(scope="module")
def answer(client, images):
    """What a product answers before anybody sends garbage."""
    enroll(client, "steady", images, **PLAIN)
    enroll(client, "target", images, **PLAIN)
    return inspect(client, "steady", images[1])


def refusal(call, *arguments, **options):
    """Why a call was refused as a wrong request; None if it was served."""
    try:
        call(*arguments, **options)
    except InferenceServerException as error:
        refused = error
    else:
        return None
    assert refused.status() == "StatusCode.INVALID_ARGUMENT", (options, refused.message())
    return refused.message()


def texts(values):
    """As JSON, which tells 1 from true."""
    return [json.dumps(value) for value in values]


@pytest.mark.parametrize("key", ENROLL_KEYS)
def test_garbage_in_an_option_of_an_enrolment_is_refused(client, images, answer, key):
    """What is refused for its image alone had options that can be used."""
    usable = []
    for value in GARBAGE:
        options = {"num_staged": 0} | {key: value} if key == "session" else {key: value}
        reason = refusal(enroll, client, "garbage", [b"x"], **options)
        if NO_IMAGE in reason:
            usable.append(value)
        else:
            assert key in reason or key in ("append", "num_staged")
    assert texts(usable) == texts(v for v in GARBAGE if json.dumps(v) in texts(ENROLL_KEYS[key]))
    assert "garbage" not in [one["product"] for one in listed(client)]
    assert same(inspect(client, "steady", images[1]), answer)


@pytest.mark.parametrize("key", MANAGE_KEYS)
def test_garbage_in_a_key_of_manage_is_refused(client, images, answer, key):
    request, usable = MANAGE_KEYS[key]
    served = []
    for value in GARBAGE:
        content = b"x" if key == "commit" else None
        keys = {"operation": None} | request | {key: value}
        if key == "commit":  # a session of its own for each value
            keys["session"] = f"s{len(served)}"
        reason = refusal(manage, client, "target", keys.pop("operation"), content, **keys)
        if reason is None:
            served.append(value)
    assert texts(served) == texts(v for v in GARBAGE if json.dumps(v) in texts(usable))
    assert same(inspect(client, "steady", images[1]), answer)


RAW = {
    "empty": b"",
    "no JSON": b"{",
    "two values": b"{} {}",
    "no UTF-8": b'{"operation": "\xff"}',
    "null": b"null",
    "a list": b"[]",
    "a text": b'"history"',
    "a number": b"1e999",
    "deeply nested": b"[" * 100_000,
    "unknown key": b'{"operaton": "history"}',
    "unknown half character": b'{"\\ud800": 1}',
    "long key": b'{"' + b"x" * 100_000 + b'": 1}',
    "long key that is not ASCII": b'{"' + "\U0001f600".encode() * 9999 + b'": 1}',
    "many digits": b'{"offset": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("model", ["enroll", "manage", "zero_shot"])
@pytest.mark.parametrize("case", RAW)
def test_request_that_is_no_object_is_refused(client, images, answer, model, case):
    inputs = {
        "enroll": [
            bytes_input("product", [b"garbage"], [1]),
            bytes_input("images", [b"x"], [1]),
            bytes_input("options", [RAW[case]], [1]),
        ],
        "manage": [
            bytes_input("product", [b"target"], [1]),
            bytes_input("request", [RAW[case]], [1]),
        ],
        "zero_shot": [bytes_input("options", [RAW[case]], [1])],
    }
    assert refusal(client.infer, model, inputs[model])
    assert same(inspect(client, "steady", images[1]), answer)


@pytest.mark.parametrize(
    "name",
    [
        b"", b".", b"..", b"../up", b"a/b", b".hidden", b"a\x00b", b"a b", b"x" * 65, b"\xff\xfe",
        b"a@", b"a@0", b"a@-1", b"a@1@2", b"a@99999999999999999999", "\u0661".encode(), b"a\n",
        b"changes.jsonl@1",
    ],
)  # fmt: skip
def test_name_that_is_none_is_refused_everywhere(client, images, answer, name):
    """No model makes, reads or deletes anything for it."""
    product = bytes_input("product", [name], [1])
    before = [one["product"] for one in listed(client)]
    requests = [
        ("enroll", [product, bytes_input("images", images[:1], [1])]),
        ("products", [product] if name else None),
        *(
            ("manage", [product, bytes_input("request", [json.dumps(keys).encode()], [1])])
            for keys in (
                {"operation": "history"},
                {"operation": "activate"},
                {"operation": "delete"},
                {"operation": "threshold", "threshold": 0.5},
                {"operation": "region", "roi_px": []},
                {"operation": "read", "file": "bundle.json"},
                {"operation": "import", "file": "bundle.json", "session": "s"},
            )
        ),
    ]
    for model, inputs in requests:
        assert inputs is None or refusal(client.infer, model, inputs), model
    inputs = [bytes_input("image", images[:1], [1, 1]), bytes_input("product", [name], [1, 1])]
    assert refusal(client.infer, "anomaly_dino_448", inputs)
    assert [one["product"] for one in listed(client)] == before
    assert same(inspect(client, "steady", images[1]), answer)
