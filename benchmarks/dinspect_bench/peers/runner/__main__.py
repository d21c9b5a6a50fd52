"""One peer in a process of its own: ``python runner``, by the interpreter that has its packages."""

from __future__ import annotations

import sys

from peer_protocol import serve
from peer_systems import prepare

if __name__ == "__main__":
    sys.exit(serve(prepare))
