"""What there is in a store's folder."""

from __future__ import annotations

from bank_store import BankStore


def visible(store: BankStore) -> list[str]:
    """Paths of the files below the root, but for what begins with a dot or is below such."""
    paths = [path.relative_to(store.root) for path in store.root.rglob("*") if path.is_file()]
    return sorted(str(path) for path in paths if not any(part[0] == "." for part in path.parts))


def hidden(store: BankStore) -> list[str]:
    """Names of what begins with a dot, anywhere below the root."""
    return sorted(path.name for path in store.root.rglob(".*"))
