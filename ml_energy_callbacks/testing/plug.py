"""Simulated smart plugs: an HTTP server on a loopback port that answers like Shelly and Tasmota plugs."""

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self
from urllib.parse import parse_qs, urlsplit

from ml_energy_callbacks.clock import Clock
from ml_energy_callbacks.testing.curves import Curve

PlugKind = Literal["shelly-switch", "shelly-pm1", "tasmota"]
"""A Shelly plug with a switch, a Shelly plug with only a meter, or a Tasmota plug."""

PlugFault = Literal["hang", "drip", "error", "password", "warning", "redirect", "garbage", "nan", "null", "huge"]
"""Faults of a plug: never answer; send single bytes slowly; answer with HTTP 500, 401 or, as Tasmota does if it requires a
password, a warning; with a redirection to itself; with a body that is not JSON, contains NaN or null as the power, or is too
large."""

_STATUS = {"error": 500, "password": 401, "redirect": 302}
_WARNING = {"WARNING": "Need user=<username>&password=<password>"}
_POWERS: Mapping[str, float | None] = {"nan": float("nan"), "null": None}
_HUGE = 1024 * 1024
_DRIP_S = 0.05


class SimulatedPlug:
    """A plug with one outlet or more.

    Attributes:
        fault: Its present fault; None if it answers properly.
        requests: The paths that were requested.
    """

    def __init__(self, curves: Sequence[Curve], clock: Clock, kind: PlugKind = "shelly-switch") -> None:
        """Start a plug with one outlet for each of these curves."""
        self.fault: PlugFault | None = None
        self.requests: list[str] = []
        self._curves = curves
        self._clock = clock
        self._kind = kind
        self._port = 0
        self._released = threading.Event()
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None
        self.on()

    @property
    def address(self) -> str:
        """Its address for the backend, which does not change when it is off and on again."""
        return f"{self._kind.partition('-')[0]}://127.0.0.1:{self._port}"

    def on(self) -> None:
        """Start serving; does nothing if it already serves."""
        if self._server is not None:
            return
        self._released.clear()
        plug = self

        class Handler(_Handler):
            def do_GET(self) -> None:
                plug.answer(self)

        self._server = _Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), name="simulated-plug", daemon=True)
        self._thread.start()

    def off(self) -> None:
        """Disconnect from the network; calling it twice is harmless."""
        self._released.set()
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = self._thread = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.off()

    @contextlib.contextmanager
    def failing(self, fault: PlugFault) -> Iterator[None]:
        """Have this fault inside the context."""
        self.fault = fault
        try:
            yield
        finally:
            self.fault = None
            self._released.set()
            self._released = threading.Event()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        self.requests.append(handler.path)
        released, fault = self._released, self.fault
        if fault == "hang":
            released.wait()
            return
        if fault == "drip":
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not released.wait(_DRIP_S):
                handler.wfile.write(b".")
            return
        status, answer = (_STATUS[fault], None) if fault in _STATUS else self._status(handler.path)
        body = b"<html>" if fault == "garbage" else b"[" * _HUGE if fault == "huge" else json.dumps(answer).encode()
        handler.send_response(status)
        if fault == "redirect":
            handler.send_header("Location", handler.path)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def _status(self, path: str) -> tuple[int, dict[str, Any]]:
        """Return the HTTP status and the body of a proper answer."""
        if self.fault == "warning":
            return 200, _WARNING
        url = urlsplit(path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        now = self._clock()
        watts = [_POWERS.get(str(self.fault), round(curve.watts(now), 3)) for curve in self._curves]
        if self._kind == "tasmota":
            if url.path != "/cm" or query.get("cmnd") != "Status 8":
                return 200, {"Command": "Unknown"}
            energy = {"Total": 3.262, "Power": watts if len(watts) > 1 else watts[0], "Voltage": 229}
            return 200, {"StatusSNS": {"Time": "2024-01-01T00:00:00", "ENERGY": energy}}
        component = "Switch" if self._kind == "shelly-switch" else "PM1"
        if url.path != f"/rpc/{component}.GetStatus":
            method = url.path.rpartition("/")[2]
            return 404, {"code": 404, "message": f"No handler for {method}"}
        channel = int(query["id"])
        if channel >= len(watts):
            return 500, {"code": -105, "message": f"Argument 'id', value {channel} not found!"}
        return 200, {"id": channel, "voltage": 229.1, "apower": watts[channel], "aenergy": {"total": 14.093}}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the server's names
        """Log nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore errors of clients that gave up."""
