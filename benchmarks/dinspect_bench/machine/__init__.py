"""The machine a measurement ran on: what it is, what it could do, what it was used for."""
