"""How rows of the latency tables are measured, with fakes for server and client.

What the real ones do is tested in tests/integration/test_served_studies.py.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from unit.client.fake_products import version_report

from dinspect_bench.latency.single_stream import LatencySamples, SingleStreamRun, summarize
from dinspect_bench.latency.statistics import ServerTimes, StepTimes
from dinspect_bench.machine.roofline import Peak
from dinspect_bench.machine.traffic import students_traffic
from dinspect_bench.studies import latency_backbones, latency_measurement
from dinspect_bench.studies.latency_measurement import Measurement, measure_rows
from dinspect_bench.studies.latency_rows import chosen_rows
from dinspect_client.versions import ProductVersion, StudentsVersion

PEAK = Peak({"fp32": 1e11, "bf16": 4e11}, 1e10)


def steps(*names):
    return tuple(StepTimes(name, 1, 0.0, 0.0, 10.0, 0.0) for name in names)


def made_up_run(*names):
    samples = LatencySamples((40_000_000, 42_000_000))
    return SingleStreamRun(
        samples, summarize(samples), ServerTimes("an_ensemble", 2, 35.0, steps(*names))
    )


def made_up_version(product, num_references, rotations):
    """A whole record of a version; backbone, size, masking and rotations are the test's own."""
    known = version_report(product, 1)
    return ProductVersion.from_report(
        known | {
            "grid": [32, 32], "image_size": [64, 64], "num_references": num_references,
            "num_patches": 1024 * num_references * len(rotations),
            "preprocessing": known["preprocessing"] | {
                "masked": False, "rotations_deg": list(rotations)
            },
            "backbone": known["backbone"] | {
                "name": "dinov2_vits14", "precision": "fp32", "search_precision": "bf16",
                "runtime": "openvino 2026.4",
            },
        }
    )  # fmt: skip


def made_up_students():
    """A whole record of students, of a backbone and size of the test's own."""
    known = version_report("random", 1)
    changed = {
        "method": "l2bt", "layers": [8, 12], "grid": [4, 4], "image_size": [56, 56], "dim": 768,
        "distance": {"normalisation": "l2", "metric": "euclidean", "combination": "product"},
        "smoothing": "gaussian", "sigma_px": 4.0, "training": {}, "students_sha256": "",
        "image_score": "mean_top01p_map",
        "backbone": {
            key: value for key, value in known["backbone"].items() if key != "search_precision"
        } | {"name": "dinov2_vitb14", "precision": "fp32"},
    }  # fmt: skip
    left_out = ("layer", "preprocessing", "scoring", "region", "bank_sha256")
    kept = {key: value for key, value in known.items() if key not in left_out}
    return StudentsVersion.from_report(kept | changed)


class FakeClient:
    """Enrols at once and remembers what it was asked."""

    def __init__(self):
        self.enrolled, self.inspected, self.deleted, self.warmed_up = [], [], [], []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def enroll(self, product, references, **options):
        self.enrolled.append((product, references, options))
        rotations = (0, 45) if options["preprocessing"] == "agnostic" else (0,)
        return made_up_version(product, len(references), rotations)

    def inspect(self, product, image, **options):
        self.inspected.append((product, image, options))

    def delete(self, product):
        self.deleted.append(product)

    def patch_tokens(self, image, label, layers):
        assert not self.enrolled
        self.warmed_up.append((label, layers))


@pytest.fixture
def client(monkeypatch):
    """A server that is none; its runs are made up, the calls are kept in ``client.timed``."""
    fake = FakeClient()
    fake.timed = []

    @contextlib.contextmanager
    def own_server(artefacts, precision):
        fake.served = (artefacts, precision)
        yield SimpleNamespace(grpc_url="nowhere:1", metrics_url="metrics")

    def measure_single_stream(_, url, product, images, **options):
        fake.timed.append((product, images, options))
        return made_up_run("preprocess_448", "dinov2_vits14_448", "cosine_knn_448")

    monkeypatch.setattr(latency_measurement, "IMAGE_PX", 64)
    monkeypatch.setattr(latency_measurement, "own_server", own_server)
    monkeypatch.setattr(latency_measurement, "measure_single_stream", measure_single_stream)
    monkeypatch.setattr(
        latency_measurement, "exported_backbone", lambda *asked: Path("/".join(map(str, asked)))
    )
    monkeypatch.setattr("dinspect_client.InspectionClient", lambda *_, **__: fake)
    latency_measurement._enlarged.cache_clear()
    yield fake
    latency_measurement._enlarged.cache_clear()


def measured(*names, num_inspected=3):
    how = Measurement("bf16", Path("build"), PEAK, num_inspected)
    return list(measure_rows(chosen_rows(names), how))


def test_row_of_a_paper_is_measured_on_two_products(client):
    (record,) = measured("s-448-2-agnostic")
    assert client.served == (Path("dinov2_vits14/448/build/bf16"), "bf16")
    assert client.warmed_up == [("448", (8, 12))]
    assert [product for product, *_ in client.enrolled] == ["mono", "poly"]
    for _, references, options in client.enrolled:
        assert len(references) == len(set(references)) == 2
        (good,) = options.pop("good_images")
        assert good not in references
        assert options == {"resolution": 448, "preprocessing": "agnostic"}
    assert client.deleted == ["mono", "poly"]
    assert (record["num_products"], record["num_samples"]) == (2, 4)
    assert record["memory_bank_std_s"] is not None


def test_row_of_ours_is_measured_on_one_product(client):
    (record,) = measured("s-448-16-mask_no_rotation")
    assert [product for product, *_ in client.enrolled] == ["mono"]
    assert record["memory_bank_std_s"] is None


def test_test_images_are_no_references_and_have_no_map(client):
    measured("s-448-2-agnostic")
    for (_, references, enrolled), (_, images, options) in zip(
        client.enrolled, client.timed, strict=True
    ):
        assert len(images) == len(set(images)) == 20
        assert not {*references, *enrolled["good_images"]} & set(images)
        assert options["with_map"] is False
        assert (options["num_warmup"], options["num_samples"]) == (0, 3)
        assert options["metrics_url"] == "metrics"
    assert [(product, options["with_map"]) for product, _, options in client.inspected] == [
        ("mono", False), ("mono", False), ("poly", False), ("poly", False),
    ]  # fmt: skip


def test_full_shot_takes_as_many_images_as_mvtec_ad(client):
    (record,) = measured("s-448-full-masking_only")
    assert [len(references) for _, references, _ in client.enrolled] == [240, 240]
    assert (record["shots"], record["bank_patches"]) == (None, 240 * 1024)


def test_record_tells_the_row_the_setting_in_force_and_the_floor(client):
    (record,) = measured("s-448-1-agnostic")
    json.dumps(record, allow_nan=False)
    expected = {
        "record": "latency", "protocol": "papers", "scenario": "single_stream",
        "method": "anomaly_dino", "backbone": "dinov2_vits14", "resolution": 448, "shots": 1,
        "preprocessing": "agnostic", "requested_precision": "bf16", "precision": "fp32",
        "search_precision": "bf16", "runtime": "openvino 2026.4", "weights": "packaged",
        "with_map": False, "masking": False, "rotation": True, "bank_patches": 2048,
        "image_size": [64, 64], "num_warmup": 2,
    }  # fmt: skip
    assert {key: record[key] for key in expected} == expected
    assert record["floor_by_step"].keys() == {"preprocess", "backbone", "knn"}
    knn = record["floor_by_step"]["knn"]
    assert knn["operations"] == 2 * 1024 * 384 * 2048
    assert knn["peak_share"] == pytest.approx(1e3 * knn["operations"] / 4e11 / 10.0)
    assert record["environment"]["cpu"]["model"]
    assert record["load_average"] >= 0


@pytest.mark.parametrize(
    ("asked", "expected"), [("auto", "fp32"), ("int8", "fp32"), ("fp16", "fp16"), ("bf16", "bf16")]
)
def test_students_are_quantised_by_nobody(asked, expected):
    assert Measurement(asked, Path("build"), PEAK).students_precision == expected


def test_l2bt_is_measured_with_its_map_by_random_students(client, monkeypatch):
    asked = []

    @contextlib.contextmanager
    def served_random_students(case, folder, image, check_image):
        asked.append((case.variant_name, case.side_px, case.precision))
        yield SimpleNamespace(
            client=client,
            version=made_up_students(),
            server=SimpleNamespace(grpc_url="nowhere:1", metrics_url="metrics"),
        )

    def measure_single_stream(*_, **options):
        client.timed.append(options)
        return made_up_run("preprocess_56", "dinov2_vitb14_56", "students_56", "anomaly_map")

    monkeypatch.setattr(latency_measurement, "served_random_students", served_random_students)
    monkeypatch.setattr(latency_measurement, "measure_single_stream", measure_single_stream)
    (record,) = measured("l2bt-b-56")
    assert asked == [("dinov2_vitb14", 56, "bf16")]
    assert client.timed[0]["with_map"] is True
    assert client.timed[0]["method"] == "l2bt"
    assert (record["weights"], record["with_map"], record["bank_patches"]) == ("random", True, None)
    assert (record["shots"], record["preprocessing"]) == (None, None)
    assert record["floor_by_step"].keys() == {"preprocess", "backbone", "students", "map"}
    students = record["floor_by_step"]["students"]
    assert students["traffic_bytes"] == students_traffic(768, (4, 4), "bf16").total
    assert "memory_bank_s" not in record


def test_only_the_demos_backbone_has_weights_at_hand(monkeypatch, tmp_path):
    written = []

    def write(path, name, seed):
        written.append(name)
        path.write_bytes(b"weights")

    monkeypatch.setattr(latency_backbones, "write_random_backbone", write)
    assert latency_backbones.weights_of("dinov2_vits14") == "packaged"
    assert latency_backbones._weights("dinov2_vits14", tmp_path / "new") == "packaged"
    for _ in range(2):
        path = latency_backbones._weights("dinov2_vitb14", tmp_path / "new")
        assert Path(path).read_bytes() == b"weights"
    assert written == ["dinov2_vitb14"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["dinov2_vitb14.random.pth"]


def test_weights_cut_short_by_a_kill_are_not_taken_for_whole(monkeypatch, tmp_path):
    def killed(path, name, seed):
        path.write_bytes(b"wei")
        raise KeyboardInterrupt

    monkeypatch.setattr(latency_backbones, "write_random_backbone", killed)
    with pytest.raises(KeyboardInterrupt):
        latency_backbones._weights("dinov2_vitb14", tmp_path)
    monkeypatch.setattr(
        latency_backbones, "write_random_backbone", lambda path, *_: path.write_bytes(b"weights")
    )
    assert Path(latency_backbones._weights("dinov2_vitb14", tmp_path)).read_bytes() == b"weights"


def test_backbones_of_two_sizes_do_not_share_a_folder(monkeypatch, tmp_path):
    built = []

    def build(description):
        built.append(description)
        return iter(())

    monkeypatch.setattr(latency_backbones, "build", build)
    folders = {
        latency_backbones.exported_backbone("dinov2_vits14", px, tmp_path) for px in (224, 448)
    }
    assert len(folders) == 2
    assert [description.backbone[0].sizes for description in built] == [["224"], ["448"]]
    assert built[0].backbone[0].precisions == ["fp32"]
    latency_backbones.exported_backbone("dinov2_vits14", 448, tmp_path, "int8")
    assert built[2].backbone[0].precisions == ["int8"]
    assert built[0].check_images.images[0].is_file()
