"""Each study, a few images only, on a real server of its own."""

from __future__ import annotations

import json

import pytest

from dinspect_client.main import main

MEASURED_ANEW = ("products", "l2bt-1036")
"""Studies that do not take up what they measured before."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("study", "num_records"),
    [
        ("shots", 4),
        ("banks", 5),
        ("products", 1),
        ("zero-shot", 1),
        ("l2bt-shots", 2),
        ("l2bt-1036", 1),
        ("training", 1),
        ("latency", 4),
    ],
)
def test_study_runs_and_goes_on_where_it_was(artefacts_dir, tmp_path, capsys, study, num_records):
    output = tmp_path / f"{study}.md"
    command = ["study", study, "--quick", "--artefacts", str(artefacts_dir), "--output"]
    assert main([*command, str(output)]) == 0
    table = capsys.readouterr().out
    assert output.read_text() == table[:-1]
    records = output.with_suffix(".jsonl").read_text().splitlines()
    assert len(records) == num_records
    assert all(json.loads(line) for line in records)
    if study not in MEASURED_ANEW:
        assert main([*command, str(output)]) == 0
        assert output.with_suffix(".jsonl").read_text().splitlines() == records
