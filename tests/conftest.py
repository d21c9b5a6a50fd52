"""What all tests share: real images, the exported packaged backbone, one real running server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dinspect_client.wire

# The models' sources import the wire contract as their sibling `wire`, as the assembler places it.
sys.modules.setdefault("wire", dinspect_client.wire)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark by folder, and run what needs the server last."""
    for item in items:
        if "integration" in item.path.parts:
            item.add_marker(pytest.mark.integration)
    items.sort(key=lambda item: "integration" in item.path.parts)


@pytest.fixture(scope="session")
def cells():
    """The solar cells of elpv-dataset, as the demo reads them."""
    from dinspect_bench.datasets import load_elpv

    return load_elpv()


@pytest.fixture(scope="session")
def split(cells):
    """The demo's own split: 32 references, 60 functional and 60 defective cells."""
    from dinspect_bench.datasets import split_cells

    return split_cells(cells)


@pytest.fixture(scope="session")
def description(split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished build of the packaged ViT-S/14 at 448 x 448 and 448 x 588, by its description."""
    from dinspect_export.build import build
    from dinspect_export.description import read_description

    path = tmp_path_factory.mktemp("plant") / "engines.toml"
    path.write_text(
        f"""
        [check]
        images = ["{split.enrolled[0]}"]
        [[backbone]]
        variant = "dinov2_vits14"
        weights = "packaged"
        sizes = [448, "448x588"]
        precisions = ["fp32"]
        """
    )
    outcomes = list(build(read_description(path)))
    assert [outcome.action for outcome in outcomes] == ["built", "built"]
    return path


@pytest.fixture(scope="session")
def artefacts_dir(description: Path) -> Path:
    """The folder of what was built."""
    return description.parent / "build" / "artefacts"


@pytest.fixture(scope="session")
def torch_backbone():
    """The same backbone in PyTorch at 448 x 448: the truth the server is held to."""
    from dinspect_export.backbone import ExportableBackbone
    from dinspect_export.checkpoints import load_checkpoint, network_from_checkpoint

    checkpoint = load_checkpoint("packaged", "dinov2_vits14", Path())
    return ExportableBackbone(network_from_checkpoint(checkpoint), (32, 32), [12]).eval()


@pytest.fixture(scope="session")
def served(artefacts_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """A real server with what the demo serves (precision auto), and an empty store of products."""
    yield from _serve(artefacts_dir, tmp_path_factory.mktemp("served"), "auto")


@pytest.fixture(scope="session")
def served_fp32(artefacts_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """A real server in FP32, for comparison with the reference to the last digits."""
    yield from _serve(artefacts_dir, tmp_path_factory.mktemp("served_fp32"), "fp32")


def _serve(artefacts_dir: Path, repository: Path, precision: str) -> Iterator:
    from dinspect_server.assemble import ServingOptions, assemble
    from dinspect_server.embedded import EmbeddedTriton

    assemble(artefacts_dir, repository, ServingOptions(precision=precision))
    with EmbeddedTriton(repository) as server:
        yield server
