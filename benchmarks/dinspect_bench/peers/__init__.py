"""Other implementations of the methods, measured in the same run as ours."""
