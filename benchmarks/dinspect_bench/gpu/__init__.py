"""One run on a machine with a GPU and no network: parity, engines, latency, peaks, one page."""
