"""Studies: one question each, measured through a server of its own, answered by a table."""
