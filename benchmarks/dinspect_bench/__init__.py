"""Benchmarks of the served path: latency, accuracy, the demo and its report."""
