"""How one figure is measured: by which method, from which images, at which settings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from dinspect_bench.datasets.few_shot import CONSECUTIVE, RANDOM
from dinspect_bench.records import Record
from dinspect_client.wire import Method

DEFAULT_RESOLUTION_PX = 448
DEFAULT_EPOCHS = 50
"""L2BT's, Section IV-B.2."""
FEW_SHOT_PREPROCESSING, FULL_PREPROCESSING = "agnostic", "masking_only"
"""AnomalyDINO's: Tables 6 and 7 rotate every reference, the full-shot row of Table 9a does not."""
L2BT_PREPROCESSING = "pad"
ALL_IMAGES = "all"
USUAL_SELECTIONS = {Method.ANOMALY_DINO: CONSECUTIVE, Method.L2BT: RANDOM}
"""Of few shots by method: AnomalyDINO's code takes slices, L2BT's Section V says "randomly"."""
TESTED_MASKING = ("agnostic", "informed", "masking_only")
"""Settings that mask only where a test says so, and never a texture."""
KNOWN_ROTATION = "informed"
"""The setting that rotates references only where parts are known to come in any orientation."""


@dataclass(frozen=True)
class Protocol:
    """What a row of the results is, besides the data and the server.

    Attributes:
        method: ``anomaly_dino`` or ``l2bt``.
        shots: Good images of each category to learn from; None for all.
        seed: Which ones; 0 when it is all.
        selection: How they are chosen, see `few_shot`; ``all`` when it is all.
        resolution: Shorter edge (AnomalyDINO) or edge of the padded square (L2BT), in pixels.
        preprocessing: The setting AnomalyDINO enrols with; ``pad`` for L2BT.
        epochs: Of L2BT's training; None for AnomalyDINO, which has none.
    """

    method: str
    shots: int | None
    seed: int
    selection: str
    resolution: int
    preprocessing: str
    epochs: int | None

    @property
    def masks_by_test(self) -> bool:
        """Whether it makes a difference that a category is a texture."""
        return self.preprocessing in TESTED_MASKING

    @property
    def rotates_if_known(self) -> bool:
        """Whether it makes a difference that a category's parts are rotated."""
        return self.preprocessing == KNOWN_ROTATION

    def key(self) -> Record:
        """The settings as a record has them."""
        return asdict(self)

    def __str__(self) -> str:
        """What a person calls it: ``anomaly_dino, 4 shots, seed 1``."""
        if self.shots is None:
            return f"{self.method}, all images"
        return f"{self.method}, {self.shots} shot{'s' * (self.shots > 1)}, seed {self.seed}"


def plan_protocols(
    methods: Iterable[str],
    shots: Sequence[int | None],
    seeds: Iterable[int],
    *,
    selection: str | None = None,
    resolution: int = DEFAULT_RESOLUTION_PX,
    preprocessing: str | None = None,
    epochs: int = DEFAULT_EPOCHS,
) -> list[Protocol]:
    """Every combination once.

    All of a category's images are chosen in one way only, so ``None`` among the shots is measured
    once, whatever the seeds.

    Args:
        methods: ``anomaly_dino``, ``l2bt``.
        shots: Numbers of images to learn from; None for all.
        seeds: Seeds of the few-shot selection.
        selection: ``consecutive`` or ``random``; None for the paper's, which depends on the method.
        resolution: In pixels.
        preprocessing: Of AnomalyDINO; None for the paper's, which depends on the shots.
        epochs: Of L2BT.
    """
    chosen = dict.fromkeys(
        (count, seed if count is not None else 0) for count in shots for seed in seeds
    )
    protocols = []
    for method in methods:
        is_l2bt = method == Method.L2BT
        few = selection or USUAL_SELECTIONS[method]
        for count, seed in chosen:
            how = ALL_IMAGES if count is None else few
            usual = FULL_PREPROCESSING if count is None else FEW_SHOT_PREPROCESSING
            setting = L2BT_PREPROCESSING if is_l2bt else preprocessing or usual
            protocols.append(
                Protocol(method, count, seed, how, resolution, setting, epochs if is_l2bt else None)
            )
    return protocols
