"""What identifies a measurement, from records as the server gives them; the server is a stand-in."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from dinspect_bench.errors import BenchmarkError, LatencyError
from dinspect_bench.latency.subject import Subject, find_subject, refuse_response_cache
from dinspect_client import DamagedVersion, ProductVersion, StudentsVersion


def record(kind, version, **fields):
    """A version's record with the fields that are looked at."""
    made = object.__new__(kind)
    backbone = SimpleNamespace(name="dinov2_vits14", onnx_sha256="ab", runtime="r", precision="p")
    fields = {"version": version, "backbone": backbone, "grid": (32, 42), **fields}
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


BANK = record(
    ProductVersion, 2, num_references=4, num_patches=4096,
    preprocessing=SimpleNamespace(masked=True, setting="informed"),
)  # fmt: skip
STUDENTS = record(StudentsVersion, 5, num_references=32, num_patches=999)
DAMAGED = DamagedVersion("screw", 1, "bank.safetensors is cut short")


class Server:
    """Two products of both methods; L2BT's alone inspects the nut."""

    def products(self):
        listed = (("screw", "anomaly_dino", "anomaly_dino_448"), ("screw", "l2bt", "l2bt_screw_448"),
                  ("nut", "l2bt", "l2bt_nut_448"))  # fmt: skip
        return [SimpleNamespace(name=n, method=m, ensemble=e) for n, m, e in listed]

    def history(self, name, *, method):
        versions = (DAMAGED, BANK) if method == "anomaly_dino" else (STUDENTS,)
        return SimpleNamespace(versions=versions, current=versions[-1].version)


def find(reference, method):
    return find_subject(Server(), reference, method, with_map=True)


def test_ensemble_and_version_are_the_methods_own():
    subject = find("screw", "anomaly_dino")
    assert (subject.ensemble, subject.version) == ("anomaly_dino_448", BANK)
    subject = find("screw", "l2bt")
    assert (subject.ensemble, subject.version) == ("l2bt_screw_448", STUDENTS)


def test_a_pinned_version_is_found():
    assert find("screw@2", "anomaly_dino").version is BANK
    with pytest.raises(BenchmarkError, match="version 1 of screw is damaged: bank.safetensors"):
        find("screw@1", "anomaly_dino")
    with pytest.raises(BenchmarkError, match="screw has no version 7"):
        find("screw@7", "anomaly_dino")


def test_a_product_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(BenchmarkError, match="'nut' is inspected by anomaly_dino.* are: screw"):
        find("nut", "anomaly_dino")
    with pytest.raises(BenchmarkError, match="'a b'"):
        find("a b", "anomaly_dino")


def test_settings_are_those_of_a_record():
    assert find("screw@2", "anomaly_dino").settings() == {
        "product": "screw@2",
        "method": "anomaly_dino",
        "ensemble": "anomaly_dino_448",
        "bundle_version": 2,
        "backbone": "dinov2_vits14",
        "backbone_sha256": "ab",
        "resolution": 448,
        "input_size": "448x588",
        "shots": 4,
        "bank_patches": 4096,
        "masking": True,
        "rotation": "informed",
        "with_map": True,
    }


def test_students_have_no_bank():
    settings = Subject("screw", "l2bt", False, "l2bt_screw_448", STUDENTS).settings()
    assert settings["bank_patches"] is None
    assert (settings["masking"], settings["rotation"]) == (False, "pad")
    assert (settings["shots"], settings["with_map"]) == (32, False)


class Configs:
    """Configs as Triton gives them; some with a response cache."""

    def __init__(self, cached=()):
        self.cached = cached

    def get_model_config(self, name, *, as_json=False):
        config = {"name": name}
        if name == "e":
            step = [{"model_name": "preprocess_448"}, {"model_name": "anomaly_map"}]
            config["ensemble_scheduling"] = {"step": step}
        if name in self.cached:
            config["response_cache"] = {"enable": True}
        return {"config": config}


def test_without_a_response_cache_nothing_is_refused():
    refuse_response_cache(Configs(), "e")


@pytest.mark.parametrize("name", ["e", "preprocess_448", "anomaly_map"])
def test_an_ensemble_that_may_answer_from_a_cache_is_refused(name):
    with pytest.raises(LatencyError, match=f"^{name} is served with Triton's response cache"):
        refuse_response_cache(Configs({name}), "e")
