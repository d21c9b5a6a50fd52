"""A line that inspects without a pause, and notes whatever is not as it should be."""

from __future__ import annotations

import contextlib
import threading
import time

import tritonclient.grpc as triton
from integration.triton_calls import inspect, same


class Line(threading.Thread):
    """Asks for one image again and again, in a thread of its own.

    Args:
        url: The server.
        product: Product and image to ask for.
        image: Encoded.
        model: Ensemble.
        expected: By version: the answer, without the version.

    Attributes:
        versions: Which version gave each answer.
        faults: Errors, and answers that no version gives.
    """

    def __init__(self, url, product, image, model, expected):
        super().__init__()
        self._url, self._asked, self._model = url, (product, image), model
        self._expected = expected
        self._ended = threading.Event()
        self.versions, self.faults = [], []

    def run(self):
        with triton.InferenceServerClient(self._url) as client:
            while not self._ended.is_set():
                try:
                    answer = inspect(client, *self._asked, model=self._model)
                except Exception as error:
                    self.faults.append(str(error))
                    return
                version = int(answer.pop("bundle_version")[0, 0])
                self.versions.append(version)
                if not same(answer, self._expected(version)):
                    self.faults.append(f"another answer of version {version}")

    def wait_for_another(self):
        """Until one more answer came, or none will."""
        count = len(self.versions)
        while len(self.versions) == count and self.is_alive():
            time.sleep(0.01)

    def end(self):
        self._ended.set()
        self.join()


@contextlib.contextmanager
def running(lines):
    """Lines that run meanwhile."""
    for line in lines:
        line.start()
    try:
        yield
    finally:
        for line in lines:
            line.end()
