"""How long a request takes, and where the time goes."""
