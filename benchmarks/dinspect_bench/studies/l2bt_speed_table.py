"""The page of the study ``l2bt-1036``: what was measured, and what the paper's figure can be."""

from __future__ import annotations

from dinspect_bench.machine.operations import backbone_operations, students_operations
from dinspect_bench.markdown import markdown_table, measured_on
from dinspect_bench.records import Record
from dinspect_export.variants import variant_by_name

PAPER_MS = 1.786
"""Time per image at 1036 x 1036 (L2BT, Table 2)."""
RTX_4090_OPERATIONS_PER_S = 165.2e12
"""Dense FP16 with FP32 accumulation, at boost clock (NVIDIA Ada GPU Architecture, Appendix A)."""
_PAPER_VARIANT, _PAPER_GRID, _PAPER_DEPTH = "dinov2_vitb14", (74, 74), 12
_TITLES = {
    "preprocess": "preprocessing: decode, pad, resize",
    "backbone": "backbone",
    "students": "students: distances, score, verdict",
    "map": "map and defect regions",
}


def format_l2bt_speed(record: Record) -> str:
    """The page, in Markdown.

    Args:
        record: As `l2bt_speed_study` measures it.
    """
    side = record["side_px"]
    blocks = " and ".join(map(str, record["layers"]))
    return (
        f"# L2BT at {side} x {side}: where the time goes\n\n"
        f"A {side} x {side} PNG in (a real solar cell, enlarged), score and map out, through gRPC, "
        f"{record['variant_name']} with blocks {blocks}, the backbone in "
        f"{record['backbone_runtime']}, one request at a time; means of {record['num_samples']} "
        "inspections after one that does not count. **The weights of backbone and students are "
        "random**: time and memory do not depend on them, and nothing here says anything of "
        "accuracy. The students come in the official code's two files; what the server makes of "
        "its patch tokens by them is within "
        f"{record['largest_distance_change']:.1e} of PyTorch in FP32 (of the largest distance).\n\n"
        f"{_totals(record)}\n{_steps(record)}\n{_parts(record)}\n{paper_section()}\n"
        f"Measured by `dinspect study l2bt-1036` on {measured_on([record])}\n"
    )


def _totals(record: Record) -> str:
    students = sum(record["operations"]["students"].values())
    both = students + sum(record["operations"]["backbone"].values())
    students_ms = record["steps"]["students"]["compute_ms"]
    rows = [
        ["students only: patch tokens in, score out", *_rate(students, students_ms)],
        ["whole image, in the server", *_rate(both, record["server_ms"])],
        ["whole image, as the client sees it (median)", *_rate(both, record["client_p50_ms"])],
    ]
    head = ["", "ms", "GFLOP", "GFLOP/s"]
    slowest = f"{record['client_min_ms']:,.0f} to {record['client_max_ms']:,.0f} ms"
    return (
        "## Students only, and the whole image\n\n"
        + markdown_table(head, rows)
        + f"\nThe client's times lay within {slowest}. The students alone are never the time of "
        "an image: they need the backbone's tokens.\n"
    )


def _steps(record: Record) -> str:
    counted = {name: sum(parts.values()) for name, parts in record["operations"].items()}
    whole_ms = sum(step["compute_ms"] for step in record["steps"].values())
    rows = [
        [
            title,
            *_rate(counted.get(name), record["steps"][name]["compute_ms"]),
            f"{100 * record['steps'][name]['compute_ms'] / whole_ms:.1f} %",
            f"{record['steps'][name]['peak_mib']:,.0f}",
        ]
        for name, title in _TITLES.items()
    ]
    head = ["step", "ms", "GFLOP", "GFLOP/s", "of compute", "its process at most, MiB"]
    return (
        "## Step by step\n\n"
        + markdown_table(head, rows)
        + "\nCompute time by Triton's own clocks, tensors in and out included. The students' step "
        "makes the map once more, for its score is the mean of the map's largest values; so their "
        "rate is below what the matrix products alone reach. Memory is resident memory, looked at "
        f"every 20 ms; the server and all its models together took {record['server_peak_mib']:,.0f}"
        " MiB at most (pages that processes share are counted in each). Exporting the backbone, "
        f"with the comparison to PyTorch, took {record['export_s']:.0f} s and "
        f"{record['export_peak_mib']:,.0f} MiB at most.\n"
    )


def _parts(record: Record) -> str:
    parts = {
        f"{model}: {name.replace('_', ' ')}": count
        for model, counted in record["operations"].items()
        for name, count in counted.items()
    }
    total = sum(parts.values())
    rows = [
        [name, f"{count / 1e9:,.1f}", f"{100 * count / total:.1f} %"]
        for name, count in parts.items()
    ]
    rows.append(["together", f"{total / 1e9:,.1f}", "100.0 %"])
    return (
        "## Operations of one image\n\n"
        + markdown_table(["part", "GFLOP", "share"], rows)
        + "\nCounted from the shapes; a multiply-add is two operations. Matrix products alone: "
        "norms, softmax, GELU and the distances of tokens are left out.\n"
    )


def paper_section() -> str:
    """What the figure in the paper can be, whatever was measured here."""
    variant = variant_by_name(_PAPER_VARIANT)
    teacher = backbone_operations(variant, _PAPER_GRID, _PAPER_DEPTH).total
    students = students_operations(variant.dim, _PAPER_GRID).total
    teacher_ms, students_ms = (
        1e3 * count / RTX_4090_OPERATIONS_PER_S for count in (teacher, students)
    )
    return (
        f"## The paper's {PAPER_MS} ms\n\n"
        f"L2BT's Table 2 gives {PAPER_MS} ms for an image of 1036 x 1036 on an RTX 4090, and "
        "Section V-B says it is counted from the image on the GPU to its anomaly map. It cannot "
        f"include the teacher: a ViT-B/14 at that size is {teacher / 1e12:.2f} TFLOP, and "
        f"{teacher / 1e12:.2f} TFLOP / {RTX_4090_OPERATIONS_PER_S / 1e12:.0f} TFLOP/s = "
        f"{teacher_ms:.1f} ms at the very least, with every tensor core busy all the time (dense "
        "FP16, accumulated in FP32; accumulated in FP16 the card is twice as fast, which would "
        f"still be {teacher_ms / 2:.1f} ms). The students alone are {students / 1e12:.3f} TFLOP, "
        f"{students_ms:.2f} ms at the least, so {PAPER_MS} ms can be theirs. Hence the two are "
        "told apart here, always.\n"
    )


def _rate(operations: int | None, ms: float) -> list[str]:
    """Cells: milliseconds, and GFLOP with GFLOP/s where operations were counted."""
    if operations is None:
        return [f"{ms:,.1f}", "", ""]
    return [f"{ms:,.1f}", f"{operations / 1e9:,.1f}", f"{operations / 1e6 / ms:,.0f}"]
