"""Calls of gRPC servers, several at once, in the thread of the caller; based on h2.

The gRPC library has threads of its own, and a fork beside them, as of a worker that loads data, may hang or end either process.
Here a fork finds no thread and no lock; at worst, it inherits the connections of a call. A call has one message as its request
and one as its answer.
"""

import encodings.idna  # noqa: F401 - the first look-up of a host imports it, and a fork meanwhile would inherit the import's lock
import errno
import os
import selectors
import socket
import struct
from collections.abc import Sequence
from contextlib import ExitStack
from time import monotonic

from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, Event, ResponseReceived, StreamEnded, StreamReset, TrailersReceived
from h2.exceptions import ProtocolError

_PREFIX = struct.Struct(">?I")
"""Before each message: whether it is compressed, and its length."""
_RECEIVED = _MOST_UNSENT = 65_536
_LONGEST_STEP_S = 60.0
"""No selector waits for an infinite time; after so long, the limit is looked at again."""
_OK = b"0"
_STATUS = b"grpc-status"
_STATUS_DIGITS = 2


class CallError(Exception):
    """A server has not answered; the message says why, in a few words."""


class _Call:
    """A call that is going on; none of its methods waits for the server.

    Attributes:
        answer: The answer or the error, once either is known. Larger ones than HTTP/2's first window, 64 KiB, never arrive.
        connection: What to wait for; None if there is an answer.
    """

    def __init__(self, address: str, method: str, request: bytes) -> None:
        self.answer: bytes | CallError | None = None
        self.connection: socket.socket | None = None
        self._connected = False
        self._body = b""
        self._headers: dict[bytes, bytes] = {}
        self._protocol = H2Connection()
        self._protocol.initiate_connection()
        headers = {":method": "POST", ":scheme": "http", ":path": method, ":authority": address}
        headers |= {"te": "trailers", "content-type": "application/grpc"}
        stream = self._protocol.get_next_available_stream_id()
        self._protocol.send_headers(stream, headers.items())
        self._protocol.send_data(stream, _PREFIX.pack(False, len(request)) + request, end_stream=True)
        self._unsent = self._protocol.data_to_send()
        host, _, port = address.rpartition(":")
        try:
            self._addresses = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
            self._connect("unknown address")
        except (OSError, UnicodeError) as error:
            self._fail((isinstance(error, OSError) and error.strerror) or "unknown address")

    @property
    def events(self) -> int:
        """What to wait for, as in :mod:`selectors`."""
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent or not self._connected else 0)

    def go_on(self, connection: socket.socket, events: int) -> None:
        """Process what has happened to the connection."""
        try:
            if not self._connected:
                failure = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if failure:
                    self._connect(os.strerror(failure))
                    return
                self._connected = True
            if events & selectors.EVENT_READ:
                self._receive(connection)
            if self.answer is None and self._unsent:
                self._unsent = self._unsent[connection.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError as error:
            self._fail(error.strerror or "the connection failed")
        except ProtocolError:
            self._fail("it does not speak HTTP/2 as expected")

    def close(self) -> None:
        """Close the connection."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def _connect(self, failure: str) -> None:
        """Begin to connect to the next of the host's addresses; ``failure`` is why the one before it failed."""
        self.close()
        while self._addresses:
            family, kind, protocol, _, address = self._addresses.pop(0)
            self.connection = socket.socket(family, kind, protocol)
            self.connection.setblocking(False)
            code = self.connection.connect_ex(address)
            if code in {0, errno.EINPROGRESS}:
                return
            failure = os.strerror(code)
            self.close()
        self._fail(failure)

    def _receive(self, connection: socket.socket) -> None:
        received = connection.recv(_RECEIVED)
        if not received:
            self._fail("the connection was closed")
            return
        for event in self._protocol.receive_data(received):
            self._process(event)
        self._unsent += self._protocol.data_to_send()
        if len(self._unsent) > _MOST_UNSENT:
            self._fail("it does not read what it asks for")

    def _process(self, event: Event) -> None:
        if isinstance(event, ResponseReceived | TrailersReceived):
            self._headers.update(event.headers or ())
        elif isinstance(event, DataReceived):
            self._body += event.data or b""
        elif isinstance(event, StreamReset | ConnectionTerminated):
            self._fail("the call was cancelled")
        elif isinstance(event, StreamEnded):
            self._finish()

    def _finish(self) -> None:
        status = self._headers.get(_STATUS, b"")
        if status != _OK:
            known = status.isdigit() and len(status) <= _STATUS_DIGITS
            self._fail(f"gRPC status {status.decode() if known else 'unknown'}")
        elif len(self._body) < _PREFIX.size or _PREFIX.unpack_from(self._body) != (False, len(self._body) - _PREFIX.size):
            self._fail("not one message")
        else:
            self.answer = self._body[_PREFIX.size :]

    def _fail(self, reason: str) -> None:
        if self.answer is None:
            self.answer = CallError(reason)


def call_all(addresses: Sequence[str], method: str, request: bytes, seconds: float) -> list[bytes | CallError]:
    """Call a method of several servers at once; return the answer of each.

    Args:
        addresses: Hosts and ports, such as ``localhost:8431``. They are connected to directly, without a proxy or TLS.
        method: Service and method: ``/service/method``.
        request: The encoded message.
        seconds: Time limit of all answers together, in s, from the time at which the addresses are known.
    """
    with ExitStack() as stack:
        calls = [_Call(address, method, request) for address in addresses]
        for call in calls:
            stack.callback(call.close)
        end, over = monotonic() + seconds, False
        while not over and any(call.answer is None for call in calls):
            left = end - monotonic()
            over = left <= 0  # what has arrived by then is processed
            with selectors.PollSelector() as selector:  # takes no descriptor, of which there may be none left
                for call in calls:
                    if call.answer is None and call.connection is not None:
                        selector.register(call.connection, call.events, (call, call.connection))
                for key, events in selector.select(min(max(0.0, left), _LONGEST_STEP_S)):
                    call, connection = key.data
                    call.go_on(connection, events)
    late = CallError(f"no answer within {seconds:g} s")
    return [late if call.answer is None else call.answer for call in calls]
