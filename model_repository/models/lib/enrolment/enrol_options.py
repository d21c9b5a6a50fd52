"""What the caller of an enrolment may choose, validated."""

from __future__ import annotations

from dataclasses import dataclass

from bundle import MAX_NEIGHBOURS, SEARCHES
from image_preparation import PATCH_SIZE
from image_score import DEFAULT_IMAGE_SCORE, IMAGE_SCORES
from option_checks import (
    check_repeats,
    is_flag,
    is_integer,
    is_number,
    is_text,
    read_options,
    require,
)
from preprocessing import DEFAULT_SETTING, check_setting
from refusals import InspectionRefused
from thresholds import ThresholdChoice

ROLES = ("reference", "good")
MAX_RESOLUTION = 14_000
LARGEST_DISTANCE = 2.0

_OF_THE_BANK = (
    "resolution",
    "preprocessing",
    "rotated",
    "texture",
    "num_neighbours",
    "image_score",
    "search",
    "coreset_fraction",
)
_OF_ONE_PART = ("image_names", "session", "num_staged", "commit", "role")


@dataclass(frozen=True)
class EnrolOptions:
    """Options of one part of an enrolment; None where nothing was said.

    Attributes:
        resolution: Shorter edge in pixels.
        preprocessing: Name in `preprocessing.SETTINGS`.
        rotated: Parts come in any orientation; asked by ``informed``.
        texture: Parts are a surface without background, never masked.
        num_neighbours: Rows of the bank each patch is compared with.
        image_score: Name in `image_score.IMAGE_SCORES`.
        search: ``exact`` or ``ivf``.
        coreset_fraction: Share in (0, 1] of the patches to keep.
        false_positive_rate: Share in (0, 1) of good parts that may be anomalous.
        undecided_rate: Share in [0, 1) of good parts that may be undecided besides.
        threshold: Set by hand instead.
        normal_below: Set by hand, with ``threshold``; not above it.
        append: Continue from the version in force.
        activate: Whether the new version is in force at once.
        operator: Who enrols.
        role: What this part's images are: ``reference`` (for the bank) or ``good`` (for the
            thresholds only).
        image_names: Names of this part's images, as many as images.
        session: Joins the parts of one enrolment, empty for a single request.
        num_staged: Images that earlier parts of the session brought.
        commit: Whether this is the last part.
    """

    resolution: int | None = None
    preprocessing: str | None = None
    rotated: bool | None = None
    texture: bool | None = None
    num_neighbours: int | None = None
    image_score: str | None = None
    search: str | None = None
    coreset_fraction: float | None = None
    false_positive_rate: float | None = None
    undecided_rate: float | None = None
    threshold: float | None = None
    normal_below: float | None = None
    append: bool | None = None
    activate: bool | None = None
    operator: str | None = None
    role: str = "reference"
    image_names: tuple[str, ...] = ()
    session: str = ""
    num_staged: int = 0
    commit: bool = True

    @classmethod
    def from_json(cls, value: object) -> EnrolOptions:
        """Validate the request's options.

        Raises:
            InspectionRefused: If a key is unknown or a value of the wrong kind.
        """
        given = read_options(value, set(cls.__dataclass_fields__))
        names = given.get("image_names", [])
        named = isinstance(names, list) and all(is_text(name) for name in names)
        require(named, "image_names", "a list of short strings", names)
        options = cls(**(given | {"image_names": tuple(names)}))
        options._check_bank()
        options.thresholds.check(LARGEST_DISTANCE, "a cosine distance in [0, 2]")
        options._check_part(said=set(given))
        return options

    def _check_bank(self) -> None:
        size = self.resolution
        fits = size is None or (is_integer(size, 1) and size <= MAX_RESOLUTION)
        require(
            fits and (size or 0) % PATCH_SIZE == 0,
            "resolution",
            f"a multiple of the {PATCH_SIZE} px patch up to {MAX_RESOLUTION}",
            size,
        )
        for key in ("rotated", "texture", "append", "activate"):
            flag = getattr(self, key)
            require(flag is None or is_flag(flag), key, "true or false", flag)
        count = self.num_neighbours
        fits = count is None or (is_integer(count, 1) and count <= MAX_NEIGHBOURS)
        require(fits, "num_neighbours", f"an integer from 1 to {MAX_NEIGHBOURS}", count)
        share = self.coreset_fraction
        fits = share is None or (is_number(share) and 0 < share <= 1)
        require(fits, "coreset_fraction", "a share above 0 and up to 1", share)
        for key, known in (("image_score", IMAGE_SCORES), ("search", SEARCHES), ("role", ROLES)):
            name = getattr(self, key)
            require(name is None or name in known, key, f"one of {', '.join(known)}", name)
        name = self.preprocessing
        require(name is None or is_text(name), "preprocessing", "a setting's name", name)
        check_setting(
            DEFAULT_SETTING if name is None else name,
            rotated=bool(self.rotated),
            texture=bool(self.texture),
        )

    def _check_part(self, said: set[str]) -> None:
        require(is_flag(self.commit), "commit", "true or false", self.commit)
        require(is_integer(self.num_staged, 0), "num_staged", "0 or more", self.num_staged)
        for key in ("operator", "session"):
            text = getattr(self, key)
            require(text is None or is_text(text), key, "a short string", text)
        if "session" in said and "num_staged" not in said:
            raise InspectionRefused(
                "a part of a session must say in 'num_staged' how many images it follows (0 for "
                "the first part), so that a lost part is noticed"
            )
        if self.append:
            fixed = [key for key in _OF_THE_BANK if getattr(self, key) is not None]
            if fixed:
                raise InspectionRefused(
                    f"an appended version keeps {', '.join(fixed)} of the version in force; to "
                    "change that, enrol the product again with all its images"
                )

    def check_repeats(self, first: EnrolOptions) -> None:
        """Refuse a later part that asks for something else than the first did.

        Raises:
            InspectionRefused: Naming the option.
        """
        check_repeats(self, first, _OF_ONE_PART, "enrolment")

    @property
    def image_score_name(self) -> str:
        """The image score asked for, or the default."""
        return self.image_score or DEFAULT_IMAGE_SCORE

    @property
    def thresholds(self) -> ThresholdChoice:
        """What is said of the thresholds."""
        return ThresholdChoice(
            self.threshold, self.normal_below, self.false_positive_rate, self.undecided_rate
        )
