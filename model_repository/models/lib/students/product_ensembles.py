"""The ensembles of L2BT's products: one per product and input size, made when it is published.

An ensemble is configuration alone; all products share the models it names. Its folder appears among
the served models whole or not at all, and stays for the next start of the server.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from durable_files import flush, write_durably
from refusals import InspectionRefused
from wire import l2bt_model
from work_folder import hidden_path, remove

CONFIG_FILE = "config.pbtxt"
PRODUCT_MARK, LAYER_MARKS = "@PRODUCT@", ("@LAYER_J@", "@LAYER_K@")
"""What a template has in the place of a product's name and its students' two blocks."""


@dataclass(frozen=True)
class ModelControl:
    """How the running server is told of a model.

    Attributes:
        load: Loads a model whose folder is there, by name.
        unload: Takes a model out of service; requests in flight are finished.
    """

    load: Callable[[str], None]
    unload: Callable[[str], None]


class ProductEnsembles:
    """The ensembles below a served repository.

    Args:
        models: Folder of the served models.
        templates: Folder with ``l2bt_<size>[_raw].pbtxt``, written by the assembler.
        hidden: Folder on the same file system for what is not yet, or no longer, a model.
        control: The running server.
    """

    def __init__(self, models: Path, templates: Path, hidden: Path, control: ModelControl) -> None:
        self._models = models
        self._templates = templates
        self._hidden = hidden
        self._control = control

    def ensure(self, product: str, label: str, layers: Sequence[int]) -> None:
        """Serve a product's ensembles for an input size, if they are not served yet.

        Args:
            product: Product name.
            label: Input size.
            layers: Blocks ``(j, k)`` that its students translate.

        Raises:
            InspectionRefused: If they are served for other blocks.
        """
        for raw in (False, True):
            name = l2bt_model(product, label, raw=raw)
            config = self._config(product, label, layers, raw=raw)
            target = self._models / name
            made = not target.exists()
            if made:
                self._write(target, config)
            elif (target / CONFIG_FILE).read_text(encoding="utf-8") != config:
                raise InspectionRefused(
                    f"'{name}' is served for students of other blocks than {list(layers)}; delete "
                    "the product first, or train under another name"
                )
            try:
                self._control.load(name)  # nothing happens if it is loaded
            except BaseException:
                if made:  # else the server would not start again
                    self._discard(target)
                raise

    def remove(self, product: str, labels: Iterable[str]) -> None:
        """Take a product's ensembles out of service and delete them."""
        for label in labels:
            for raw in (False, True):
                folder = self._models / l2bt_model(product, label, raw=raw)
                if folder.exists():
                    self._control.unload(folder.name)
                    self._discard(folder)

    def _discard(self, folder: Path) -> None:
        doomed = hidden_path(self._hidden)
        folder.rename(doomed)
        flush(self._models)
        remove(doomed)

    def _config(self, product: str, label: str, layers: Sequence[int], *, raw: bool) -> str:
        template = self._templates / f"l2bt_{label}{'_raw' if raw else ''}.pbtxt"
        try:
            text = template.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise InspectionRefused(
                f"input size {label} is no square, and L2BT pads images to one; train at a square "
                "size"
            ) from None
        for mark, layer in zip(LAYER_MARKS, layers, strict=True):
            text = text.replace(mark, str(layer))
        return text.replace(PRODUCT_MARK, product)

    def _write(self, target: Path, config: str) -> None:
        staged = hidden_path(self._hidden)
        try:
            (staged / "1").mkdir(parents=True)  # Triton asks for a version's folder
            write_durably(staged / CONFIG_FILE, config.encode("utf-8"))
            staged.rename(target)
            flush(self._models)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
