"""HTTP requests whose answers come within a time and a size, however slowly they drip; over requests.

Imported where the first request is about to be made: requests takes 50 ms to import.
"""

import socket
from collections.abc import Iterator
from functools import partial
from http.client import HTTPException
from time import monotonic
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

_Where = tuple[int, Any]
"""Family and number of a host, as :func:`socket.getaddrinfo` returns them."""


class Site:
    """A host that is asked by one of its numbers, over plain HTTP and without proxies; redirections are not followed.

    Args:
        origin: Its URL, without a path.
        where: Family and number of the host.
        seconds: How long a request may take, from the connection to the last byte.
        size: How many bytes may come.
    """

    def __init__(self, origin: str, where: _Where, *, seconds: float, size: int) -> None:
        """Connect to nothing yet."""
        self._origin = origin
        self._seconds = seconds
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers = requests.structures.CaseInsensitiveDict({"Accept-Encoding": "identity", "Connection": "close"})
        self._session.mount("http://", _Adapter(partial(_Line, where, seconds, size)))

    def get(self, path: str) -> tuple[int, bytes]:
        """Return the status and the body of the answer.

        Raises:
            OSError: There is none, or it takes too long or is too large.
            HTTPException: It is not HTTP.
        """
        try:
            answer = self._session.get(f"{self._origin}{path}", timeout=self._seconds, allow_redirects=False)
        except (requests.RequestException, HTTPException) as error:
            raise next(_reasons(error), error) from None
        finally:
            self._session.close()  # the time and the size are those of a connection, and each request has one of its own
        return answer.status_code, answer.content


def _reasons(error: BaseException | None) -> Iterator[OSError | HTTPException]:
    """Yield what is behind an error of requests."""
    while error is not None:
        if isinstance(error, OSError | HTTPException) and not isinstance(error, requests.RequestException):
            yield error
        error = error.__context__


class _Line(socket.socket):
    """A connection that ends at an instant and after so many bytes."""

    def __init__(self, where: _Where, seconds: float, size: int) -> None:
        family, number = where
        super().__init__(family, socket.SOCK_STREAM)
        self._deadline = monotonic() + seconds
        self._size = self._left = size
        self.settimeout(seconds)
        try:
            self.connect(number)
        except BaseException:
            self.close()
            raise

    def recv_into(self, *args: Any) -> int:  # noqa: ANN401 - as the socket's own
        """Receive some bytes within what time is left."""
        seconds = self._deadline - monotonic()
        if seconds <= 0:
            msg = "timed out"
            raise TimeoutError(msg)
        self.settimeout(seconds)
        received = super().recv_into(*args)
        self._left -= received
        if self._left < 0:
            msg = f"more than {self._size} bytes came"
            raise OSError(msg)
        return received


class _Connection(HTTPConnection):
    def __init__(self, line: "partial[_Line]", *args: Any, **options: Any) -> None:  # noqa: ANN401 - as its base's
        super().__init__(*args, **options)
        self._line = line

    def connect(self) -> None:
        """Connect to the number that was found, within the time."""
        self.sock = self._line()


class _Pool(HTTPConnectionPool):
    def __init__(self, line: "partial[_Line]", *args: Any, **options: Any) -> None:  # noqa: ANN401 - as its base's
        super().__init__(*args, **options)
        self.ConnectionCls = partial(_Connection, line)  # type: ignore[assignment]


class _Adapter(HTTPAdapter):
    def __init__(self, line: "partial[_Line]") -> None:
        self._line = line
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - as its base's
        """Have connections of ours."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": partial(_Pool, self._line)}  # type: ignore[dict-item]
