"""What all tests share: real images, the exported packaged backbone, one real running server."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

import dinspect_client.wire

# Two test processes share the cores: a thread that waits must not spin. Read when PyTorch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# The models' sources import the wire contract as their sibling `wire`, as the assembler places it.
sys.modules.setdefault("wire", dinspect_client.wire)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark by folder; what needs the server takes longest and is begun first."""
    for item in items:
        if "integration" in item.path.parts:
            item.add_marker(pytest.mark.integration)
    items.sort(key=lambda item: "integration" not in item.path.parts)


@pytest.fixture(scope="session")
def cells():
    """The solar cells of elpv-dataset, as the demo reads them."""
    from dinspect_bench.datasets.elpv import load_elpv

    return load_elpv()


@pytest.fixture(scope="session")
def split(cells):
    """The demo's own split: 32 references, 60 functional and 60 defective cells."""
    from dinspect_bench.datasets.elpv import split_cells

    return split_cells(cells)


@pytest.fixture(scope="session")
def description(split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished build of the packaged ViT-S/14 at 448 x 448 and 448 x 588, by its description."""
    return _build_once("plant", split, [448, "448x588"], tmp_path_factory)


@pytest.fixture(scope="session")
def artefacts_dir(description: Path) -> Path:
    """The folder of what was built."""
    return description.parent / "build" / "artefacts"


@pytest.fixture(scope="session")
def torch_network():
    """The same backbone in PyTorch, for any size."""
    from dinspect_export.checkpoints import load_checkpoint, network_from_checkpoint

    return network_from_checkpoint(load_checkpoint("packaged", "dinov2_vits14", Path()))


@pytest.fixture(scope="session")
def torch_backbone(torch_network):
    """At 448 x 448: the truth the server is held to."""
    from dinspect_export.backbone import ExportableBackbone

    return ExportableBackbone(torch_network, (32, 32), [12]).eval()


@pytest.fixture(scope="session")
def torch_tokens(torch_network):
    """Tokens of block 12 of pixels of any size, each image computed once."""
    from integration.slow_product import TorchTokens

    return TorchTokens(torch_network, 12)


@pytest.fixture(scope="session")
def served(artefacts_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """A real server with what the demo serves (precision auto), and an empty store of products."""
    yield from _serve(artefacts_dir, tmp_path_factory.mktemp("served"), "auto")


@pytest.fixture(scope="session")
def served_fp32(artefacts_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """A real server in FP32, for comparison with the reference to the last digits."""
    yield from _serve(artefacts_dir, tmp_path_factory.mktemp("served_fp32"), "fp32")


@pytest.fixture(scope="session")
def served_sizes(split, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """A real server in FP32 of the paper's other resolutions, and of a 3:4 camera held upright."""
    sizes = [224, 672, 896, "294x224", "588x448"]
    path = _build_once("sizes", split, sizes, tmp_path_factory)
    artefacts = path.parent / "build" / "artefacts"
    yield from _serve(artefacts, tmp_path_factory.mktemp("served_sizes"), "fp32")


@pytest.fixture(scope="session")
def cookies() -> Path:
    """Cookies on a tray, 576 x 768 px: a product that is masked. They are in no package."""
    folder = Path(__file__).parents[2] / "shared" / "data" / "cookie"
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}")
    return folder


def _build_once(name: str, split, sizes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished build that all processes of a test run share; the path of its description."""
    from integration.builds import describe

    from dinspect_export.build import build
    from dinspect_export.description import read_description

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        path = describe(folder, split, sizes)
        outcomes = list(build(read_description(path)))
    assert [outcome.action for outcome in outcomes] in (
        ["built"] * len(sizes),
        ["current"] * len(sizes),
    )
    return path


def _serve(artefacts_dir: Path, repository: Path, precision: str) -> Iterator:
    from dinspect_server.assemble import ServingOptions, assemble
    from dinspect_server.embedded import EmbeddedTriton

    assemble(artefacts_dir, repository, ServingOptions(precision=precision))
    with EmbeddedTriton(repository) as server:
        yield server
