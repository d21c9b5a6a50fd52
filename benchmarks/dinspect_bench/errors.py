"""Errors of the benchmarks.

BenchmarkError
├── DatasetError            a data set is missing, incomplete or too small
├── MetricError             a figure is undefined for these labels and scores
├── StatisticsError         Triton's statistics are missing or contradict themselves
├── LatencyError            a latency run that makes no sense: no samples, no images
├── NothingSucceededError   every sample of a latency run failed
├── DemoError               a stage of the demo gave something else than it must
└── MissingDependencyError  an optional package is not installed

All are a wrong use or bad input for the command line (`exit_status` 2), but for
NothingSucceededError: there the server refused (3). What the client, the exporter and the server
raise keeps its own status.
"""

from __future__ import annotations


class BenchmarkError(Exception):
    """Base of every error this package raises on purpose."""

    exit_status = 2


class DatasetError(BenchmarkError):
    """A data set cannot be used; the message names the file or the number that is wrong."""


class MetricError(BenchmarkError):
    """A metric is undefined: a class is missing, or a score is not a finite number."""


class StatisticsError(BenchmarkError):
    """Triton's statistics cannot be read, or the server was restarted between two readings."""


class LatencyError(BenchmarkError):
    """A latency run was asked for with settings that make no sense."""


class NothingSucceededError(BenchmarkError):
    """A latency run has nothing to report; the message holds the first failure's reason."""

    exit_status = 3


class DemoError(BenchmarkError):
    """A stage of the demo answered, but not with what it must answer."""


class MissingDependencyError(BenchmarkError):
    """A package of an optional extra is missing; the message says what to install."""
