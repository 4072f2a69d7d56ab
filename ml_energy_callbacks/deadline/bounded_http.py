"""HTTP requests with a limit of time and size, however slowly the answer arrives; based on requests.

Import it only for the first request: requests takes 50 ms to import.
"""

import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from http.client import HTTPException
from time import monotonic
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError
from urllib3.poolmanager import PoolManager
from urllib3.util.ssl_ import create_urllib3_context

_Address = tuple[int, Any]
"""Address family and address of a host, as :func:`socket.getaddrinfo` returns them."""


_OpenSocket = Callable[[str, int], socket.socket]
"""Connects to a host at a port."""


class TooLargeError(OSError):
    """An answer is larger than the limit."""


class Site:
    """A host that is queried, once at a time; redirections are not followed, and nothing is decompressed.

    Args:
        origin: Its URL, without a path.
        address: Address family and address of the host, which is then queried without proxies; None to look it up, and to use
            the proxies of the environment.
        seconds: Time limit of a request, from the connection to the last byte.
        size: Largest answer in bytes.
    """

    def __init__(self, origin: str, address: _Address | None = None, *, seconds: float, size: int) -> None:
        """Prepare the session, without connecting."""
        self._origin = origin
        self._seconds = seconds
        self._session = requests.Session()
        self._session.trust_env = address is None
        self._session.headers = CaseInsensitiveDict({"Accept-Encoding": "identity", "Connection": "close"})
        self._budget = _Budget(seconds, size)
        adapter = _Adapter(self._budget, address)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)

    def get(
        self, path: str, query: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Return the status and the body of the answer.

        Raises:
            OSError: There is no answer, or it takes too long or is too large.
            HTTPException: The answer is not HTTP.
        """
        self._budget.start()
        try:
            with self._session.get(
                f"{self._origin}{path}",
                params=query,
                headers=headers,
                timeout=self._seconds,
                allow_redirects=False,
                stream=True,  # so that nothing is decompressed: the limit is that of what is sent
            ) as answer:
                return answer.status_code, b"".join(answer.raw.stream(decode_content=False))
        except (requests.RequestException, HTTPError, HTTPException) as error:
            raise next(_underlying_errors(error), OSError(str(error))) from None
        finally:
            self._session.close()  # the limits apply to a connection, and each request has its own


def _underlying_errors(error: BaseException | None) -> Iterator[OSError | HTTPException]:
    """Yield the underlying errors of an error of requests."""
    while error is not None:
        if isinstance(error, OSError | HTTPException) and not isinstance(error, requests.RequestException):
            yield error
        error = error.__context__


class _Budget:
    """What is left of the time and the bytes of a request."""

    def __init__(self, seconds: float, size: int) -> None:
        self._seconds, self._size = seconds, size
        self.start()

    def start(self) -> None:
        """Begin a request."""
        self._deadline, self._left = monotonic() + self._seconds, self._size

    def limit_next(self, connection: socket.socket) -> None:
        """Leave the rest of the time to the next operation of a connection."""
        seconds = self._deadline - monotonic()
        if seconds <= 0:
            msg = "timed out"
            raise TimeoutError(msg)
        connection.settimeout(seconds)

    def spend(self, received: int) -> None:
        """Subtract bytes that have arrived."""
        self._left -= received
        if self._left < 0:
            msg = f"the answer is larger than {self._size} bytes"
            raise TooLargeError(msg)


class _Socket(socket.socket):
    """A connection with a budget."""

    budget: _Budget

    def recv_into(self, *args: Any) -> int:  # noqa: ANN401 - as in socket
        """Receive some bytes within the remaining time."""
        self.budget.limit_next(self)
        received = super().recv_into(*args)
        self.budget.spend(received)
        return received


class _TlsSocket(_Socket, ssl.SSLSocket):
    """The same with TLS."""


class _Connection(HTTPConnection):
    """Opens sockets with a budget."""

    def __init__(self, open_socket: _OpenSocket, *args: Any, **options: Any) -> None:  # noqa: ANN401 - as in the base class
        super().__init__(*args, **options)
        self._open_socket = open_socket

    def _new_conn(self) -> socket.socket:
        return self._open_socket(self._dns_host, self.port or self.default_port)


class _TlsConnection(_Connection, HTTPSConnection):
    """The same with TLS."""


class _Adapter(HTTPAdapter):
    """Connects within a budget, to hosts and to proxies."""

    def __init__(self, budget: _Budget, address: _Address | None) -> None:
        # Each context has a class of its own, because Python makes the sockets from the class alone.
        self._context = create_urllib3_context()
        self._context.sslsocket_class = type("_TlsSocket", (_TlsSocket,), {"budget": budget})
        self._budget, self._address = budget, address
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - as in the base class
        """Use the connections of this module."""
        super().init_poolmanager(*args, ssl_context=self._context, **options)
        self._bound(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **options: Any) -> PoolManager:  # noqa: ANN401 - as in the base class
        """Use them for a proxy, too."""
        contexts = {"ssl_context": self._context, "proxy_ssl_context": self._context}
        manager: PoolManager = super().proxy_manager_for(proxy, **contexts, **options)
        self._bound(manager)
        return manager

    def _bound(self, manager: PoolManager) -> None:
        manager.pool_classes_by_scheme = {
            "http": _pool(HTTPConnectionPool, partial(_Connection, self._open_socket)),
            "https": _pool(HTTPSConnectionPool, partial(_TlsConnection, self._open_socket)),
        }

    def _open_socket(self, host: str, port: int) -> socket.socket:
        """Return a socket that is connected to the first address that answers."""
        failure: OSError | None = None
        for family, address in [self._address] if self._address else _look_up(host, port):
            opened = _Socket(family, socket.SOCK_STREAM)
            opened.budget = self._budget
            try:
                self._budget.limit_next(opened)
                opened.connect(address)
                self._budget.limit_next(opened)  # to the handshake of TLS
            except BaseException as error:
                opened.close()
                if not isinstance(error, OSError):
                    raise
                failure = error
            else:
                return opened
        raise failure or OSError(host)


def _look_up(host: str, port: int) -> Sequence[_Address]:
    return [(family, address) for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def _pool(kind: type[HTTPConnectionPool], connection: Callable[..., HTTPConnection]) -> type[HTTPConnectionPool]:
    """Return a kind of pool with connections of another kind."""
    return type(kind.__name__, (kind,), {"ConnectionCls": staticmethod(connection)})
