"""The tables of both papers as data, each figure with its setting."""
