"""A server of HTTP on loopback."""

import http.server
import threading
from contextlib import contextmanager

import pytest


@pytest.fixture
def serving():
    """Runs a server with a handler while a context lasts, and gives its address."""

    @contextmanager
    def run(handler):
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
            thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
            thread.start()
            yield f"http://127.0.0.1:{running.server_address[1]}"
            running.shutdown()
            thread.join()

    return run
