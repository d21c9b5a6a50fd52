"""Errors of the benchmarks.

BenchmarkError
├── DatasetError            a data set is missing, incomplete or too small
├── AccuracyError           a test image could not be measured as it must
├── MetricError             a figure is undefined for these labels and scores
├── StatisticsError         Triton's statistics are missing or contradict themselves
├── LatencyError            a latency run that makes no sense: no samples, no images
├── NothingSucceededError   every sample of a latency run failed
├── DemoError               a stage of the demo gave something else than it must
├── ReportError             a record file is broken, or holds what a report cannot show
├── PeerError               another implementation cannot be installed or does not answer
├── DeviceLostError         the GPU refuses everything more from this process
├── StepSkipped             a step of the GPU's run does not apply on this machine
└── MissingDependencyError  an optional package is not installed

All are a wrong use or bad input for the command line (`exit_status` 2), but for
NothingSucceededError: there the server refused (3); and an AccuracyError has the status of what
caused it. What the client, the exporter and the server raise keeps its own status.
"""

from __future__ import annotations


class BenchmarkError(Exception):
    """Base of every error this package raises on purpose."""

    exit_status = 2


class DatasetError(BenchmarkError):
    """A data set cannot be used; the message names the file or the number that is wrong."""


class AccuracyError(BenchmarkError):
    """A test image was not inspected, or not as it must be; the message names it.

    Args:
        message: For people.
        exit_status: That of the error behind it, if the client or the server raised one.
    """

    def __init__(self, message: str, exit_status: int = 2) -> None:
        super().__init__(message)
        self.exit_status = exit_status


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


class PeerError(BenchmarkError):
    """Another implementation cannot be installed, or its process gives no answer."""


class ReportError(BenchmarkError):
    """A record cannot be reported; the message names file and line."""


class DeviceLostError(BenchmarkError):
    """The GPU refuses everything more from this process; a new process may go on."""


class StepSkipped(BenchmarkError):  # noqa: N818  nothing is wrong
    """A step does not apply on this machine, which is no failure; the message says why."""


class MissingDependencyError(BenchmarkError):
    """A package of an optional extra is missing; the message says what to install."""
