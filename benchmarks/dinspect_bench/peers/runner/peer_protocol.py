"""How a peer and the study talk: one JSON object per line, requests in, answers out.

======================================================  ==========================================
``{"prepare": <system>, "settings": {...}}``, once      ``{"details": {...}}``
``{"run": <path of an image>}``, as often as wanted     ``{"latency_ns": 1, "score": 0.5 or null}``
======================================================  ==========================================

What goes wrong is answered by ``{"error": <reason>}``. The process ends when its input does. It is
timed in here, around the peer's own work, so that neither pipe nor JSON is in a latency.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PreparedSystem:
    """A peer that is ready to be measured.

    Attributes:
        details: What it runs in: versions, precision, threads; plain JSON.
        run: Inspects the image of a path; gives the time this took in nanoseconds, and the image
            score where the peer makes one. None for a system that only prepares files for others.
    """

    details: dict[str, Any]
    run: Callable[[str], tuple[int, float | None]] | None


def serve(prepare: Callable[[str, dict[str, Any]], PreparedSystem]) -> int:
    """Answer requests until the input ends.

    Args:
        prepare: Makes a system ready, from its name and settings.

    Returns:
        The exit status.
    """
    # Libraries print where they like. The answers keep this process's output for themselves, and
    # whatever else is printed goes to its errors.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    system: PreparedSystem | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "prepare" in request:
                system = prepare(request["prepare"], request["settings"])
                answer: dict[str, Any] = {"details": system.details}
            else:
                if system is None or system.run is None:
                    raise ValueError("there is nothing prepared to run")
                latency_ns, score = system.run(request["run"])
                answer = {"latency_ns": latency_ns, "score": score}
        except Exception as error:  # whatever a peer raises is its reason not to be measured
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
    return 0
