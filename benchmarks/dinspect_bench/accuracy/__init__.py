"""How well scores and maps tell good from bad."""
