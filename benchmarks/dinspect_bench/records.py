"""Records of measurements that survive an interruption."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class RecordFile:
    """Records of a study, one JSON object per line, appended as they are measured.

    Args:
        path: The file; what it holds already is kept.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def read(self) -> list[Record]:
        """All whole records, oldest first; a line cut short by a kill is left out."""
        if not self._path.exists():
            return []
        records = []
        for line in self._path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                records.append(json.loads(line))
        return records

    def append(self, record: Record) -> None:
        """Add one record."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, sort_keys=True, allow_nan=False) + "\n")

    def find(self, **key: Any) -> Record | None:
        """The last record whose values are those of a key."""
        for record in reversed(self.read()):
            if all(record.get(name) == value for name, value in key.items()):
                return record
        return None
