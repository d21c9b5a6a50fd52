"""The outcome of holding one runtime against PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dinspect_export.errors import ParityError


@dataclass(frozen=True)
class Proof:
    """Figures of agreement, and whether they are good enough.

    Attributes:
        runtime: What ran, e.g. ``onnxruntime``.
        figures: The measured figures, JSON-ready, as a manifest records them.
        failures: Each tolerance that is not kept, in words; empty when all are.
    """

    runtime: str
    figures: dict[str, Any]
    failures: list[str]

    def demanded_of(self, artefact: str) -> Proof:
        """This proof, if it is one.

        Raises:
            ParityError: If a tolerance is not kept.
        """
        if self.failures:
            raise ParityError(
                f"{artefact} run by {self.runtime}: {'; '.join(self.failures)}; nothing was written"
            )
        return self
