"""Tokens in a folder: whole or missing after a kill, and never another backbone's or image's."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from dinspect_export.errors import StorageError, TrainingError
from dinspect_export.token_cache import (
    FILLED_FILE,
    KEY_FILE,
    TOKEN_FILES,
    TokenCache,
    TokenCacheKey,
)

KEY = TokenCacheKey(("a" * 64, "b" * 64, "c" * 64), "d" * 64, (8, 12), num_patches=6, dim=4)
PLENTY = 10**9


def tokens_of(index, key=KEY):
    """Tokens of an image, always the same, that float16 holds exactly."""
    generator = torch.Generator().manual_seed(index)
    shape = (key.num_patches, key.dim)
    return tuple(torch.randn(shape, generator=generator).half().float() for _ in range(2))


def filled(folder, key=KEY):
    cache = TokenCache.open(folder, key, PLENTY)
    for index in cache.missing():
        cache.put(index, *tokens_of(index, key))
    return cache


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_tokens_come_back_in_the_order_asked_for(tmp_path):
    filled(tmp_path / "cache")
    tokens_j, tokens_k = TokenCache.open(tmp_path / "cache", KEY, PLENTY).read([2, 0])
    assert tokens_j.dtype == tokens_k.dtype == torch.float32
    for row, index in enumerate((2, 0)):
        torch.testing.assert_close((tokens_j[row], tokens_k[row]), tokens_of(index), rtol=0, atol=0)


def test_tokens_are_rounded_to_float16(tmp_path):
    cache = TokenCache.open(tmp_path / "cache", KEY, PLENTY)
    given = torch.full((6, 4), 1 / 3)
    cache.put(1, given, -given)
    tokens_j, tokens_k = cache.read([1])
    assert tokens_j.unique().tolist() == [float(np.float16(1 / 3))]
    torch.testing.assert_close(tokens_k, -tokens_j)


def test_what_is_read_can_be_changed_without_harm(tmp_path):
    cache = filled(tmp_path / "cache")
    cache.read([0])[0].zero_()
    torch.testing.assert_close(cache.read([0])[0][0], tokens_of(0)[0])


def test_filling_goes_on_where_it_stopped(tmp_path):
    cache = TokenCache.open(tmp_path / "cache", KEY, PLENTY)
    assert cache.missing() == [0, 1, 2]
    cache.put(1, *tokens_of(1))
    again = TokenCache.open(tmp_path / "cache", KEY, PLENTY)
    assert again.missing() == [0, 2]
    with pytest.raises(TrainingError, match=r"no tokens yet of image 0, 2, 2 of 3 asked for"):
        again.read([0, 1, 2])
    again.put(1, *tokens_of(5))
    torch.testing.assert_close(again.read([1])[0][0], tokens_of(5)[0])


@pytest.mark.parametrize("index", [-1, 3])
def test_there_is_no_image_before_the_first_or_after_the_last(tmp_path, index):
    cache = filled(tmp_path / "cache")
    with pytest.raises(TrainingError, match=f"no image {index} in .*, expected 0..2"):
        cache.read([index])
    with pytest.raises(TrainingError, match=f"no image {index} in .*, expected 0..2"):
        cache.put(index, *tokens_of(0))


@pytest.mark.parametrize(
    ("value", "found"), [(torch.nan, "nan"), (-torch.inf, "inf"), (-65520.0, "65520")]
)
@pytest.mark.parametrize("block", [0, 1])
def test_what_float16_cannot_hold_is_refused_with_its_image(tmp_path, value, found, block):
    cache = TokenCache.open(tmp_path / "cache", KEY, PLENTY)
    tokens = tokens_of(1)
    tokens[block][3, 2] = value
    expected = rf"image 1 \(sha256 {'b' * 64}\), block {KEY.layers[block]}: .* is {found}, .* 65504"
    with pytest.raises(TrainingError, match=expected):
        cache.put(1, *tokens)
    assert cache.missing() == [0, 1, 2]


def test_refused_tokens_leave_what_was_stored(tmp_path):
    cache = filled(tmp_path / "cache")
    with pytest.raises(TrainingError):
        cache.put(1, tokens_of(5)[0], torch.full((6, 4), torch.nan))
    torch.testing.assert_close(cache.read([1])[0][0], tokens_of(1)[0])


@pytest.mark.parametrize("shape", [(6, 5), (5, 4), (1, 6, 4), (4,)])
def test_tokens_of_another_shape_are_refused(tmp_path, shape):
    """NumPy would repeat the last two to fit."""
    cache = TokenCache.open(tmp_path / "cache", KEY, PLENTY)
    with pytest.raises(TrainingError, match=r"image 0 .* expected \(6, 4\)"):
        cache.put(0, torch.zeros(6, 4), torch.zeros(shape))


def test_size_is_that_of_the_tokens(tmp_path):
    assert KEY.num_bytes == 2 * 3 * 6 * 4 * 2
    TokenCache.open(tmp_path / "cache", KEY, KEY.num_bytes)
    headers = 2 * 128
    sizes = [(tmp_path / "cache" / name).stat().st_size for name in TOKEN_FILES]
    assert sum(sizes) == KEY.num_bytes + headers


def test_larger_than_allowed_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(StorageError, match=r"takes 288 bytes, 287 bytes are allowed; nothing was"):
        TokenCache.open(tmp_path / "cache", KEY, KEY.num_bytes - 1)
    assert list(tmp_path.iterdir()) == []


def test_larger_than_the_disk_is_refused_before_anything_is_written(tmp_path):
    huge = dataclasses.replace(KEY, num_patches=10**15)
    with pytest.raises(StorageError, match=r"takes 48,000,000,000,000,000 bytes, [\d,]+ .* free"):
        TokenCache.open(tmp_path / "new" / "cache", huge, 10**18)
    assert list(tmp_path.iterdir()) == []


def test_room_on_the_disk_is_taken_at_once(tmp_path):
    """A full disk is an error when the cache is made; later it would kill the process."""
    key = dataclasses.replace(KEY, num_patches=10**5)
    TokenCache.open(tmp_path / "cache", key, PLENTY)
    taken = sum((tmp_path / "cache" / name).stat().st_blocks * 512 for name in TOKEN_FILES)
    assert taken >= key.num_bytes


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("images_sha256", tuple(reversed(KEY.images_sha256))),
        ("backbone_sha256", "e" * 64),
        ("layers", (7, 12)),
        ("num_patches", 4),
        ("dim", 6),
    ],
)
def test_tokens_of_another_key_are_refused_and_stay(tmp_path, name, value):
    filled(tmp_path / "cache")
    before = contents(tmp_path / "cache")
    other = dataclasses.replace(KEY, **{name: value})
    assert other.sha256 != KEY.sha256
    with pytest.raises(TrainingError, match=f"holds tokens of another {name}; remove it or give"):
        TokenCache.open(tmp_path / "cache", other, PLENTY)
    assert contents(tmp_path / "cache") == before


def test_folder_of_something_else_is_refused_and_stays(tmp_path):
    (tmp_path / "thesis.txt").write_text("ten years")
    for place in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(StorageError, match="is no cache of tokens"):
            TokenCache.open(place, KEY, PLENTY)
    assert contents(tmp_path) == {"thesis.txt": b"ten years"}


def test_empty_folder_and_link_to_one_are_used(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    filled(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert TokenCache.open(tmp_path / "disk", KEY, PLENTY).missing() == []


def truncate(path):
    os.truncate(path, path.stat().st_size - 1)


def pickle_it(path):
    np.save(path, np.array([print], dtype=object), allow_pickle=True)


def unpickle_me(path):
    path.write_bytes(pickle.dumps(print))


def turn(path):
    np.save(path, np.asfortranarray(np.load(path)))


def widen(path):
    np.save(path, np.load(path).astype(np.float64))


@pytest.mark.parametrize(
    "damage", [truncate, pickle_it, unpickle_me, widen, os.remove], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("name", [*TOKEN_FILES, FILLED_FILE])
def test_damaged_file_is_named(tmp_path, damage, name):
    filled(tmp_path / "cache")
    damage(tmp_path / "cache" / name)
    with pytest.raises(StorageError, match=f"{name} .*remove .*cache, it is made anew"):
        TokenCache.open(tmp_path / "cache", KEY, PLENTY)


def test_tokens_in_another_order_are_refused(tmp_path):
    filled(tmp_path / "cache")
    turn(tmp_path / "cache" / TOKEN_FILES[0])
    with pytest.raises(StorageError, match="tokens_j"):
        TokenCache.open(tmp_path / "cache", KEY, PLENTY)


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_damaged_key_is_no_key(tmp_path, text):
    filled(tmp_path / "cache")
    (tmp_path / "cache" / KEY_FILE).write_text(text)
    with pytest.raises((StorageError, TrainingError), match="cache.*remove"):
        TokenCache.open(tmp_path / "cache", KEY, PLENTY)


def test_key_is_plain_json(tmp_path):
    filled(tmp_path / "cache")
    assert json.loads((tmp_path / "cache" / KEY_FILE).read_text()) == {
        "format_version": 1,
        "images_sha256": list(KEY.images_sha256),
        "backbone_sha256": KEY.backbone_sha256,
        "layers": [8, 12],
        "num_patches": 6,
        "dim": 4,
    }


@pytest.mark.parametrize("change", [{"images_sha256": ()}, {"num_patches": 0}, {"dim": 0}])
def test_cache_of_nothing_is_refused(change):
    with pytest.raises(TrainingError, match="nothing can be trained on it"):
        dataclasses.replace(KEY, **change)


def test_removed_cache_leaves_nothing(tmp_path):
    filled(tmp_path / "cache").remove()
    assert list(tmp_path.iterdir()) == []
    assert filled(tmp_path / "cache").missing() == []


def test_tokens_are_on_the_disk_before_their_image_counts(tmp_path, monkeypatch):
    """A power cut, unlike a kill, loses what is not."""
    cache = TokenCache.open(tmp_path / "cache", KEY, PLENTY)
    flush, flushed = np.memmap.flush, []

    def record(self):
        flush(self)
        flushed.append((os.path.basename(self.filename), cache.missing()))

    monkeypatch.setattr(np.memmap, "flush", record)
    cache.put(0, *tokens_of(0))
    nothing_yet = [(name, [0, 1, 2]) for name in (FILLED_FILE, *TOKEN_FILES)]
    assert flushed == [*nothing_yet, (FILLED_FILE, [1, 2])]


# Every process fills a cache and removes it, and is ended by SIGKILL at a line of the modules that
# write or delete, each at a later one, until one gets to its end. Each time the cache is looked at, filled up, and must be as it should be.
KILLED_EVERYWHERE = """
import itertools, os, shutil, signal, sys
from pathlib import Path
import test_token_cache as tests
tests.torch.set_num_threads(1)
base = Path(sys.argv[1])
key = tests.dataclasses.replace(tests.KEY, images_sha256=tests.KEY.images_sha256[:2])
expected = tests.contents(tests.filled(base / "never killed", key).folder)

def die_at(number):
    lines = itertools.count(1)
    def trace(frame, event, _):
        if not frame.f_code.co_filename.endswith(("token_cache.py", "artefact_store.py", "shutil.py")):
            return None
        if event == "line" and next(lines) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)

found = set()
for number in itertools.count(1, 3):
    cache = base / "cache"
    child = os.fork()
    if child == 0:
        die_at(number)
        tests.filled(cache, key).remove()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    opened = tests.TokenCache.open(cache, key, tests.PLENTY)
    found.add(tuple(opened.missing()))
    for index in {0, 1} - set(opened.missing()):
        for tokens, wanted in zip(opened.read([index]), tests.tokens_of(index)):
            assert tests.torch.equal(tokens[0], wanted), (number, index)
    assert tests.contents(tests.filled(cache, key).folder) == expected, number
    opened.remove()
    assert sorted(path.name for path in base.iterdir()) == ["never killed"], number
    if status == 0:
        break
print(number, sorted(found))
"""


def test_killed_at_any_line_it_is_filled_to_the_same_bytes(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED_EVERYWHERE, str(tmp_path)],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    number, found = done.stdout.split(" ", 1)
    assert int(number) > 100
    assert found.strip() == "[(), (0, 1), (1,)]"


def test_killed_removal_is_finished_by_the_next(tmp_path):
    """What a removal leaves is named as a killed build's leftovers are."""
    cache = filled(tmp_path / "cache")
    shutil.copytree(cache.folder, tmp_path / ".cache.partial")
    filled(tmp_path / "cache").remove()
    assert list(tmp_path.iterdir()) == []
