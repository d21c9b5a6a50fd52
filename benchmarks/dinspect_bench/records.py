"""Records of measurements that survive an interruption."""

from __future__ import annotations

import contextlib
import json
import os
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
        """Add one record, after what a kill left of the last one is removed."""
        line = json.dumps(record, sort_keys=True, allow_nan=False)
        self._mend()
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def _mend(self) -> None:
        """End the last line, or remove it if it is no whole record."""
        content = self._path.read_bytes() if self._path.exists() else b""
        if not content or content.endswith(b"\n"):
            return
        begins_at = content.rfind(b"\n") + 1
        with self._path.open("r+b") as file:
            try:
                json.loads(content[begins_at:])
            except ValueError:
                file.truncate(begins_at)
            else:
                file.seek(0, os.SEEK_END)
                file.write(b"\n")

    def find(self, **key: Any) -> Record | None:
        """The last record whose values are those of a key."""
        for record in reversed(self.read()):
            if all(record.get(name) == value for name, value in key.items()):
                return record
        return None
