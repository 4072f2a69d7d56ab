"""HTTP requests with a limit of time and size, however slowly the answer arrives; based on requests.

Import it only for the first request: requests takes 50 ms to import.
"""

import socket
from collections.abc import Iterator
from functools import partial
from http.client import HTTPException
from time import monotonic
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

_Address = tuple[int, Any]
"""Address family and address of a host, as :func:`socket.getaddrinfo` returns them."""


class Site:
    """A host that is queried at one of its addresses, over plain HTTP and without proxies; redirections are not followed.

    Args:
        origin: Its URL, without a path.
        address: Address family and address of the host.
        seconds: Time limit of a request, from the connection to the last byte.
        size: Largest answer in bytes.
    """

    def __init__(self, origin: str, address: _Address, *, seconds: float, size: int) -> None:
        """Prepare the session, without connecting."""
        self._origin = origin
        self._seconds = seconds
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers = CaseInsensitiveDict({"Accept-Encoding": "identity", "Connection": "close"})
        self._session.mount("http://", _Adapter(partial(_Socket, address, seconds, size)))

    def get(self, path: str) -> tuple[int, bytes]:
        """Return the status and the body of the answer.

        Raises:
            OSError: There is no answer, or it takes too long or is too large.
            HTTPException: The answer is not HTTP.
        """
        try:
            answer = self._session.get(f"{self._origin}{path}", timeout=self._seconds, allow_redirects=False)
        except (requests.RequestException, HTTPException) as error:
            raise next(_underlying_errors(error), error) from None
        finally:
            self._session.close()  # the limits apply to a connection, and each request has its own
        return answer.status_code, answer.content


def _underlying_errors(error: BaseException | None) -> Iterator[OSError | HTTPException]:
    """Yield the underlying errors of an error of requests."""
    while error is not None:
        if isinstance(error, OSError | HTTPException) and not isinstance(error, requests.RequestException):
            yield error
        error = error.__context__


class _Socket(socket.socket):
    """A connection with a deadline and a limit of bytes."""

    def __init__(self, address: _Address, seconds: float, size: int) -> None:
        family, socket_address = address
        super().__init__(family, socket.SOCK_STREAM)
        self._deadline = monotonic() + seconds
        self._size = self._left = size
        self.settimeout(seconds)
        try:
            self.connect(socket_address)
        except BaseException:
            self.close()
            raise

    def recv_into(self, *args: Any) -> int:  # noqa: ANN401 - as in socket
        """Receive some bytes within the remaining time."""
        seconds = self._deadline - monotonic()
        if seconds <= 0:
            msg = "timed out"
            raise TimeoutError(msg)
        self.settimeout(seconds)
        received = super().recv_into(*args)
        self._left -= received
        if self._left < 0:
            msg = f"the answer is larger than {self._size} bytes"
            raise OSError(msg)
        return received


class _Connection(HTTPConnection):
    def __init__(self, make_socket: "partial[_Socket]", *args: Any, **options: Any) -> None:  # noqa: ANN401 - as in the base class
        super().__init__(*args, **options)
        self._make_socket = make_socket

    def connect(self) -> None:
        """Connect to the given address, within the time limit."""
        self.sock = self._make_socket()


class _Pool(HTTPConnectionPool):
    def __init__(self, make_socket: "partial[_Socket]", *args: Any, **options: Any) -> None:  # noqa: ANN401 - as in the base class
        super().__init__(*args, **options)
        self.ConnectionCls = partial(_Connection, make_socket)  # type: ignore[assignment]


class _Adapter(HTTPAdapter):
    def __init__(self, make_socket: "partial[_Socket]") -> None:
        self._make_socket = make_socket
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - as in the base class
        """Use the connections of this module."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": partial(_Pool, self._make_socket)}  # type: ignore[dict-item]
