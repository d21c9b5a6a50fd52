"""Whether figures of the papers can be expected: whose weights the backbones had."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dinspect_bench.report.runs import RunRecord
from dinspect_export.variants import VARIANTS

DEMO_WEIGHTS_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
"""Of the packaged weights, a ViT-S/14 that their author fine-tuned for saliency."""
_HUGGING_FACE_SHA256 = {
    "dinov2_vits14": "ae1e99fcefd534ed978cdeb8326f08030c96e28b7a81ffcbc98a857c84d14be1"
}
"""Of `model.safetensors` in facebook/dinov2-small, where Meta publishes the same weights again."""
_OTHER = (
    "The weights of {who} are not DINOv2's own: no figure of the papers can be expected of them."
)
_UNKNOWN = (
    "It is not known that the weights of {who} are DINOv2's own: no figure of the papers can be "
    "expected of them."
)


def weights_cautions(records: Iterable[RunRecord]) -> list[str]:
    """What a reader must know of the weights behind the figures of accuracy.

    A record tells the digest of the weights. There are digests of files that Meta publishes, and
    that of the packaged weights; of any other digest it is not known whose weights they are.

    Args:
        records: Records of kind ``accuracy``.

    Returns:
        A sentence for the backbones that are not, and one for those of which it is not known.
    """
    others: dict[str, None] = {}
    unknown: dict[str, None] = {}
    for one in records:
        who = f"{one.values['backbone']} in run {one.run}"
        is_own = _is_own(one.values)
        if is_own is None:
            unknown[who] = None
        elif not is_own:
            others[who] = None
    return [
        text.format(who=" and ".join(names))
        for text, names in ((_OTHER, others), (_UNKNOWN, unknown))
        if names
    ]


def _is_own(record: dict[str, Any]) -> bool | None:
    """Whether the weights are the published ones; None if there is no telling."""
    if record.get("fine_tuned"):
        return False
    told, name = record.get("weights_sha256"), record["backbone"]
    if told == DEMO_WEIGHTS_SHA256:
        return False
    published = {_HUGGING_FACE_SHA256.get(name)}
    if name in VARIANTS:
        published.add(VARIANTS[name].checkpoint_sha256)
    return True if told is not None and told in published else None
