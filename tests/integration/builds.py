"""What the servers of the tests are built of."""

from __future__ import annotations


def describe(folder, split, sizes, variant="dinov2_vits14", weights="packaged"):
    """A description of FP32 graphs of one backbone, to be built below the folder; its path."""
    path = folder / "engines.toml"
    path.write_text(
        f"""
        [check]
        images = ["{split.enrolled[0]}"]
        [[backbone]]
        variant = "{variant}"
        weights = "{weights}"
        sizes = {sizes}
        precisions = ["fp32"]
        """
    )
    return path
