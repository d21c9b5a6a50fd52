"""Starting, watching and stopping the real server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import psutil
import pytest
import tritonclient.grpc as triton
from integration.triton_calls import PLAIN, enroll, inspect
from tritonclient.utils import InferenceServerException

from dinspect_server.assemble import assemble
from dinspect_server.embedded import EXIT_TIMEOUT_S, EmbeddedTriton, Endpoints
from dinspect_server.errors import AssemblyError, PortInUseError, StartError


@pytest.fixture(scope="module")
def small_repository(artefacts_dir, tmp_path_factory):
    repository = tmp_path_factory.mktemp("small")
    artefacts = tmp_path_factory.mktemp("one")
    (artefacts / "a").symlink_to(artefacts_dir / "dinov2_vits14_448")
    assemble(artefacts, repository)
    return repository


def test_server_is_the_real_one_and_listens_on_loopback_alone(served):
    assert served.version == "triton 2.51.0"
    process = psutil.Process(served.process_id)
    assert process.name() == "tritonserver"
    listening = {
        connection.laddr.ip.removeprefix("::ffff:")
        for connection in process.net_connections()
        if connection.status == "LISTEN"
    }
    assert listening == {"127.0.0.1"}
    with urllib.request.urlopen(served.metrics_url) as metrics:
        assert b"nv_inference_request_success" in metrics.read()


def test_folder_that_was_not_assembled_is_refused(tmp_path):
    with pytest.raises(AssemblyError, match="dinspect assemble"):
        EmbeddedTriton(tmp_path).start()


def test_taken_port_is_refused_before_anything_starts(served, small_repository):
    with pytest.raises(PortInUseError, match="choose another port"):
        EmbeddedTriton(small_repository, Endpoints(grpc_port=served.endpoints.grpc_port)).start()


def test_broken_model_shows_the_log(artefacts_dir, tmp_path):
    assemble(artefacts_dir, tmp_path)
    (tmp_path / "models" / "anomaly_map" / "1" / "map_operator.py").write_text(
        "raise ValueError('x')"
    )
    server = EmbeddedTriton(tmp_path)
    with pytest.raises(StartError, match="ValueError: x"):
        server.start()
    with pytest.raises(StartError, match="not running"):
        _ = server.process_id


def test_backbone_that_answers_wrongly_is_not_served(artefacts_dir, tmp_path):
    """Another image's known answer stands in for a runtime that computes something else."""
    from safetensors.numpy import load_file, save_file

    assemble(artefacts_dir, tmp_path)
    known = tmp_path / "models" / "dinov2_vits14_448" / "1" / "known_answer.safetensors"
    answer = load_file(str(known))
    answer["pixels"] = 255 - answer["pixels"]
    save_file(answer, str(known))
    with pytest.raises(StartError, match="nothing is served"):
        EmbeddedTriton(tmp_path).start()


def stub_of(server, model):
    for child in psutil.Process(server.process_id).children():
        if child.status() != psutil.STATUS_ZOMBIE and f"/{model}/" in " ".join(child.cmdline()):
            return child
    raise AssertionError(f"{model} has no living stub")


def test_dead_stub_comes_back(small_repository, split):
    part = split.defective[0].read_bytes()
    with EmbeddedTriton(small_repository) as server:
        client = triton.InferenceServerClient(server.grpc_url)
        enroll(client, "cell", [split.enrolled[0].read_bytes()], **PLAIN)
        before = inspect(client, "cell", part)["anomaly_score"]
        for model in ("cosine_knn_448", "dinov2_vits14_448", "preprocess_448", "anomaly_map"):
            stub_of(server, model).kill()
            deadline = time.monotonic() + 30
            while True:
                try:
                    after = inspect(client, "cell", part)["anomaly_score"]
                    break
                except InferenceServerException:
                    assert time.monotonic() < deadline, f"{model} did not come back"
                    time.sleep(0.1)
            assert after == before
        client.close()


def test_stopping_leaves_nothing_behind(small_repository):
    server = EmbeddedTriton(small_repository)
    server.start()
    family = [psutil.Process(server.process_id)]
    family += family[0].children(recursive=True)
    assert len(family) > 5
    server.stop()
    _, alive = psutil.wait_procs(family, 5)
    assert not alive


def test_admin_key_guards_the_models(small_repository):
    with EmbeddedTriton(small_repository, admin_key="secret") as server:
        client = triton.InferenceServerClient(server.grpc_url)
        with pytest.raises(InferenceServerException, match="StatusCode.UNAVAILABLE|restricted|key"):
            client.unload_model("anomaly_map")
        client.unload_model("anomaly_map", headers={"triton-grpc-protocol-admin-key": "secret"})
        client.close()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_serve_command_runs_until_told_to_stop(small_repository, signum):
    command = [sys.executable, "-m", "dinspect_client.main", "serve", str(small_repository)]
    command += ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        assert line.startswith("triton 2.51.0 is ready: gRPC 127.0.0.1:")
        url = line.split("gRPC ")[1].split(",")[0]
        with triton.InferenceServerClient(url) as client:
            assert client.is_server_ready()
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signum)
        assert process.wait(30) == 0
        assert process.stdout.read().strip() == "stopped"
    assert not psutil.wait_procs(children, 5)[1]


def test_killed_serve_command_takes_the_server_with_it(small_repository):
    command = [sys.executable, "-m", "dinspect_client.main", "serve", str(small_repository)]
    command += ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        children = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
    assert len(children) > 5
    assert not psutil.wait_procs(children, 20)[1]


def test_server_that_hands_images_back_changed_is_not_served(small_repository, tmp_path):
    """What a broken Python backend does: ready, and every tensor filled with its first element."""
    shutil.copytree(small_repository / "models", tmp_path / "models")
    shutil.copy(small_repository / "repository.json", tmp_path)
    (tmp_path / "banks").mkdir()
    broken = tmp_path / "models" / "preprocess_448_raw" / "1" / "model.py"
    broken.write_text(
        broken.read_text().replace(
            "return list(batch)", "return list(batch * 0 + batch[0, 0, 0, 0])"
        )
    )
    with pytest.raises(StartError, match="does not hand back the image it was sent"):
        EmbeddedTriton(tmp_path).start()


def test_admin_key_guards_the_models_over_http_too(small_repository):
    with EmbeddedTriton(small_repository, admin_key="secret") as server:
        address = f"http://{server.http_url}/v2/repository/models/anomaly_map/unload"
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(urllib.request.Request(address, b"{}"), timeout=10)
        with_key = urllib.request.Request(address, b"{}", {"admin-key": "secret"})
        assert urllib.request.urlopen(with_key, timeout=60).status == 200


def test_stopping_is_orderly(small_repository):
    """Asked to end, not killed: so requests in flight are answered."""
    server = EmbeddedTriton(small_repository)
    server.start()
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < EXIT_TIMEOUT_S
    assert "Signal (15) received" in server.log_path.read_text()


def test_nobody_loads_models_without_a_key(small_repository):
    """A model is code: without a key of the operator's there is one that nobody knows."""
    with EmbeddedTriton(small_repository) as server:
        client = triton.InferenceServerClient(server.grpc_url)
        for call in (client.unload_model, client.load_model):
            with pytest.raises(InferenceServerException, match="UNAVAILABLE|restricted|key"):
                call("anomaly_map")
        client.close()


def test_served_repository_cannot_be_assembled_or_served_again(served, artefacts_dir):
    with pytest.raises(AssemblyError, match="is being served or assembled"):
        assemble(artefacts_dir, served.repository)
    with pytest.raises(AssemblyError, match="is being served or assembled"):
        EmbeddedTriton(served.repository).start()


def test_proxy_of_the_environment_is_not_asked_for_loopback(small_repository):
    environment = {k: v for k, v in os.environ.items() if k.lower() != "no_proxy"}
    environment |= dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy"), "http://127.0.0.1:9")
    command = [sys.executable, "-m", "dinspect_client.main", "serve", str(small_repository)]
    command += ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        url = process.stdout.readline().split("gRPC ")[1].split(",")[0]
        command = [sys.executable, "-m", "dinspect_client.main", "products", "--url", url]
        subprocess.run(command, check=True, env=environment, timeout=60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_reload_that_fails_is_tried_again(small_repository, split, tmp_path):
    """The model's file is away for a while, as during a bad deployment."""
    repository = tmp_path / "repository"
    shutil.copytree(small_repository, repository)
    adapter = repository / "models" / "anomaly_map" / "1" / "model.py"
    with EmbeddedTriton(repository) as server:
        client = triton.InferenceServerClient(server.grpc_url)
        enroll(client, "again", [split.enrolled[0].read_bytes()], **PLAIN)
        content = adapter.read_bytes()
        adapter.write_bytes(b"raise ImportError('half deployed')")
        stub_of(server, "anomaly_map").kill()
        time.sleep(4)
        adapter.write_bytes(content)
        deadline = time.monotonic() + 60
        while True:
            try:
                inspect(client, "again", split.defective[0].read_bytes())
                break
            except InferenceServerException:
                assert time.monotonic() < deadline, "anomaly_map did not come back"
                time.sleep(0.2)
        client.close()
