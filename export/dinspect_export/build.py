"""The incremental build: make what ``engines.toml`` describes and is not there, or not current.

Graphs are made of weights, engines of graphs. An artefact is current when its files are whole and
its recipe would be the same today. An engine depends on its graph's bytes, not on how they came
about: a graph that is exported again and comes out the same leaves its engines current.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dinspect_export.artefact_store import exclusive
from dinspect_export.build_items import EngineItem
from dinspect_export.build_plan import Plan
from dinspect_export.description import Description
from dinspect_export.manifest import MANIFEST_FILE, Manifest, read_manifest


@dataclass(frozen=True)
class Outcome:
    """What became of one artefact.

    Attributes:
        name: The artefact.
        action: ``current``, ``stale`` (only told) or ``built``.
        reasons: Why it is or was stale.
        elapsed_s: Seconds it took to make.
        manifest: Its record; None while it is stale.
    """

    name: str
    action: str
    reasons: list[str] = field(default_factory=list)
    elapsed_s: float = 0.0
    manifest: Manifest | None = None


def build(description: Description, *, force: bool = False) -> Iterator[Outcome]:
    """Make what is stale, in order, and tell of each artefact as it is done.

    Args:
        description: What to make.
        force: Make everything, current or not.

    Raises:
        ExportError: At the first artefact that cannot be made; those before it are kept.
    """
    with exclusive(description.artefacts_dir), exclusive(description.engines_dir):
        for item in Plan(description, download=True).items:
            reasons = ["forced"] if force else item.stale_reasons()
            if not reasons:
                yield Outcome(item.name, "current", manifest=read_manifest(item.path))
                continue
            started = time.monotonic()
            manifest = item.make()
            yield Outcome(item.name, "built", reasons, time.monotonic() - started, manifest)


def check(description: Description) -> Iterator[Outcome]:
    """Tell of each artefact whether it is current; nothing is written and nothing is downloaded.

    Raises:
        ExportError: If the description, the weights or the images cannot be used.
    """
    stale: set[str] = set()
    for item in Plan(description, download=False).items:
        if isinstance(item, EngineItem) and item.graph.name in stale:
            reasons = [f"its graph {item.graph.name} is stale"]
        else:
            reasons = item.stale_reasons()
        if reasons:
            stale.add(item.name)
        yield Outcome(
            item.name, "stale" if reasons else "current", reasons,
            manifest=None if reasons else read_manifest(item.path),
        )  # fmt: skip


def undescribed(description: Description) -> list[Path]:
    """Folders of artefacts that lie among the described ones and are none of them.

    They are what an earlier description made, or another command; nothing removes them but
    `prune`.
    """
    described = {item.path for item in Plan(description, download=False).items}
    found = (
        path.parent
        for folder in (description.artefacts_dir, description.engines_dir)
        for path in folder.glob(f"[!.]*/{MANIFEST_FILE}")
    )
    return sorted(path for path in found if path not in described)


def prune(description: Description) -> list[Path]:
    """Remove what `undescribed` lists, and return it."""
    with exclusive(description.artefacts_dir), exclusive(description.engines_dir):
        folders = undescribed(description)
        for folder in folders:
            shutil.rmtree(folder)
    return folders


def cache_key(description: Description) -> str:
    """One digest over everything the artefacts depend on, to name a cache of them by.

    Meta's weights are fetched for it if they are not there.

    Raises:
        ExportError: If the description, the weights or the images cannot be used.
    """
    plan = Plan(description, download=True)
    recipes = [item.recipe.to_dict() for item in plan.items]
    return hashlib.sha256(json.dumps(recipes, sort_keys=True).encode()).hexdigest()
