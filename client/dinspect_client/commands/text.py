"""What subcommands say in words: versions, thresholds, tables."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dinspect_client.methods import called
from dinspect_client.versions import ProductVersion, VersionRecord
from dinspect_client.wire import Method

if TYPE_CHECKING:
    from tqdm import tqdm


def shown(path: str | os.PathLike[str]) -> str:
    """A path that any terminal takes, also if its bytes are no text."""
    return os.fspath(path).encode("utf-8", "replace").decode("utf-8")


def plural(number: int, what: str) -> str:
    """A number of things: ``1 image``, ``2 images``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def method_option(method: str) -> str:
    """What a command line says further for a method; nothing for the default one."""
    return "" if method == Method.ANOMALY_DINO else f" --method {method}"


def title(version: VersionRecord) -> str:
    """What a line begins with that is about a version."""
    return f"{called(version.product, version.method)} version {version.version}"


def describe_version(version: VersionRecord) -> str:
    """One line on a version that was just made: from what, and how it decides."""
    return (
        f"{title(version)}: {plural(version.num_references, 'image')}, "
        f"{version.num_patches} patches, {describe_thresholds(version)}, "
        f"inspected by {version.ensemble}"
    )


def describe_thresholds(version: VersionRecord) -> str:
    """The thresholds of a version, and where they come from."""
    text = f"threshold {version.threshold:.4g} ({version.calibration.method})"
    if version.normal_below < version.threshold:
        text += f", normal up to {version.normal_below:.4g}"
    return text


def threshold_note(version: VersionRecord) -> str:
    """Say when thresholds rest on fewer scores than their rates can be read from; else nothing."""
    calibration = version.calibration
    rate, num_scores = calibration.false_positive_rate, len(calibration.reference_scores)
    if rate is None:
        return ""
    if calibration.method == "rotations_of_the_only_reference":
        return (
            "note: one image cannot say how good parts differ. Parts below the threshold, found by "
            "turning it, are answered undecided, not normal: enrol more images, give others with "
            "--good, or set the threshold by hand"
        )
    if num_scores * rate >= 1:
        return ""
    return (
        f"note: the threshold is the largest of {num_scores} scores of good images; a false "
        f"positive rate of {rate:g} needs {math.ceil(1 / rate)} or more. One odd image sets it: "
        "look at the first verdicts, or set the threshold by hand"
    )


def foreground_note(version: ProductVersion) -> str:
    """Say when no part can be called normal because a reference has nothing but background."""
    share = version.preprocessing.foreground_share
    if share is None or share[0] > 0:
        return ""
    return (
        "note: the background is masked, and one reference at least is all background, so that "
        "no part will be called normal. Enrol anew with --texture if parts fill the image, or "
        "without that reference"
    )


def loss_note(version: ProductVersion) -> str:
    """Say what a faster search or a thinner bank changes; nothing where it is exact."""
    loss = version.scoring.measured_loss
    if loss is None:
        return ""
    return (
        f"note: against exact search in all patches, scores of {plural(loss.images, 'image')} "
        f"changed by up to {loss.max_score_change:.2%}, patch distances by up to "
        f"{loss.max_distance_error:.2g}"
    )


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows in columns of equal width; the first is the head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def progress_bar(what: str, *, total: int | None, unit: str) -> tqdm[Any]:
    """A progress bar on a terminal's stderr, and nothing elsewhere."""
    from tqdm import tqdm

    in_bytes = unit == "B"
    return tqdm(total=total, unit=unit, unit_scale=in_bytes, desc=what, leave=False, disable=None)
