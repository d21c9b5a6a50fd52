"""The server killed at any moment: what was there answers as before, what is there is whole.

`DINSPECT_NUM_KILLS` says how often; 50 is what a release is held to. The moments are spread evenly
over each action as long as it takes undisturbed, on the same server just before. The commit of an
enrolment is an action of its own, and every other kill of it falls into its last milliseconds, when
the version is written. Two kills of three take the server with all its processes in the middle of
what they do, the third takes the server alone, whose processes are left to end by themselves.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import threading
import time

import psutil
import pytest
import tritonclient.grpc as triton
from integration.triton_calls import (
    PLAIN,
    bytes_input,
    enroll,
    inspect,
    listed,
    manage,
    read_version,
    same,
)

from dinspect_client.wire import VERSION_FILES
from dinspect_server.assemble import assemble
from dinspect_server.embedded import EmbeddedTriton

logger = logging.getLogger(__name__)

NUM_KILLS = int(os.environ.get("DINSPECT_NUM_KILLS", "4"))
SECONDS_PER_KILL = 60
WRITING_S = 0.03
GROWN, TUNED = "grown", "tuned"
IN_THE_STORE = {".numbers", ".lock", ".changes.jsonl"}


class Plant:
    """Products whose answers are known, and what may be going on when their server dies."""

    def __init__(self, repository, images, part):
        self.repository, self.images, self.part = repository, images, part
        self.actions = {
            "commit": self.commit,
            "enrolment": self.enrolment,
            "thresholds": self.thresholds,
            "import": self.arrival,
            "append": self.append,
        }

    def set_up(self, client):
        """Make the older products, and do everything once undisturbed, to know its end and time."""
        enroll(client, "old", self.images[:1], **PLAIN)
        enroll(client, "old", self.images[:2], threshold=0.3, normal_below=0.1, **PLAIN)
        enroll(client, GROWN, self.images[:2], **PLAIN)
        enroll(client, TUNED, self.images[:2], **PLAIN)
        enroll(client, "source", self.images[:4], **PLAIN)
        self.files = read_version(client, "source")
        self.older = {
            name: inspect(client, name, self.part)
            for name in ("old", "old@1", f"{GROWN}@1", f"{TUNED}@1", "source")
        }
        self.whole = {}
        for name in self.actions:
            target, _ = self.do(client, name, f"undisturbed-{name}")
            self.whole[name] = without_version(inspect(client, target, self.part))
            self.tidy(client, target)

    def do(self, client, action, name):
        """An action to its end; the product it was about, and how long it took in seconds."""
        target, model, inputs = self.actions[action](client, name)
        began = time.monotonic()
        client.infer(model, inputs)
        return target, time.monotonic() - began

    def enrolment(self, client, name):
        """A product of four images in one request."""
        inputs = [
            bytes_input("product", [name.encode()], [1]),
            bytes_input("images", self.images[:4], [4]),
            bytes_input("options", [json.dumps(PLAIN).encode()], [1]),
        ]
        return name, "enroll", inputs

    def commit(self, client, name):
        """The last part of the same enrolment, after its images."""
        session = {"session": name, **PLAIN}
        enroll(client, name, self.images[:4], commit=False, num_staged=0, **session)
        options = json.dumps(session | {"num_staged": 4}).encode()
        inputs = [
            bytes_input("product", [name.encode()], [1]),
            bytes_input("images", [], [0]),
            bytes_input("options", [options], [1]),
        ]
        return name, "enroll", inputs

    def append(self, client, name):
        """Two images more for a product."""
        inputs = [
            bytes_input("product", [GROWN.encode()], [1]),
            bytes_input("images", self.images[2:4], [2]),
            bytes_input("options", [b'{"append": true}'], [1]),
        ]
        return GROWN, "enroll", inputs

    def thresholds(self, client, name):
        """Other thresholds for a product."""
        return TUNED, "manage", self._managed(TUNED, operation="threshold", threshold=0.25)

    def arrival(self, client, name):
        """The last part of an import."""
        keys = {"operation": "import", "session": name, "offset": 0}
        *first, last = VERSION_FILES
        for file in first:
            manage(client, name, content=self.files[file], file=file, **keys)
        inputs = self._managed(name, file=last, commit=True, **keys)
        inputs.append(bytes_input("content", [self.files[last]], [1]))
        return name, "manage", inputs

    def _managed(self, product, **keys):
        return [
            bytes_input("product", [product.encode()], [1]),
            bytes_input("request", [json.dumps(keys).encode()], [1]),
        ]

    def check(self, client, action, target, acknowledged):
        """All that must hold after the server is back; whether the action took place."""
        for name, answer in self.older.items():
            assert same(inspect(client, name, self.part), answer), name
        products = {one["product"]: one for one in listed(client)}
        assert set(products) - {target} == {"old", GROWN, TUNED, "source"} - {target}
        self._check_histories(client, products)
        self._check_folders(products)
        versions = products.get(target, {"versions": []})["versions"]
        made = [version for version in versions if f"{target}@{version}" not in self.older]
        for version in made:
            answer = inspect(client, f"{target}@{version}", self.part)
            assert same(without_version(answer), self.whole[action])
        if acknowledged:
            assert products[target]["current"] == made[-1]
        return bool(made)

    def _check_histories(self, client, products):
        """No version is damaged, and each is in the record of changes."""
        for name, one in products.items():
            assert "error" not in one
            history = manage(client, name, "history")[1]
            assert [entry["version"] for entry in history["versions"]] == one["versions"]
            assert not [entry for entry in history["versions"] if "error" in entry]
            assert set(one["versions"]) <= {entry["version"] for entry in history["changes"]}

    def _check_folders(self, products):
        banks = self.repository / "banks"
        found = {path.name for path in banks.iterdir()}
        assert found - IN_THE_STORE == set(products)
        for name, one in products.items():
            entries = {path.name for path in (banks / name).iterdir()}
            assert entries == {"current", *map(str, one["versions"])}
            for version in one["versions"]:
                files = {path.name for path in (banks / name / str(version)).iterdir()}
                assert files == set(VERSION_FILES)

    def tidy(self, client, target):
        """Take back what an action did."""
        products = {one["product"]: one for one in listed(client)}
        if target in (GROWN, TUNED):
            manage(client, f"{target}@1", "activate")
            for version in products[target]["versions"][1:]:
                manage(client, f"{target}@{version}", "delete")
        elif target in products:
            manage(client, target, "delete")


def without_version(answer):
    return {name: value for name, value in answer.items() if name != "bundle_version"}


def killed(server, client, model, inputs, after_s, *, alone):
    """Send a request and kill the server so long after; whether it was answered before."""
    answered, done = [], threading.Event()

    def take(result, error):
        answered.append(error is None)
        done.set()

    stubs = psutil.Process(server.process_id).children()
    client.async_infer(model, inputs, take)
    time.sleep(after_s)
    if alone:
        os.kill(server.process_id, signal.SIGKILL)
    else:
        os.killpg(server.process_id, signal.SIGKILL)
    psutil.Process(server.process_id).wait(10)
    assert done.wait(10)
    return answered[0], stubs


def regions_of(server):
    """Names of the memory regions that the server's processes share with it."""
    stubs = psutil.Process(server.process_id).children()
    return {stub.cmdline()[2].lstrip("/") for stub in stubs}


@pytest.fixture(scope="module")
def plant(artefacts_dir, split, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plant_that_is_killed")
    (folder / "artefacts").mkdir()
    (folder / "artefacts" / "square").symlink_to(artefacts_dir / "dinov2_vits14_448")
    repository = folder / "repository"
    assemble(folder / "artefacts", repository)
    images = [path.read_bytes() for path in split.enrolled[:4]]
    plant = Plant(repository, images, split.defective[0].read_bytes())
    with EmbeddedTriton(repository) as server:
        client = triton.InferenceServerClient(server.grpc_url)
        plant.set_up(client)
        client.close()
    return plant


def schedule(num_kills, names):
    """Actions in turn, each with its turn and with moments evenly spread over it, as shares."""
    for number in range(num_kills):
        turn, name = number // len(names), names[number % len(names)]
        count = len(range(number % len(names), num_kills, len(names)))
        yield name, turn, (turn + 0.5) / count


def moment_s(action, turn, share, duration_s):
    """When to kill, in seconds after the request."""
    if action == "commit" and turn % 2 == 0:
        return max(duration_s - (1 - share) * WRITING_S, 0.0)
    return share * duration_s


def test_moments_are_spread_over_each_action():
    moments = list(schedule(5, ["commit", "b"]))
    assert [name for name, _, _ in moments] == ["commit", "b", "commit", "b", "commit"]
    found = [moment_s(*one, 6.0) for one in moments if one[0] == "commit"]
    assert found == pytest.approx([6 - WRITING_S * 5 / 6, 3.0, 6 - WRITING_S / 6])
    assert [moment_s(*one, 6.0) for one in moments if one[0] == "b"] == [1.5, 4.5]


@pytest.mark.timeout(120 + NUM_KILLS * SECONDS_PER_KILL)
def test_products_survive_kills_at_any_moment(plant):
    """One server after another, each killed in the middle of something."""
    moments = list(enumerate(schedule(NUM_KILLS, list(plant.actions))))
    assert len(moments) == NUM_KILLS > 0
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(EmbeddedTriton(plant.repository))
        for number, (action, turn, share) in moments:
            client = triton.InferenceServerClient(server.grpc_url)
            warm, duration_s = plant.do(client, action, f"warm-{number}")
            plant.tidy(client, warm)
            after_s = moment_s(action, turn, share, duration_s)
            target, model, inputs = plant.actions[action](client, f"new-{number}")
            regions = regions_of(server)
            assert regions
            alone = number % 3 == 2
            acknowledged, stubs = killed(server, client, model, inputs, after_s, alone=alone)
            client.close()
            stack.close()
            assert not psutil.wait_procs(stubs, 5)[1]
            assert not regions & set(os.listdir("/dev/shm"))
            server = stack.enter_context(EmbeddedTriton(plant.repository))
            client = triton.InferenceServerClient(server.grpc_url)
            made = plant.check(client, action, target, acknowledged)
            logger.info(
                "%s killed after %.1f of %.1f ms: %s, %s", action, after_s * 1000,
                duration_s * 1000, "answered" if acknowledged else "not answered",
                "there" if made else "not there",
            )  # fmt: skip
            plant.tidy(client, target)
            client.close()
