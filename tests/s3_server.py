"""A local S3 server that calls back after each object it was given: so tests kill a writer between two of them."""

import threading
from collections.abc import Callable
from urllib.request import Request, urlopen

import pytest

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


class S3Server:
    """moto's server on loopback, with one bucket; `url` of a place in it."""

    def __init__(self) -> None:
        server = pytest.importorskip("moto.server", reason="pip install 'tta-grid[dev]'")
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log(self, *given: object) -> None:
                pass

        self._app = server.DomainDispatcherApplication(server.create_backend_app)
        self.after_put: Callable[[str], None] = lambda key: None
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=Quiet)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.port = self._server.server_port
        urlopen(Request(f"http://127.0.0.1:{self.port}/bucket", method="PUT")).close()

    def _answer(self, environ, start_response):
        content = b"".join(self._app(environ, start_response))
        if environ["REQUEST_METHOD"] == "PUT":
            self.after_put(environ["PATH_INFO"])
        return [content]

    def url(self, place: str) -> str:
        query = f"endpoint_override=127.0.0.1:{self.port}&scheme=http&region=us-east-1"
        return f"s3://bucket/{place}?{query}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
