"""The model without work; what it does on a server is an integration test's matter."""

from __future__ import annotations

import json

import pytest
from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2 as pb

from dinspect_bench.latency.transport import ANSWER_MODEL, TransportTimes, answer_model_config

ENSEMBLE = {
    "name": "anomaly_dino_448",
    "platform": "ensemble",
    "max_batch_size": 8,
    "input": [{"name": "image", "data_type": "TYPE_STRING", "dims": ["1"]}],
    "output": [{"name": "anomaly_map", "data_type": "TYPE_FP32", "dims": ["-1", "-1"]}],
    "ensemble_scheduling": {"step": [{"model_name": "preprocess_448", "model_version": "-1"}]},
}


def test_it_takes_and_answers_what_the_ensemble_does_without_its_steps():
    config = json_format.Parse(answer_model_config(ENSEMBLE), pb.ModelConfig())
    assert (config.name, config.backend, config.platform) == (ANSWER_MODEL, "python", "")
    assert config.max_batch_size == 8
    assert [(one.name, list(one.dims)) for one in config.output] == [("anomaly_map", [-1, -1])]
    assert [one.name for one in config.input] == ["image"]
    assert not config.HasField("ensemble_scheduling")
    assert config.HasField("dynamic_batching")
    assert json.loads(answer_model_config(ENSEMBLE))["instance_group"] == [
        {"count": 1, "kind": "KIND_CPU"}
    ]


def test_transport_is_what_triton_does_not_count():
    assert TransportTimes(30, client_ms=4.5, server_ms=1.25).transport_ms == pytest.approx(3.25)
