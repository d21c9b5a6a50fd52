"""Write files so that a reader sees the old content or the new, never a part."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_text_atomically(path: Path, text: str) -> None:
    """Write UTF-8 text under another name and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def json_text(record: Mapping[str, Any]) -> str:
    """Readable JSON.

    Raises:
        ValueError: If a number is not finite; JSON has no word for it.
    """
    return json.dumps(record, indent=2, allow_nan=False) + "\n"
