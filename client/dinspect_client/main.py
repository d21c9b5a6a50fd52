"""The ``dinspect`` program: the subcommands that the installed packages offer.

A package offers one as an entry point of the group ``dinspect.commands``, naming a class that
fits ``Command``. Errors whose class has an integer ``exit_status`` are expected: their message is
printed and the status returned. So packages share the program without importing each other.

Exit status: 0 done, 1 the answer is "no", 2 wrong use or bad input, 3 server unreachable or
refused, 130 interrupted.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Protocol

ENTRY_POINT_GROUP = "dinspect.commands"
_DISTRIBUTION = "dinspect"
_INTERRUPTED = 130

# Where the name to import is not the name to install.
_PROJECT_BY_MODULE = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "google": "protobuf",
    "sklearn": "scikit-learn",
}


class Command(Protocol):
    """What a subcommand's class offers; it is made without arguments.

    Importing its module must be cheap, since listing the help imports all of them: anything heavy
    belongs into ``run``.

    Attributes:
        help: One line for the list of commands.
    """

    help: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare options and arguments."""

    def run(self, args: argparse.Namespace) -> int:
        """Do the work and return the exit status."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: Arguments without the program's name; the process's own when None.

    Returns:
        The exit status.

    Raises:
        SystemExit: From argparse, for ``--help``, ``--version`` and wrong use (2).
        Exception: Whatever nobody expected, with its traceback.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except Exception as error:
        status = getattr(type(error), "exit_status", None)
        if isinstance(status, int):
            _complain(str(error))
            return status
        if isinstance(error, ImportError):
            _complain(_missing_dependency(error))
            return 2
        raise


def _run(arguments: list[str]) -> int:
    offered = {point.name: point for point in metadata.entry_points(group=ENTRY_POINT_GROUP)}
    parser = argparse.ArgumentParser(
        prog="dinspect", description="Visual anomaly inspection served by NVIDIA Triton."
    )
    version = f"dinspect {metadata.version(_DISTRIBUTION)}"
    parser.add_argument("--version", action="version", version=version)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")

    # The program itself has no option that takes a value, so the first word is the command. Only
    # that one is loaded: another package's missing dependency is no concern of it.
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    if chosen in offered:
        command: Command = offered[chosen].load()()
        subparser = subparsers.add_parser(chosen, help=command.help, description=command.help)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    else:
        _list_commands(subparsers, offered)
    args = parser.parse_args(arguments)
    if not hasattr(args, "run"):
        parser.print_help(sys.stderr)
        return 2
    status: int = args.run(args)
    return status


def _list_commands(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
    offered: Mapping[str, metadata.EntryPoint],
) -> None:
    for name in sorted(offered):
        try:
            text = offered[name].load().help
        except ImportError as error:
            text = f"(not usable here: {error})"
        subparsers.add_parser(name, help=text.replace("%", "%%"))


def _missing_dependency(error: ImportError) -> str:
    """Say what is missing, and which extra of this distribution brings it."""
    module = (error.name or "").partition(".")[0]
    project = _PROJECT_BY_MODULE.get(module, module)
    extras = _extras_with(project) if project else []
    if not extras:
        return f"a needed package cannot be imported: {error}"
    commands = " or ".join(f"pip install '{_DISTRIBUTION}[{extra}]'" for extra in extras)
    return f"this command needs the package {project}, which is missing; {commands}"


def _extras_with(project: str) -> list[str]:
    """Extras that require a project directly, in the order of the distribution's metadata."""
    extras: list[str] = []
    for requirement in metadata.requires(_DISTRIBUTION) or []:
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        extra = re.search(r"""extra\s*==\s*['"]([^'"]+)['"]""", requirement)
        if name and extra and _normalized(name[0]) == _normalized(project):
            extras.append(extra[1])
    return extras


def _normalized(project: str) -> str:
    return re.sub(r"[-_.]+", "-", project).lower()


def _complain(message: str) -> None:
    print(f"dinspect: error: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
