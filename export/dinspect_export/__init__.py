"""From a published checkpoint to artefacts a server can run, each proven against PyTorch."""
