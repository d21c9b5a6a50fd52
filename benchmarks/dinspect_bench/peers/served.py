"""Ours beside the peers: a whole request to a real server."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from dinspect_bench.machine.resident_memory import server_processes
from dinspect_bench.peers.process import processor_seconds
from dinspect_bench.peers.rounds import Sample

if TYPE_CHECKING:
    from dinspect_client import InspectionClient

OURS = "dinspect served"
OURS_COVERS = (
    "the whole request through gRPC: JPEG bytes in; decoded, resized, inspected; score, verdict, "
    "map and defect regions out"
)


class ServedSystem:
    """A product of a server, inspected as a plant's client does it.

    Args:
        client: Connected to the server.
        server_pid: Process of the server, for the time it uses.
        product: What the images are inspected as.
        method: ``anomaly_dino`` or ``l2bt``.
    """

    def __init__(
        self, client: InspectionClient, server_pid: int, product: str, method: str
    ) -> None:
        self.name = OURS
        self._client = client
        self._server_pid = server_pid
        self._product, self._method = product, method

    def run(self, image: Path) -> Sample:
        """Inspect an image; its file is read before the time begins.

        Raises:
            InspectionError: If the server does not; without ours there is nothing to compare.
        """
        encoded = image.read_bytes()
        started_ns = time.perf_counter_ns()
        answer = self._client.inspect(self._product, encoded, method=self._method)
        return Sample(time.perf_counter_ns() - started_ns, float(answer.anomaly_score))

    def processor_s(self) -> float:
        """Processor time of the server and its models so far, in seconds."""
        return processor_seconds([one.pid for one in server_processes(self._server_pid)])
