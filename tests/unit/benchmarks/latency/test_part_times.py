"""The models' own counters, from metrics as Triton 2.51 wrote them."""

from __future__ import annotations

import http.server
import threading

import pytest

from dinspect_bench.errors import StatisticsError
from dinspect_bench.latency.part_times import part_times_ms, parts_from_metrics, read_parts

METRICS = """\
# HELP nv_inference_compute_infer_duration_us Cumulative compute inference duration in microseconds
# TYPE nv_inference_compute_infer_duration_us counter
nv_inference_compute_infer_duration_us{model="preprocess_448",version="1"} 70512
# HELP dinspect_decode_duration_us Cumulative duration of decoding, in microseconds
# TYPE dinspect_decode_duration_us counter
dinspect_decode_duration_us{model="preprocess_448_raw",version="1"} 43.876
dinspect_decode_duration_us{model="preprocess_448",version="1"} 39665.15100000001
# TYPE dinspect_resize_duration_us counter
dinspect_resize_duration_us{model="preprocess_448_raw",version="1"} 588.127
dinspect_resize_duration_us{model="preprocess_448",version="1"} 1.5e+06
"""


def test_counters_are_those_of_the_model():
    assert parts_from_metrics(METRICS, "preprocess_448") == {
        "decode": 39665.15100000001,
        "resize": 1.5e6,
    }
    assert parts_from_metrics(METRICS, "preprocess_44") == {}


def test_versions_of_a_model_are_added_up():
    more = METRICS + 'dinspect_decode_duration_us{model="preprocess_448",version="2"} 34.849\n'
    assert parts_from_metrics(more, "preprocess_448")["decode"] == pytest.approx(39_700)


def test_difference_is_the_mean_per_request_in_milliseconds():
    before, after = {"decode": 1000.0, "resize": 500.0}, {"decode": 9000.0, "resize": 2500.0}
    assert part_times_ms(before, after, 4) == {"decode": 2.0, "resize": 0.5}


def test_a_model_that_was_loaded_anew_is_noticed():
    with pytest.raises(StatisticsError, match="the resize time went down"):
        part_times_ms({"decode": 1.0, "resize": 2.0}, {"decode": 3.0, "resize": 1.0}, 1)


@pytest.fixture
def metrics_url():
    """A server that gives the text above, whatever is asked."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(METRICS.encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/metrics"
        server.shutdown()
        thread.join()


def test_they_are_read_over_http(metrics_url, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert read_parts(metrics_url, "preprocess_448")["resize"] == 1.5e6


def test_a_model_that_counts_nothing_is_named(metrics_url):
    with pytest.raises(StatisticsError, match="time preprocess_672 takes to decode and resize"):
        read_parts(metrics_url, "preprocess_672")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/metrics", "nonsense"])
def test_what_cannot_be_read_is_named(url):
    with pytest.raises(StatisticsError, match=f"metrics at {url} cannot be read"):
        read_parts(url, "preprocess_448")
