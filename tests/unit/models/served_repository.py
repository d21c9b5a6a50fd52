"""The folders of a served repository, and a server that is told of the models in it."""

from __future__ import annotations

import os

from dinspect_server.l2bt_ensembles import write_templates
from dinspect_server.triton_config import BackboneModel
from product_ensembles import CONFIG_FILE, ModelControl, ProductEnsembles

NAMES = ["l2bt_screw_28", "l2bt_screw_28_raw"]


class Triton:
    """A server that notes what it is told, and looks whether the model is there as it should."""

    def __init__(self, models):
        self._models = models
        self.told = []
        self.failing = ""

    def load(self, name):
        assert sorted(os.listdir(self._models / name)) == ["1", CONFIG_FILE]
        self.told.append(("load", name))
        if name == self.failing:
            raise RuntimeError(f"cannot load {name}")

    def unload(self, name):
        assert (self._models / name / CONFIG_FILE).is_file()
        self.told.append(("unload", name))

    def control(self):
        return ModelControl(self.load, self.unload)


class Repository:
    """The folders of a served repository."""

    def __init__(self, root, hidden="hidden"):
        self.models, self.templates, self.hidden = root / "models", root / "manage", root / hidden
        for folder in (self.models, self.templates, self.hidden):
            folder.mkdir(parents=True)
        sizes = [((2, 2), "28"), ((2, 3), "28x42"), ((4, 4), "56")]
        write_templates(
            self.templates,
            [BackboneModel(f"vit_{label}", grid, 8, (4, 8, 12)) for grid, label in sizes],
        )
        self.start()

    def start(self):
        """A server, and what makes ensembles in it."""
        self.triton = Triton(self.models)
        self.ensembles = ProductEnsembles(
            self.models, self.templates, self.hidden, self.triton.control()
        )

    def there(self):
        return sorted(os.listdir(self.models))
