"""Masking and rotation: which setting asks for what, and the rotated references.

Source: AnomalyDINO, Section C.1, Tables 8 and 9b; the authors' `src/utils.py::get_dataset_info`
(names of the settings) and `augment_image` (the rotations).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from refusals import InspectionRefused

ROTATIONS_DEG = (0, 45, 90, 135, 180, 225, 270, 315)
DEFAULT_SETTING = "agnostic"


class Setting(NamedTuple):
    """What a named setting asks for.

    Attributes:
        masking: ``test`` (the masking test decides), ``always`` or ``never``.
        rotation: ``always``, ``never``, or ``known`` (what the engineer says of the parts).
    """

    masking: str
    rotation: str


SETTINGS = {
    "agnostic": Setting("test", "always"),
    "informed": Setting("test", "known"),
    "masking_only": Setting("test", "never"),
    # The rows of Table 9b.
    "no_mask_no_rotation": Setting("never", "never"),
    "no_mask_rotation": Setting("never", "always"),
    "mask_no_rotation": Setting("always", "never"),
    "mask_rotation": Setting("always", "always"),
}


def check_setting(name: str, *, rotated: bool, texture: bool) -> Setting:
    """The setting of a name.

    Args:
        name: Name in `SETTINGS`.
        rotated: Whether parts are said to come in any orientation.
        texture: Whether parts are said to be a surface without background.

    Raises:
        InspectionRefused: If there is none of that name, or it contradicts what is said.
    """
    if name not in SETTINGS:
        raise InspectionRefused(
            f"preprocessing is {name!r}, expected one of {', '.join(sorted(SETTINGS))}"
        )
    setting = SETTINGS[name]
    if rotated and setting.rotation != "known":
        raise InspectionRefused(
            f"'rotated' says how parts come, which preprocessing {name!r} does not ask; it goes "
            "with 'informed'"
        )
    if texture and setting.masking == "always":
        raise InspectionRefused(
            f"preprocessing {name!r} masks always, but a texture is never masked"
        )
    return setting


def rotations_of(setting: Setting, *, rotated: bool) -> tuple[int, ...]:
    """Angles in degrees of each reference in the memory bank, the image itself first."""
    turned = setting.rotation == "always" or (setting.rotation == "known" and rotated)
    return ROTATIONS_DEG if turned else (0,)


def rotate(image: NDArray[np.uint8], angle_deg: int) -> NDArray[np.uint8]:
    """Turn an image about its centre: bilinear, reflected border, same size.

    Args:
        image: ``(H, W, 3)`` uint8.
        angle_deg: Counter-clockwise.
    """
    if angle_deg == 0:
        return image
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle_deg, 1.0)
    turned = cv2.warpAffine(
        image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    return turned.astype(np.uint8)


def rotations(image: NDArray[np.uint8], angles_deg: Sequence[int]) -> list[NDArray[np.uint8]]:
    """An image at each of the angles."""
    return [rotate(image, angle_deg) for angle_deg in angles_deg]
