"""One report of many records: latency and accuracy, ours beside the papers' and the peers'."""
