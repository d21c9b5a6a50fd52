"""What the caller of a zero-shot batch may choose, validated."""

from __future__ import annotations

from dataclasses import dataclass

from image_preparation import PATCH_SIZE
from image_score import IMAGE_SCORES
from mutual_scoring import STATISTICS
from option_checks import (
    check_repeats,
    is_flag,
    is_integer,
    is_number,
    is_text,
    read_options,
    require,
)

MASKINGS = ("test", "always", "never")
_OF_ONE_PART = ("image_names", "num_staged", "score", "close")


@dataclass(frozen=True)
class ZeroShotOptions:
    """Options of one request of a batch; None where nothing was said.

    Attributes:
        session: Joins the requests of one batch.
        num_staged: Images that earlier parts brought; None with ``score``.
        image_names: Names of this part's images, as many as images.
        resolution: Shorter edge in pixels.
        masking: ``test`` (the masking test on the first image decides), ``always`` or ``never``.
        alpha: Share in (0, 1) of the nearest distances that counts.
        statistic: One of `mutual_scoring.STATISTICS`.
        image_score: Name in `image_score.IMAGE_SCORES`.
        score: Number of the image to score, from 0.
        close: Forget the batch after this request.
    """

    session: str = ""
    num_staged: int | None = None
    image_names: tuple[str, ...] = ()
    resolution: int | None = None
    masking: str | None = None
    alpha: float | None = None
    statistic: str | None = None
    image_score: str | None = None
    score: int | None = None
    close: bool = False

    @classmethod
    def from_json(cls, value: object) -> ZeroShotOptions:
        """Validate the request's options.

        Raises:
            InspectionRefused: If a key is unknown or a value of the wrong kind.
        """
        given = read_options(value, set(cls.__dataclass_fields__))
        names = given.get("image_names", [])
        named = isinstance(names, list) and all(is_text(name) for name in names)
        require(named, "image_names", "a list of short strings", names)
        options = cls(**(given | {"image_names": tuple(names)}))
        session = options.session
        require(is_text(session) and bool(session), "session", "a name that joins parts", session)
        for key in ("num_staged", "score"):
            number = getattr(options, key)
            require(number is None or is_integer(number, 0), key, "0 or more", number)
        require(is_flag(options.close), "close", "true or false", options.close)
        options._check_scoring()
        return options

    def _check_scoring(self) -> None:
        size, share = self.resolution, self.alpha
        fits = size is None or (is_integer(size, 1) and size % PATCH_SIZE == 0)
        require(fits, "resolution", f"a multiple of the {PATCH_SIZE} px patch", size)
        fits = share is None or (is_number(share) and 0 < share < 1)
        require(fits, "alpha", "a share between 0 and 1", share)
        for key, known in (
            ("masking", MASKINGS),
            ("statistic", STATISTICS),
            ("image_score", IMAGE_SCORES),
        ):
            name = getattr(self, key)
            require(name is None or name in known, key, f"one of {', '.join(known)}", name)

    def check_repeats(self, first: ZeroShotOptions) -> None:
        """Refuse a later request that asks for something else than the first did.

        Raises:
            InspectionRefused: Naming the option.
        """
        check_repeats(self, first, _OF_ONE_PART, "batch")
