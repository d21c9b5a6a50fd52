"""Data sets: where their images are, what is good and what is not, which are enrolled."""
