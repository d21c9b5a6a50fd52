"""Errors of the server package.

ServerError
├── AssemblyError       the repository cannot be written as asked
├── InstallationError   the server, or something it needs, is missing
├── PortInUseError      a port is taken
├── StartError          the server ended or did not become ready; carries its log
├── TrainingInputError  images, sizes or blocks that no students can be trained on
└── ServerUnreachableError  the server that students are trained for does not answer
"""

from __future__ import annotations


class ServerError(Exception):
    """Base of every error this package raises on purpose."""

    exit_status = 2


class AssemblyError(ServerError):
    """The model repository cannot be written as asked."""


class InstallationError(ServerError):
    """The server or something it needs is missing; the message says what to install."""


class PortInUseError(ServerError):
    """A port the server should listen on is taken."""


class StartError(ServerError):
    """The server ended or did not become ready in time; the message ends with its log."""

    exit_status = 3


class TrainingInputError(ServerError):
    """Students cannot be trained on these images, or for this server; the message says why."""


class ServerUnreachableError(ServerError):
    """The server that students are trained for does not answer."""

    exit_status = 3
