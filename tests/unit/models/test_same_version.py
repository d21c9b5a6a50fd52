"""The same images make the same version, to the bit and in every process."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from enrolments import (
    TEXTURE,
    add,
    begun,
    close_all,
    enrol,
    finish,
    part,
    surface,
)

from bank_store import BankStore
from enrol_options import EnrolOptions
from wire import VERSION_FILES

SURFACES = [surface(seed) for seed in range(4)]
PARTS = [part(seed) for seed in range(4)]
BANK, GOOD_PARTS = VERSION_FILES[1:]


@pytest.fixture(autouse=True)
def _no_open_files():
    yield
    close_all()


def file_bytes(store, bundle, name):
    return store.file(bundle.product, bundle.version, name).read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        EnrolOptions(),
        replace(TEXTURE, search="ivf"),
        replace(TEXTURE, coreset_fraction=0.2, num_neighbours=2),
    ],
    ids=["masked", "ivf", "coreset"],
)
def test_two_enrolments_of_the_same_images_are_the_same_to_the_bit(tmp_path, options):
    found = []
    for name in ("one", "other"):
        store, bundle = enrol(tmp_path / name, PARTS, options, good=[part(9)])
        files = [file_bytes(store, bundle, file) for file in (BANK, GOOD_PARTS)]
        record = replace(bundle, created_at="", change=replace(bundle.change, at=""))
        found.append((record, files))
    assert found[0] == found[1]


PROCESS = """
import sys
from pathlib import Path
import dinspect_client.wire
sys.modules["wire"] = dinspect_client.wire
sys.path.append(sys.argv[1])
from dataclasses import replace
from enrol_options import EnrolOptions
from enrolments import TEXTURE, close_all, enrol, part
images = [part(seed) for seed in range(4)]
for number, options in enumerate(
    (EnrolOptions(), replace(TEXTURE, search="ivf"), replace(TEXTURE, coreset_fraction=0.2))
):
    _, bundle = enrol(Path(sys.argv[2]) / str(number), images, options)
    print(bundle.bank_sha256, bundle.good_parts_sha256, bundle.threshold, bundle.defect_threshold)
    # What is measured of the loss is rounded as the threads share the products.
    print(bundle.preprocessing, replace(bundle.scoring, measured_loss=None))
close_all()
"""


def test_every_process_makes_the_same_version(tmp_path):
    """Masks, banks, lists and thresholds, whatever the hash seed and the number of threads."""
    found = set()
    for threads, hash_seed in (("1", "1"), ("2", "2"), ("2", "3")):
        result = subprocess.run(
            [
                sys.executable,
                "-c",
                PROCESS,
                str(Path(__file__).parent),
                str(tmp_path / f"{threads}-{hash_seed}"),
            ],
            env=os.environ
            | {
                "PYTHONHASHSEED": hash_seed,
                "PYTHONPATH": os.pathsep.join(sys.path),
                "OMP_NUM_THREADS": threads,
                "OPENBLAS_NUM_THREADS": threads,
                "MKL_NUM_THREADS": threads,
            },
            check=True,
            capture_output=True,
            text=True,
        )
        found.add(result.stdout)
    assert len(found) == 1
    assert found.pop().count("\n") == 6


def test_nothing_is_left_of_an_enrolment_that_is_closed(tmp_path):
    enrolment = add(begun(tmp_path, TEXTURE), SURFACES[:2])
    store = BankStore(tmp_path)
    finish(enrolment, store)
    names = {path.name for path in tmp_path.iterdir()}
    assert {name for name in names if not name.startswith(".")} == {"screw"}
    assert not any(name.endswith(".partial") for name in names)
