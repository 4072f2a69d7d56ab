"""Calls of gRPC servers, several at once, in the thread of the caller; based on h2.

The gRPC library has threads of its own, and a fork beside them, as of a worker that loads data, may hang or end either process.
What is done here survives a fork at any instant. A call has one message as its request and one as its answer.
"""

import selectors
import socket
import struct
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from time import monotonic

from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, Event, ResponseReceived, StreamEnded, StreamReset, TrailersReceived
from h2.exceptions import ProtocolError

_PREFIX = struct.Struct(">?I")
"""Before each message: whether it is compressed, and its length."""
_RECEIVED = 65_536
_SOON_S = 0.01
"""Time in s that a connection is waited for at least, where the limit has passed: one on this machine takes less."""
_OK = b"0"
_STATUS = b"grpc-status"


class CallError(Exception):
    """A server has not answered; the message says why, in a few words."""


class _Call:
    """A call that is going on.

    Attributes:
        answer: The answer or the error, once either is known. Larger ones than HTTP/2's first window, 64 KiB, never arrive.
    """

    def __init__(self, connection: socket.socket, address: str, method: str, request: bytes) -> None:
        self.answer: bytes | CallError | None = None
        self._connection = connection
        self._protocol = H2Connection()
        self._body = b""
        self._headers: Mapping[bytes, bytes] = {}
        self._protocol.initiate_connection()
        headers = {":method": "POST", ":scheme": "http", ":path": method, ":authority": address}
        headers |= {"te": "trailers", "content-type": "application/grpc"}
        stream = self._protocol.get_next_available_stream_id()
        self._protocol.send_headers(stream, headers.items())
        self._protocol.send_data(stream, _PREFIX.pack(False, len(request)) + request, end_stream=True)
        self._send()

    def receive(self) -> None:
        """Process what has arrived."""
        received = self._connection.recv(_RECEIVED)
        if not received:
            self.answer = CallError("the connection was closed")
            return
        for event in self._protocol.receive_data(received):
            self._process(event)
        self._send()

    def _process(self, event: Event) -> None:
        if isinstance(event, ResponseReceived | TrailersReceived):
            self._headers = {**self._headers, **dict(event.headers or ())}
        elif isinstance(event, DataReceived):
            self._body += event.data or b""
        elif isinstance(event, StreamReset | ConnectionTerminated):
            self.answer = self.answer or CallError("the call was cancelled")
        elif isinstance(event, StreamEnded):
            self.answer = self._message()

    def _message(self) -> bytes | CallError:
        status = self._headers.get(_STATUS, b"unknown")
        if status != _OK:
            return CallError(f"gRPC status {status.decode(errors='replace')}")
        if len(self._body) < _PREFIX.size or _PREFIX.unpack_from(self._body) != (False, len(self._body) - _PREFIX.size):
            return CallError("not one message")
        return self._body[_PREFIX.size :]

    def _send(self) -> None:
        self._connection.sendall(self._protocol.data_to_send())


def call_all(addresses: Sequence[str], method: str, request: bytes, seconds: float) -> list[bytes | CallError]:
    """Call a method of several servers at once; return the answer of each.

    Args:
        addresses: Hosts and ports, such as ``localhost:8431``. They are connected to directly, without a proxy or TLS.
        method: Service and method: ``/service/method``.
        request: The encoded message.
        seconds: Time limit of all answers together, in s.
    """
    end = monotonic() + seconds
    late = CallError(f"no answer within {seconds:g} s")
    answers: dict[int, bytes | CallError] = {}
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for place, address in enumerate(addresses):
            host, _, port = address.rpartition(":")
            try:
                target = (host.strip("[]"), port)
                connection = stack.enter_context(socket.create_connection(target, max(_SOON_S, end - monotonic())))
                selector.register(connection, selectors.EVENT_READ, (place, _Call(connection, address, method, request)))
            except (OSError, UnicodeError) as error:
                answers[place] = _explain(error, late)
        while selector.get_map() and (left := end - monotonic()) > 0:
            for key, _ in selector.select(left):
                place, call = key.data
                try:
                    call.receive()
                except (OSError, ProtocolError) as error:
                    call.answer = _explain(error, late)
                if call.answer is not None:
                    answers[place] = call.answer
                    selector.unregister(key.fileobj)
    return [answers.get(place, late) for place in range(len(addresses))]


def _explain(error: Exception, late: CallError) -> CallError:
    if isinstance(error, TimeoutError):
        return late
    if isinstance(error, ProtocolError):
        return CallError("it does not speak HTTP/2")
    return CallError((isinstance(error, OSError) and error.strerror) or "unknown address")
