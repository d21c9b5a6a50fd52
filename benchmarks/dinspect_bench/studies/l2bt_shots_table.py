"""The page of the study ``l2bt-shots``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dinspect_bench.markdown import markdown_table, measured_on
from dinspect_bench.records import Record
from dinspect_bench.studies.common import mean_std, rise_remark

PAPER_AUROC = {5: 0.879, 10: 0.897, 50: 0.927}
"""Image AUROC by training images on VisA, ViT-B/14 at high resolution (L2BT, Table 3, "Ours")."""


def format_l2bt_shots(records: Sequence[Record], anomaly_dino: Sequence[Record]) -> str:
    """The page, in Markdown.

    Args:
        records: As `l2bt_shots_study` measures them.
        anomaly_dino: Those of `shots_study` on the very same cells; the row is left out of the
            table where there are none.
    """
    shots = sorted({record["shots"] for record in records})
    kinds = sorted({record["kind"] for record in records})
    rows, remarks = [["", "L2BT, steps of Adam", *(_steps(records, count) for count in shots)]], []
    for kind in kinds:
        of_kind = [record for record in records if record["kind"] == kind]
        rows.append([f"solar-{kind}", "L2BT, AUROC", *_figures(of_kind, shots, of_kind)])
        others = [record for record in anomaly_dino if record["kind"] == kind]
        if others:
            rows.append(["", "AnomalyDINO, AUROC", *_figures(others, shots, of_kind)])
        means = [
            float(np.mean([record["auroc"] for record in of_kind if record["shots"] == count]))
            for count in shots
        ]
        remarks.append(rise_remark(f"solar-{kind}", shots, means, "images"))
    return (
        "# L2BT: accuracy by the number of training images\n\n"
        + _introduction(records)
        + "\n\n"
        + markdown_table(["product", "images", *(f"{count}" for count in shots)], rows)
        + "\n"
        + "\n".join([*remarks, "", _steps_remark(records), "", _anomaly_dino_remark(anomaly_dino)])
        + f"\n\n{_paper_remark()}\n\n"
        + f"Measured by `dinspect study l2bt-shots` on {measured_on(records)}\n"
    )


def _introduction(records: Sequence[Record]) -> str:
    first = records[0]
    return (
        f"Mean ± standard deviation (n - 1) over seeds {_all(records, 'seed')}, which draw the "
        "cells; fewer images are the first of more, and the held-out cells are the same for "
        f"every number: {first['held_out']} functional and {first['held_out']} defective ones. "
        "Each time students were trained and published as `dinspect train` does it "
        f"({first['epochs']} epochs, {first['batch_images']} images a step, learning rate "
        f"{first['learning_rate']:g}, {_all(records, 'training_precision')}), and every cell "
        f"inspected through the ensemble they got ({_all(records, 'ensemble')}), patch tokens by "
        f"{_all(records, 'runtime')}. {first['num_calibrating']} other good cells, neither "
        "trained on nor held out, set the thresholds in place of a cross-fit; the AUROC does not "
        "depend on them. The cells have no masks, so there is no AUPRO. The weights are the "
        "demo's, fine-tuned by their author."
    )


def _all(records: Sequence[Record], name: str) -> str:
    """Every value that a key has in some record, for a person."""
    return ", ".join(str(value) for value in sorted({record[name] for record in records}))


def _steps(records: Sequence[Record], count: int) -> str:
    steps = sorted({record["num_steps"] for record in records if record["shots"] == count})
    return " or ".join(f"{number:,}" for number in steps)


def _figures(
    records: Sequence[Record], shots: Sequence[int], of_l2bt: Sequence[Record]
) -> list[str]:
    """A cell for each number of images; empty where a seed of L2BT's has no figure."""
    cells = []
    for count in shots:
        chosen = [record for record in records if record["shots"] == count]
        needed = {record["seed"] for record in of_l2bt if record["shots"] == count}
        is_whole = {record["seed"] for record in chosen} == needed
        cells.append(mean_std(chosen, "auroc") if is_whole else "")
    return cells


def _steps_remark(records: Sequence[Record]) -> str:
    first = records[0]
    return (
        f"With {first['epochs']} epochs, as in the paper and the official code, fewer images also "
        "mean fewer steps of Adam (the first row): a row shows both together, not what the number "
        "of images does alone."
    )


def _anomaly_dino_remark(records: Sequence[Record]) -> str:
    if not records:
        return (
            "AnomalyDINO is left out: shots.jsonl beside this page has no records of the very "
            "same cells and graph (`dinspect study shots`)."
        )
    return (
        "AnomalyDINO's figures are those of `dinspect study shots` (shots.jsonl) where its "
        f"references were the very images L2BT was trained on, on the same held-out cells and by "
        f"the same graph, in {_all(records, 'runtime')}."
    )


def _paper_remark() -> str:
    figures = ", ".join(f"{auroc:.3f} with {count}" for count, auroc in PAPER_AUROC.items())
    return (
        f"The paper's Table 3 has an image AUROC of {figures} images of each class of VisA, with "
        "a ViT-B/14 at high resolution: other images and another network, so no figure here can "
        "be held against those."
    )
