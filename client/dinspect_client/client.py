"""The client: everything that a served dinspect repository can be asked.

with InspectionClient("localhost:8001") as client:
    client.enroll("screw", ["good/000.png", "good/001.png"])
    inspection = client.inspect("screw", "part.png")
    if inspection.verdict is not Verdict.NORMAL:
        ...
"""

from __future__ import annotations

from dinspect_client.enrolling import Enrolling
from dinspect_client.inspecting import Inspecting
from dinspect_client.publishing import Publishing
from dinspect_client.transferring import Transferring
from dinspect_client.zero_shot import ZeroShot


class InspectionClient(Inspecting, Enrolling, Transferring, Publishing, ZeroShot):
    """A connection to one inspection server over gRPC.

    One client serves one thread: give each thread its own. It may live as long as the process; it
    finds a restarted server again by itself.

    ================================================================  =========================
    ``inspect``, ``products``                                         inspecting.py
    ``enroll``, ``append``                                            enrolling.py
    ``history``, ``activate``, ``delete``, ``set_thresholds``,        managing.py
    ``set_region``
    ``export_product``, ``import_product``                            transferring.py
    ``publish_students``, ``patch_tokens``                            publishing.py
    ``zero_shot``                                                     zero_shot.py
    ``server_version``, ``close``                                     connection.py
    ================================================================  =========================

    Args:
        url: ``host:port`` of the server's gRPC endpoint.
        timeout_s: How long to wait for any one answer, in seconds.
        enroll_timeout_s: The same for whatever makes a version: one part of an enrolment (the last
            one calibrates), a change of thresholds or region, an import, published students; and
            for zero-shot scores.

    Raises:
        ValueError: If the url has another form or a timeout is not positive.
    """
