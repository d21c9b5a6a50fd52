"""Commands in shell text, and whether our programs and the Makefile know them."""

from __future__ import annotations

import argparse
import shlex
from importlib.metadata import entry_points
from pathlib import Path

ROOT = Path(__file__).parents[2]
_PUNCTUATION = set("();<>|&")


def commands(program, script):
    """Arguments of every call of a program, inside pipelines, lists and ``$(...)`` too."""
    found, words = [], []
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        for word in [*lexer, ";"]:
            if not set(word) <= _PUNCTUATION:
                words.append(word)
                continue
            if words and words[0] == program:
                found.append(words[1:])
            words = []
    return found


def parse_dinspect(arguments):
    """What a subcommand's own parser makes of arguments; raises or exits if they are wrong."""
    points = {point.name: point for point in entry_points(group="dinspect.commands")}
    parser = argparse.ArgumentParser(exit_on_error=False)
    points[arguments[0]].load()().add_arguments(parser)
    return parser.parse_args(arguments[1:])


def is_make_target(name):
    return f"\n{name}:" in (ROOT / "Makefile").read_text(encoding="utf-8")
