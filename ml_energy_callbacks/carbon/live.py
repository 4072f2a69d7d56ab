"""Present carbon intensity from services on the network, queried in the background without blocking the run."""

import contextlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from http import HTTPStatus
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, Self

from ml_energy_callbacks.carbon.intensity import CarbonIntensity, is_intensity
from ml_energy_callbacks.carbon.places import country_of, find_place, world
from ml_energy_callbacks.carbon.provider import Quote
from ml_energy_callbacks.carbon.series import IntensitySeries
from ml_energy_callbacks.clock import NS_PER_S, monotonic_clock
from ml_energy_callbacks.deadline.calls import in_background
from ml_energy_callbacks.exceptions import ConfigurationError, LocationError

if TYPE_CHECKING:
    from concurrent.futures import Future

TOKEN_VARIABLE = "ELECTRICITY_MAPS_TOKEN"  # noqa: S105 - a name, not a token
_ELECTRICITY_MAPS = "https://api.electricitymaps.com/v3"
_NESO = "https://api.carbonintensity.org.uk"
_ANSWER_S = 10.0
"""Time limit of an answer, from the connection to the last byte; the run continues meanwhile."""
_LARGEST_ANSWER = 4 * 1024 * 1024
"""In bytes; a forecast of days has some ten thousand."""
_LEAST_PERIOD = timedelta(minutes=5)
"""Least time between two queries of a service, even if its last answer has expired."""
_CHECK_AGAIN = timedelta(seconds=1)
"""Time until a pending answer is checked again."""
_LONGEST_EXPIRED = timedelta(hours=1)
"""An answer that has expired is used for at most this long, for example when a run continues after a pause."""
_NEVER = datetime.max.replace(tzinfo=UTC)
_FIRST_RETRY = timedelta(minutes=1)
_LONGEST_RETRY = timedelta(hours=1)


class ServiceError(Exception):
    """A service returned no intensity; the message gives the reason, and contains no secret."""


class _Token:
    """A secret: it is copied with its owner, but never pickled, so that no checkpoint and no file of parameters has it."""

    def __init__(self, text: str = "") -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _: object) -> Self:
        return self

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        return type(self), ()


class LiveIntensity(ABC):
    """A service that reports the present intensity. While it does not, the place's figure is used and marked as a fallback.

    Attributes:
        source: Name of the service.
        answer_s: Time limit of a request in s.
        patience_s: Time in s after which a pending answer is given up: it may never arrive, and the last one expires.
    """

    source: str
    answer_s = _ANSWER_S
    patience_s = 30.0

    def __init__(self, fallback: CarbonIntensity) -> None:
        """Start the first query."""
        self._fallback = fallback
        self._start_query(datetime.now(UTC))
        self._last_quote: Quote | None = None
        self._failed = False
        self._reason: str | None = None
        self._retry = _FIRST_RETRY
        self._next = _NEVER

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the pending query."""
        return self.__dict__ | {"_pending": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start a new query."""
        self.__dict__.update(state)
        self._start_query(datetime.now(UTC))

    @abstractmethod
    def query_service(self, when: datetime) -> Quote:
        """Query the service for the intensity at an instant, which is now; called in a thread of its own.

        Raises:
            ServiceError: The service returned no intensity.
        """

    def quote(self, when: datetime) -> Quote:
        """Return the intensity at an instant from the answers so far; never waits for the service."""
        self._process_answer(when)
        if self._pending is None and when >= self._next:
            self._start_query(when)
        last = self._last_quote
        if last is not None and (last.until is None or when < last.until):
            return last
        if self._pending is None:
            return Quote(self._fallback, self._next, self._reason)
        soon = max(when, datetime.now(UTC)) + _CHECK_AGAIN
        if self._failed:
            return Quote(self._fallback, soon, self._reason)
        if last is not None and last.until is not None and when - last.until < _LONGEST_EXPIRED:
            return last._replace(until=soon)  # it is used until the next answer arrives
        return Quote(self._fallback, soon, f"{self.source} has not answered yet.", provisional=True)

    def _start_query(self, when: datetime) -> None:
        # Imported here, not in the threads of several queries at once, where it may fail; 50 ms, needed only for queries.
        import ml_energy_callbacks.deadline.bounded_http  # noqa: F401, PLC0415

        self._pending: Future[Quote] | None = in_background(partial(self.query_service, when))
        self._queried_at = monotonic_clock()

    def _process_answer(self, when: datetime) -> None:
        """Process an answer that has arrived, or give up one that is overdue."""
        answer = self._pending
        if answer is None:
            return
        if answer.done():
            error = answer.exception()
        elif monotonic_clock() - self._queried_at > self.patience_s * NS_PER_S:
            error = ServiceError(f"{self.source} did not answer within {self.patience_s:g} s.")
        else:
            return
        self._pending = None
        self._failed = error is not None
        if error is None:
            self._last_quote = answer.result()
            self._retry, self._next = _FIRST_RETRY, self._last_quote.until or _NEVER
        else:
            # Only the type of an unforeseen error: its message may contain a secret.
            unforeseen = f"{self.source} returned no intensity ({type(error).__name__})."
            self._reason = str(error) if isinstance(error, ServiceError) else unforeseen
            self._next = when + self._retry
            self._retry = min(2 * self._retry, _LONGEST_RETRY)


class ElectricityMaps(LiveIntensity):
    """Electricity Maps' intensity of a zone, such as ``FR`` or ``US-CAL-CISO``, queried every quarter of an hour."""

    source = "Electricity Maps"
    _period = timedelta(minutes=15)

    def __init__(
        self,
        zone: str,
        *,
        token: str | None = None,
        location: str | None = None,
        url: str = _ELECTRICITY_MAPS,
    ) -> None:
        """Start to query a zone.

        Args:
            zone: Its name at https://app.electricitymaps.com.
            token: Token of the service; None for the environment variable ``ELECTRICITY_MAPS_TOKEN``. It is not pickled: what
                is unpickled, as in another process, takes it from the environment.
            location: Place whose figure is the fallback; None for the country of the zone.
            url: URL of the service.

        Raises:
            ConfigurationError: There is no token, or one with characters that cannot be sent.
            LocationError: The place is unknown.
        """
        self._token = _Token(token or "")
        self._zone = zone
        self._find_token()
        self._url = url
        super().__init__(find_place(location or zone.partition("-")[0]))

    def query_service(self, when: datetime) -> Quote:
        """Query the latest hour."""
        url = f"{self._url}/carbon-intensity/latest"
        try:
            token, check = self._find_token()
        except ConfigurationError as error:  # where this was unpickled, the environment has none
            raise ServiceError(str(error)) from None
        found = _get_json(self.source, url, {"zone": self._zone}, {"auth-token": token}, check, self.answer_s)
        value = _check_intensity(self.source, found.get("carbonIntensity"))
        return Quote(CarbonIntensity(value, self._zone, self.source, when.year, basis="lifecycle"), when + self._period)

    def _find_token(self) -> tuple[str, str]:
        return _find_token(str(self._token), f"zone {self._zone}")


class NationalGrid(LiveIntensity):
    """Intensity of Great Britain for each half hour, by its system operator (NESO); it requires no token."""

    source = "NESO Carbon Intensity API"

    def __init__(self, *, url: str = _NESO) -> None:
        """Start to query the country; ``url`` is the URL of the service."""
        self._url = url
        super().__init__(find_place("GBR"))

    def query_service(self, when: datetime) -> Quote:
        """Query the present half hour: its measured intensity, or the forecast if that is not known yet."""
        found = _get_json(self.source, f"{self._url}/intensity", {}, {}, None, self.answer_s)
        with _check_format(self.source):
            (period, *_) = found["data"]
            values = period["intensity"]
            until = datetime.fromisoformat(period["to"])
            value = values.get("actual") if values.get("actual") is not None else values.get("forecast")
        intensity = CarbonIntensity(_check_intensity(self.source, value), "GBR", self.source, when.year, basis="direct")
        return Quote(intensity, max(until, when + _LEAST_PERIOD))


class NetworkLocation(LiveIntensity):
    """The intensity of the place of this machine's IP address, for ``location="auto"``."""

    source = "GeoJS"

    def __init__(self, *, url: str = "https://get.geojs.io") -> None:
        """Start to query the place; ``url`` is the URL of the service."""
        self._url = url
        super().__init__(world())

    def query_service(self, when: datetime) -> Quote:  # noqa: ARG002 - the place does not change
        """Query the place of this machine's IP address: its state or province if there is a figure for it."""
        found = _get_json(self.source, f"{self._url}/v1/ip/geo.json", {}, {}, None)
        country = found.get("country_code3")
        for name in (found.get("region"), country, found.get("country_code")):
            try:
                place = find_place(str(name), country)
            except LocationError:
                continue
            if place.location is not None and country in {None, country_of(place.location)}:
                return Quote(replace(place, note=f"The place is that of the IP address, by {self.source}."))
        msg = f"{self.source} returned no place with a known intensity."
        raise ServiceError(msg)


def forecast_zone(zone: str, *, token: str | None = None, url: str = _ELECTRICITY_MAPS) -> IntensitySeries:
    """Return Electricity Maps' forecast for a zone, by a blocking request.

    Raises:
        ConfigurationError: There is no token, or the service returned no forecast.
        LocationError: The zone's country is unknown; no request is made then.
    """
    usual = find_place(zone.partition("-")[0])
    sent, check = _find_token(token, f"forecasts of zone {zone}")
    source = ElectricityMaps.source
    with _raise_configuration_error(source):
        found = _get_json(source, f"{url}/carbon-intensity/forecast", {"zone": zone}, {"auth-token": sent}, check)
        rows = [(row["datetime"], _check_intensity(source, row["carbonIntensity"])) for row in found["forecast"]]
        return _make_series(rows, zone, source, usual)


def forecast_great_britain(now: datetime, *, url: str = _NESO) -> IntensitySeries:
    """Return NESO's forecast of the next 48 hours, by a blocking request.

    Raises:
        ConfigurationError: The service returned no forecast.
    """
    source = NationalGrid.source
    begins = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%MZ")
    with _raise_configuration_error(source):
        found = _get_json(source, f"{url}/intensity/{begins}/fw48h", {}, {}, None)
        rows = [(row["from"], _check_intensity(source, row["intensity"]["forecast"])) for row in found["data"]]
        return _make_series(rows, "GBR", source, find_place("GBR"))


@contextlib.contextmanager
def _raise_configuration_error(source: str) -> Iterator[None]:
    """Raise ServiceError as ConfigurationError, for requests that block."""
    try:
        with _check_format(source):
            yield
    except ServiceError as error:
        raise ConfigurationError(str(error)) from None


@contextlib.contextmanager
def _check_format(source: str) -> Iterator[None]:
    """Raise ServiceError for an answer that lacks a field or has one of another type."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError):
        msg = f"{source} answered in an unknown format."
        raise ServiceError(msg) from None


def _make_series(rows: Sequence[tuple[str, float]], location: str, source: str, usual: CarbonIntensity) -> IntensitySeries:
    """Return a forecast as a series, without repeated times.

    Raises:
        ServiceError: A time has no offset from UTC.
        ValueError: The forecast is empty, or a time is invalid.
    """
    table = {datetime.fromisoformat(text): value for text, value in rows}
    if any(time.tzinfo is None for time in table):
        msg = f"{source} returned times without an offset from UTC."
        raise ServiceError(msg)
    times = sorted(table)
    if not times:
        raise ValueError(source)
    return IntensitySeries(times, [table[time] for time in times], location, source, usual)


def _find_token(option: str | None, wanted: str) -> tuple[str, str]:
    """Return the token for Electricity Maps, and what to check if it is rejected, which also happens without a suitable plan.

    Raises:
        ConfigurationError: There is no token, or one that cannot be sent; the message does not contain it.
    """
    token_origin = "the option token" if option else f"the environment variable {TOKEN_VARIABLE}"
    token = (option or os.environ.get(TOKEN_VARIABLE, "")).strip()
    if not token:
        msg = f"Electricity Maps requires a token: set {TOKEN_VARIABLE} in the environment, or give ElectricityMaps(token=...)."
        raise ConfigurationError(msg)
    if not (token.isascii() and token.isprintable()):
        msg = (
            f"The token for Electricity Maps contains a character that is not allowed in an HTTP header: check {token_origin}."
        )
        raise ConfigurationError(msg)
    return token, f"{token_origin}, and that your plan there includes {wanted}"


def _get_json(
    source: str,
    url: str,
    query: Mapping[str, str],
    headers: Mapping[str, str],
    check: str | None,
    answer_s: float = _ANSWER_S,
) -> Mapping[str, Any]:
    """Return the JSON object of a service's answer; ``check`` says what to check if the token is rejected.

    Raises:
        ServiceError: There is none; the message contains neither the query nor a header.
    """
    from ml_energy_callbacks.deadline.bounded_http import Site, TooLargeError  # noqa: PLC0415 - _start_query has imported it

    try:
        status, body = Site(url, seconds=answer_s, size=_LARGEST_ANSWER).get("", query, headers)
    except TimeoutError:
        msg = f"{source} did not answer within {answer_s:g} s."
        raise ServiceError(msg) from None
    except TooLargeError as error:
        msg = f"{source} answered in an unknown format: {error}."
        raise ServiceError(msg) from None
    except (OSError, HTTPException):
        msg = f"{source} cannot be reached."
        raise ServiceError(msg) from None
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN} and check is not None:
        msg = f"{source} rejects the token: check {check}."
        raise ServiceError(msg)
    if status != HTTPStatus.OK:
        msg = f"{source} answered with status {status}."
        raise ServiceError(msg)
    with _check_format(source):
        return {**json.loads(body)}


def _check_intensity(source: str, value: Any) -> float:  # noqa: ANN401 - from the service's answer
    if isinstance(value, bool) or not isinstance(value, int | float) or not is_intensity(value):
        msg = f"{source} returned no intensity."
        raise ServiceError(msg)
    return float(value)
