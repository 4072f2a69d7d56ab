"""A web service on this machine whose answers the tests set."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Service:
    """A server with a given answer: status, body, and a delay before it."""

    def __init__(self) -> None:
        self.status, self.body, self.silence_s = 200, "{}", 0.0
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.ended = threading.Event()
        self._answering = threading.Event()
        self._answering.set()
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                service.asked.append((self.path, dict(self.headers)))
                service.ended.wait(service.silence_s)
                service._answering.wait()
                self.send_response(service.status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(service.body.encode())

            def log_message(self, *_: Any) -> None:
                """Log nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Do not answer until the body has ended."""
        self._answering.clear()
        try:
            yield
        finally:
            self._answering.set()

    def tell(self, value: object) -> None:
        self.body = json.dumps({"zone": "FR", "carbonIntensity": value})

    def close(self) -> None:
        self.ended.set()
        self._answering.set()
        self.server.shutdown()
        self.server.server_close()
