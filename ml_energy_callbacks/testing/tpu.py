"""A simulated metrics server of Google TPU chips: gRPC on a loopback port, like libtpu's; it requires grpcio."""

import contextlib
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, Self

import grpc

from ml_energy_callbacks.clock import Clock
from ml_energy_callbacks.testing.curves import Curve

TpuFault = Literal["hang", "error", "garbage", "nan", "no_gauge", "no_chips"]
"""Faults of a server: never answer, answer with an error, with bytes that are no message, with a duty cycle that is not a
number, without a duty cycle, or with an empty list."""

_SERVICE = "tpu.monitoring.runtime.RuntimeMetricService"
_METRIC = b"tpu.runtime.tensorcore.dutycycle.percent"
_VARINT, _DOUBLE, _BYTES = 0, 1, 2
_ON_PORT_S = 5.0


class SimulatedTpu:
    """The server and its chips, whose duty cycles are computed from their power.

    It encodes the messages byte by byte from the field numbers in Google's ``tpu_metric_service.proto``, so that it shares no
    code, and no error, with a reader.

    Attributes:
        curves: True power in W, by the server's id of a chip.
        fault: Its present fault; None if it answers properly.
        calls: Number of queries.
    """

    def __init__(self, curves: Sequence[Curve] | Mapping[int, Curve], clock: Clock, watts: tuple[float, float]) -> None:
        """Start a server of chips with these power curves.

        Args:
            curves: True power of each chip; in a sequence, the ids are 0, 1 and so on.
            clock: Clock of the curves.
            watts: Power of a chip with a duty cycle of 0 % and of 100 %, in W.
        """
        self.curves = dict(curves) if isinstance(curves, Mapping) else dict(enumerate(curves))
        self.fault: TpuFault | None = None
        self.calls = 0
        self._clock = clock
        self._idle, self._busy = watts
        self._released = threading.Event()
        self._port = 0
        self._server: grpc.Server | None = None
        self.start()

    @property
    def address(self) -> str:
        """Its address, which does not change when it is stopped and started again."""
        return f"localhost:{self._port}"

    def percent(self, curve: Curve) -> float:
        """Return the duty cycle in % at which a chip draws the curve's present power."""
        share = (curve.watts(self._clock()) - self._idle) / (self._busy - self._idle)
        return 100 * min(1.0, max(0.0, share))

    def start(self) -> None:
        """Start serving, as libtpu does once a program uses the chips; does nothing if it already serves."""
        if self._server is not None:
            return
        self._released.clear()
        self._server = grpc.server(ThreadPoolExecutor(4))
        handler = grpc.unary_unary_rpc_method_handler(self._answer)
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(_SERVICE, {"GetRuntimeMetric": handler})])
        self._port = self._server.add_insecure_port(f"127.0.0.1:{self._port}")
        self._server.start()

    def stop(self) -> None:
        """Stop serving, as libtpu does when the program ends; calling it twice is harmless."""
        self._released.set()
        if self._server is not None:
            self._server.stop(None).wait(_ON_PORT_S)
            self._server = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @contextlib.contextmanager
    def failing(self, fault: TpuFault) -> Iterator[None]:
        """Have this fault inside the context."""
        self.fault = fault
        try:
            yield
        finally:
            self.mend()

    def mend(self) -> None:
        """End the fault and release hanging calls."""
        self.fault = None
        self._released.set()
        self._released = threading.Event()

    def _answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.calls += 1
        if self.fault == "hang":
            self._released.wait()
        if self.fault == "error":
            context.abort(grpc.StatusCode.INTERNAL, "simulated failure")
        if self.fault == "garbage":
            return b"\xff\xff\xff no message"
        if _field(1, _METRIC) not in request:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such metric")
        chips = {} if self.fault == "no_chips" else self.curves
        metrics = [_field(3, self._metric(chip, curve)) for chip, curve in chips.items()]
        return _field(1, _field(1, _METRIC) + _field(2, b"TensorCore duty cycle") + b"".join(metrics))

    def _metric(self, chip: int, curve: Curve) -> bytes:
        attribute = _field(1, b"device-id") + _field(2, _field(3, chip))
        timestamp = _field(1, self._clock() // 1_000_000_000)
        gauge = _field(1, float("nan") if self.fault == "nan" else self.percent(curve))
        return _field(1, attribute) + _field(2, timestamp) + (b"" if self.fault == "no_gauge" else _field(3, gauge))


def _field(number: int, value: bytes | float) -> bytes:
    """Encode one field as Protocol Buffers do."""
    if isinstance(value, bytes):
        return _varint(number << 3 | _BYTES) + _varint(len(value)) + value
    if isinstance(value, int):
        return _varint(number << 3 | _VARINT) + _varint(value)
    return _varint(number << 3 | _DOUBLE) + struct.pack("<d", value)


def _varint(value: int) -> bytes:
    """Encode a whole number, seven bits to a byte, the lowest first."""
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F)
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])
