"""The study of the peers: its records and page from outcomes made up by hand, what it measures
again, and its command. The real server with peers beside it is in the integration tests."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from dinspect_bench.commands import StudyCommand
from dinspect_bench.errors import BenchmarkError, MetricError, PeerError
from dinspect_bench.peers.rounds import Measured, NotRun, Sample, balanced_orders
from dinspect_bench.peers.served import OURS, ServedSystem
from dinspect_bench.peers.systems import anomaly_dino_systems, exported_systems
from dinspect_bench.records import RecordFile
from dinspect_bench.studies import peers as study
from dinspect_bench.studies.peer_cases import CASES, Labelled, PreparedCase
from dinspect_bench.studies.peer_records import Outcome, measured_before, peer_records
from dinspect_bench.studies.peers import run_peers_study
from dinspect_bench.studies.peers_table import format_peers

SETTINGS = {
    "case": "anomaly_dino_448", "requested_precision": "auto", "num_rounds": 3,
    "num_inspected": 60,
}  # fmt: skip
BEST, ONNX = "anomalib OpenVINO", "anomalib ONNX Runtime"


def prepared(case_name="anomaly_dino_448", **changes):
    model = {"method": "anomaly_dino", "weights": "w.pth", "references": [], "side_px": 448}
    systems = (
        anomaly_dino_systems(model, Path("folder"))
        if case_name == "anomaly_dino_448"
        else exported_systems(1036)
    )
    values = {
        "ours": None, "runtime": "openvino 2026.4.1", "precision": "fp32", "peers": systems,
        "model": model, "images": [], "bank_patches": 8192,
    }  # fmt: skip
    return PreparedCase(**values | changes)


@pytest.fixture
def outcome():
    """Ours takes 80, 100 and 90 ms, the best peer 100, 125 and 150; one died, one is missing."""
    systems = {
        OURS: Measured((80.0, 100.0, 90.0), 0.003),
        BEST: Measured((100.0, 125.0, 150.0), 0.0),
        ONNX: NotRun("failed in round 2 of 3: it ended with status -9"),
    }
    details = {
        BEST: {
            "runtime": "openvino 2026.4.1",
            "precision": "bf16",
            "versions": {"anomalib": "2.7.0", "timm": "1.0.31"},
        }
    }
    return Outcome(systems, details, {OURS: 0.8125, BEST: 0.81})


@pytest.fixture
def records(outcome):
    return peer_records(CASES["anomaly_dino_448"], SETTINGS, prepared(), outcome)


def rows(page):
    lines = [line for line in page.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0].partition(" (")[0]: row[1:] for row in cells}


def test_records_have_settings_figures_and_where_they_were_measured(records):
    ours, best, _ = records
    for record in records:
        assert record["record"] == "peer_latency"
        assert record.items() >= SETTINGS.items()
        assert record["environment"]["cpu"]
        assert record["created"].endswith("+00:00")
        assert record["dinspect_precision"] == "fp32"
        assert record["num_systems"] == 3
    assert (ours["system"], ours["p50_ms"], ours["precision"]) == (OURS, 90.0, "fp32")
    assert (best["system"], best["p50_ms"], best["precision"]) == (BEST, 125.0, "bf16")
    assert (best["p25_ms"], best["p75_ms"], best["num_samples"]) == (112.5, 137.5, 3)
    assert best["latencies_ms"] == [100.0, 125.0, 150.0]
    assert (best["image_auroc"], best["runtime"]) == (0.81, "openvino 2026.4.1")
    assert best["covers"].startswith("the bare model in process")
    assert ours["covers"].startswith("the whole request through gRPC: JPEG bytes in")


def test_ratios_are_of_rounds_and_of_medians_and_in_both_directions(records):
    ours, best, _ = records
    assert best["dinspect_ratio"] == pytest.approx(0.8)  # of 0.8, 0.8 and 0.6
    assert best["dinspect_ratio_p25"] == pytest.approx(0.7)
    assert best["dinspect_ratio_p75"] == pytest.approx(0.8)
    assert best["dinspect_ratio_of_medians"] == pytest.approx(90 / 125)
    assert best["ratio_to_dinspect"] == pytest.approx(1.25)
    assert ours["ratio_to_dinspect"] == ours["dinspect_ratio_of_medians"] == 1.0


def test_peer_that_was_not_run_has_a_reason_and_no_figure(records):
    dead = records[2]
    assert dead["not_run"] == "failed in round 2 of 3: it ended with status -9"
    figures = {name for name in records[0] if name.endswith("_ms") or "ratio" in name}
    assert len(figures) == 9
    assert all(dead[name] is None for name in figures)
    assert (dead["num_samples"], dead["image_auroc"]) == (0, None)


def test_reason_names_no_folder_of_this_machine(outcome):
    reason = "it printed: /home/me/peers/bin/python: no /tmp/x-1/model.xml, see TCP/IP at 1/2"
    systems = dict(outcome.systems) | {ONNX: NotRun(reason)}
    case, made = CASES["anomaly_dino_448"], Outcome(systems, outcome.details, {})
    *_, record = peer_records(case, SETTINGS, prepared(), made)
    assert record["not_run"] == "it printed: python: no model.xml, see TCP/IP at 1/2"


def test_without_ours_there_is_nothing_to_compare(outcome):
    broken = Outcome(dict(outcome.systems) | {OURS: NotRun("it died")}, {}, {})
    with pytest.raises(MetricError, match="must pair up"):
        peer_records(CASES["anomaly_dino_448"], SETTINGS, prepared(), broken)


def test_page_has_every_system_with_its_ratios(records):
    page = format_peers(records)
    table = rows(page)
    assert table[OURS] == ["fp32", "90", "85 to 95", "", "", "", "0.8125", "0.3 %"]
    assert table[BEST] == [
        "bf16", "125", "112 to 138", "0.80", "0.70 to 0.80", "0.72", "0.8100", "0.0 %",
    ]  # fmt: skip
    assert "## AnomalyDINO at 448 x 448, ours in fp32 (asked for: auto)" in page
    assert "8,192 patches" in page
    assert "60 functional and 60 defective cells" in page
    assert (
        f"The fastest peer is {BEST}: ours takes 0.72 of its time (medians), 0.80 round by round, "
        "and is faster." in page
    )
    assert f"- {BEST}, {ONNX}: the bare model in process" in page
    assert "used more than" not in page
    assert "\nThe peers' packages: anomalib 2.7.0, timm 1.0.31.\n" in page
    assert "Measured by `dinspect study peers` on " in page


def test_page_says_not_run_and_why_in_one_line(records):
    records[2]["not_run"] = "pip says:\nno | such thing"
    cells = rows(format_peers(records))[ONNX]
    assert cells[1] == "not run: pip says: no / such thing"
    assert set(cells[2:]) == {"not run"}


def test_the_fastest_peer_is_the_one_that_counts(records):
    slow = records[1] | {"system": "anomalib PyTorch", "p50_ms": 500.0}
    for order in ([records[0], records[1], slow], [records[0], slow, records[1]]):
        assert f"The fastest peer is {BEST}: ours takes 0.72" in format_peers(order)


def test_slower_is_called_slower(records):
    records[1]["dinspect_ratio_of_medians"] = 1.3
    assert "ours takes 1.30 of its time (medians), 0.80 round by round, and is not faster." in (
        format_peers(records)
    )


def test_system_that_was_not_idle_is_named(records):
    records[1]["idle_processor_share"] = 0.4
    assert f"**{BEST} used more than 5 % of a core while others were measured" in (
        format_peers(records)
    )


def test_page_without_a_peer_compares_nothing(records):
    assert "No peer was run" in format_peers([records[0], records[2]])


def test_l2bt_is_told_to_have_random_weights(outcome):
    settings = SETTINGS | {"case": "l2bt_1036", "requested_precision": "fp32"}
    case = prepared("l2bt_1036", bank_patches=None)
    page = format_peers(peer_records(CASES["l2bt_1036"], settings, case, outcome))
    assert "## L2BT at 1036 x 1036, ours in fp32\n" in page
    assert "**random weights**, the same in ours and in anomalib's" in page
    assert "AUROC of" not in page


def test_each_precision_has_a_section_of_its_own(records):
    bf16 = [record | {"requested_precision": "bf16", "precision": "bf16"} for record in records]
    page = format_peers([*records, *bf16])
    assert page.count("## AnomalyDINO") == 2
    assert page.count(f"| {OURS} ") == 2


@pytest.mark.parametrize(("name", "num_systems"), [("anomaly_dino_448", 7), ("l2bt_1036", 4)])
def test_number_of_rounds_is_balanced(name, num_systems):
    orders = balanced_orders(list("abcdefg"[:num_systems]))
    assert len(prepared(name).peers) == num_systems - 1
    assert CASES[name].num_rounds % len(orders) == 0


def test_whole_run_is_not_measured_again(records):
    whole = [record | {"not_run": None} for record in records]
    assert measured_before(whole, SETTINGS) == whole
    assert measured_before(whole, SETTINGS | {"num_rounds": 4}) == []
    assert measured_before(whole[:2], SETTINGS) == []  # killed while they were written
    assert measured_before(records, SETTINGS) == []  # the peer may run this time
    assert measured_before([], SETTINGS) == []


def test_another_machines_run_is_measured_again(records):
    there = {"cpu": records[0]["environment"]["cpu"] | {"model": "another processor"}}
    elsewhere = [record | {"not_run": None, "environment": there} for record in records]
    assert measured_before(elsewhere, SETTINGS) == []


def test_latest_records_of_a_run_count(records):
    whole = [record | {"not_run": None} for record in records]
    older = [record | {"p50_ms": 1.0} for record in whole]
    assert measured_before([*older, *whole], SETTINGS) == whole
    assert measured_before([*whole, records[2]], SETTINGS) == []


class Scored:
    """Answers with the scores it is given, or fails."""

    def __init__(self, name, scores):
        self.name = name
        self._scores = scores

    def run(self, image):
        if self._scores is None:
            raise PeerError("it ended with status 3")
        return Sample(1, self._scores[image.name])


def test_scores_are_compared_where_there_are_labels():
    images = [Path("good"), Path("bad")]
    case = prepared(labelled=Labelled(images, [False, True]))
    ran = {name: Measured((1.0,), 0.0) for name in (OURS, BEST, ONNX)}
    right, wrong = {"good": 0.1, "bad": 0.9}, {"good": 0.9, "bad": 0.1}
    systems = [Scored(OURS, right), Scored(BEST, wrong), Scored(ONNX, None)]
    outcomes, aurocs = study._compare_scores(systems, case, ran)
    assert aurocs == {OURS: 1.0, BEST: 0.0}  # of ONNX Runtime nobody asks
    assert outcomes == ran
    outcomes, aurocs = study._compare_scores([systems[0], Scored(BEST, None)], case, ran)
    assert aurocs == {OURS: 1.0}
    assert outcomes[BEST] == NotRun("failed while its scores were compared: it ended with status 3")


def test_scores_of_random_weights_or_dead_peers_are_not_compared():
    systems = [Scored(OURS, {"good": 0.1, "bad": 0.9}), Scored(BEST, None)]
    ran = {OURS: Measured((1.0,), 0.0), BEST: NotRun("it is missing")}
    assert study._compare_scores(systems, prepared(), ran) == (ran, {})
    case = prepared(labelled=Labelled([Path("good"), Path("bad")], [False, True]))
    assert study._compare_scores(systems, case, ran) == (ran, {OURS: 1.0})


def test_ours_is_timed_around_the_whole_request(tmp_path):
    image = tmp_path / "a.jpg"
    image.write_bytes(b"jpeg")
    asked = []

    class Client:
        def inspect(self, *arguments, **options):
            asked.append((arguments, options))

            class Answer:
                anomaly_score = 0.25

            return Answer()

    sample = ServedSystem(Client(), 1, "screw", "l2bt").run(image)
    assert asked == [(("screw", b"jpeg"), {"method": "l2bt"})]
    assert sample.score == 0.25
    assert 0 < sample.latency_ns < 1e9


def test_study_measures_each_case_and_precision_and_goes_on(monkeypatch, tmp_path, records):
    """A fake takes the place of measuring; it dies in the middle of the first study."""
    asked = []

    def measure(case, build_dir, settings):
        asked.append((case.name, settings["requested_precision"], settings["num_rounds"]))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return [record | settings | {"not_run": None} for record in records[:2]]

    monkeypatch.setattr(study, "_measure", measure)
    records[0]["num_systems"] = records[1]["num_systems"] = 2
    output = tmp_path / "peers.md"
    with pytest.raises(KeyboardInterrupt):
        run_peers_study(tmp_path, output, precisions=("fp32", "bf16"))
    assert not output.exists()
    page = run_peers_study(tmp_path, output, precisions=("fp32", "bf16"))
    assert asked == [
        ("anomaly_dino_448", "fp32", 56),
        ("anomaly_dino_448", "bf16", 56),
        ("l2bt_1036", "fp32", 8),
        ("l2bt_1036", "fp32", 8),
        ("l2bt_1036", "bf16", 8),
    ]
    assert output.read_text() == page
    assert page.count("\n## ") == 4
    assert len(RecordFile(tmp_path / "peers.jsonl").read()) == 8


def run_command(monkeypatch, arguments):
    asked = []

    def run(*paths, **options):
        asked.append((paths, options))
        return "the page"

    monkeypatch.setattr(study, "run_peers_study", run)
    parser = argparse.ArgumentParser()
    command = StudyCommand()
    command.add_arguments(parser)
    assert command.run(parser.parse_args(arguments)) == 0
    ((paths, options),) = asked
    return paths, options


def test_command_takes_precisions(monkeypatch, capsys):
    paths, options = run_command(
        monkeypatch, ["peers", "--artefacts", "made", "--precision", "fp32", "bf16"]
    )
    assert paths == (Path("latency"), Path("docs/results/peers.md"))
    assert options == {"precisions": ("fp32", "bf16")}
    _, options = run_command(monkeypatch, ["peers", "--quick", "--precision", "int8"])
    assert options == {
        "precisions": ("int8",), "cases": ("anomaly_dino_448",), "num_rounds": 2,
        "num_inspected": 3,
    }  # fmt: skip
    _, options = run_command(monkeypatch, ["peers"])
    assert options == {}
    assert "the page" in capsys.readouterr().out


def test_precision_is_refused_where_a_study_takes_none(monkeypatch):
    with pytest.raises(BenchmarkError, match="the study shots takes no --precision; banks and"):
        run_command(monkeypatch, ["shots", "--precision", "fp32"])
