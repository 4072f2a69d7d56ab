"""Carbon intensity of now, from services on the network; asked in the background, with an answer at hand at once."""

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING, Any

from ml_energy_callbacks.carbon.intensity import CarbonIntensity
from ml_energy_callbacks.carbon.places import country_of, find_place, world
from ml_energy_callbacks.carbon.provider import Quote
from ml_energy_callbacks.carbon.series import IntensitySeries
from ml_energy_callbacks.clock import NS_PER_S, monotonic_clock
from ml_energy_callbacks.deadline import in_background
from ml_energy_callbacks.exceptions import ConfigurationError, LocationError

if TYPE_CHECKING:
    from concurrent.futures import Future

TOKEN_VARIABLE = "ELECTRICITY_MAPS_TOKEN"  # noqa: S105 - a name, not a token
_ELECTRICITY_MAPS = "https://api.electricitymaps.com/v3"
_NESO = "https://api.carbonintensity.org.uk"
_ANSWER_S = 10.0
"""A service has so long to answer; meanwhile the run goes on."""
_SOONEST = timedelta(minutes=5)
"""A service is not asked again before, though the time of its last answer has passed."""
_MOMENT = timedelta(seconds=1)
"""What is being asked for is looked for again after it."""
_OLD = timedelta(hours=1)
"""An answer does not go on for longer after its time, as where a run goes on after a pause."""
_NEVER = datetime.max.replace(tzinfo=UTC)
_FIRST_RETRY = timedelta(minutes=1)
_LONGEST_RETRY = timedelta(hours=1)


class ServiceError(Exception):
    """A service gave no intensity; the message says why, and holds no secret."""


class LiveIntensity(ABC):
    """A service that tells the intensity of now. What it does not tell is that of the place, offline, and is marked.

    Attributes:
        source: Name of the service.
        answer_s: A service that has not answered a question by then, in s, did not answer.
        patience_s: After so long an answer is not waited for any more: it may never come, and the last one is soon no longer
            true.
    """

    source: str
    answer_s = _ANSWER_S
    patience_s = 30.0

    def __init__(self, fallback: CarbonIntensity) -> None:
        """Ask for the first time."""
        self._fallback = fallback
        self._begin_to_ask(datetime.now(UTC))
        self._told: Quote | None = None
        self._failed = False
        self._reason: str | None = None
        self._retry = _FIRST_RETRY
        self._next = _NEVER

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the question that is under way."""
        return self.__dict__ | {"_answer": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Ask anew."""
        self.__dict__.update(state)
        self._begin_to_ask(datetime.now(UTC))

    @abstractmethod
    def ask(self, when: datetime) -> Quote:
        """Ask the service for the intensity of an instant, which is now; called in a thread of its own.

        Raises:
            ServiceError: It gave no intensity.
        """

    def quote(self, when: datetime) -> Quote:
        """Return the intensity at an instant from what is known; never waits for the service."""
        self._take(when)
        if self._answer is None and when >= self._next:
            self._begin_to_ask(when)
        told = self._told
        if told is not None and (told.until is None or when < told.until):
            return told
        if self._answer is None:
            return Quote(self._fallback, self._next, self._reason)
        soon = max(when, datetime.now(UTC)) + _MOMENT
        if self._failed:
            return Quote(self._fallback, soon, self._reason)
        if told is not None and told.until is not None and when - told.until < _OLD:  # it goes on until the next is there
            return told._replace(until=soon)
        return Quote(self._fallback, soon, f"{self.source} has not answered yet.", provisional=True)

    def _begin_to_ask(self, when: datetime) -> None:
        self._answer: Future[Quote] | None = in_background(partial(self.ask, when))
        self._asked = monotonic_clock()

    def _take(self, when: datetime) -> None:
        """Take an answer that has come, or give up one that does not come."""
        answer = self._answer
        if answer is None:
            return
        if answer.done():
            error = answer.exception()
        elif monotonic_clock() - self._asked > self.patience_s * NS_PER_S:
            error = ServiceError(f"{self.source} did not answer within {self.patience_s:g} s.")
        else:
            return
        self._answer = None
        self._failed = error is not None
        if error is None:
            self._told = answer.result()
            self._retry, self._next = _FIRST_RETRY, self._told.until or _NEVER
        else:
            self._reason = str(error) if isinstance(error, ServiceError) else f"{self.source} gave no intensity."
            self._next = when + self._retry
            self._retry = min(2 * self._retry, _LONGEST_RETRY)


class ElectricityMaps(LiveIntensity):
    """Electricity Maps' intensity of a zone, such as ``FR`` or ``US-CAL-CISO``, asked for every quarter of an hour."""

    source = "Electricity Maps"
    _every = timedelta(minutes=15)

    def __init__(
        self,
        zone: str,
        *,
        token: str | None = None,
        location: str | None = None,
        url: str = _ELECTRICITY_MAPS,
    ) -> None:
        """Ask for a zone.

        Args:
            zone: As https://app.electricitymaps.com names it.
            token: Of the service; None for that of the environment variable ``ELECTRICITY_MAPS_TOKEN``.
            location: Place whose figure stands in where the service gives none; None for the country of the zone.
            url: Where the service is.

        Raises:
            ConfigurationError: There is no token, or none that can be sent.
            LocationError: The place is not known.
        """
        self._token, self._check = _token(token, f"zone {zone}")
        self._zone = zone
        self._url = url
        super().__init__(find_place(location or zone.partition("-")[0]))

    def ask(self, when: datetime) -> Quote:
        """Ask for the latest hour."""
        url = f"{self._url}/carbon-intensity/latest"
        found = _get(self.source, url, {"zone": self._zone}, {"auth-token": self._token}, self._check, self.answer_s)
        value = _number(self.source, found.get("carbonIntensity"))
        return Quote(CarbonIntensity(value, self._zone, self.source, when.year, basis="lifecycle"), when + self._every)


class NationalGrid(LiveIntensity):
    """The intensity of Great Britain by its system operator (NESO), for each half hour; it needs no token."""

    source = "NESO Carbon Intensity API"

    def __init__(self, *, url: str = _NESO) -> None:
        """Ask for the country; ``url`` is where the service is."""
        self._url = url
        super().__init__(find_place("GBR"))

    def ask(self, when: datetime) -> Quote:
        """Ask for the half hour of now: what was measured, or what is forecast where that is not known yet."""
        found = _get(self.source, f"{self._url}/intensity", {}, {}, None, self.answer_s)
        with _in_known_form(self.source):
            (period, *_) = found["data"]
            told = period["intensity"]
            until = datetime.fromisoformat(period["to"])
            value = told.get("actual") if told.get("actual") is not None else told.get("forecast")
        intensity = CarbonIntensity(_number(self.source, value), "GBR", self.source, when.year, basis="direct")
        return Quote(intensity, max(until, when + _SOONEST))


class Here(LiveIntensity):
    """The usual intensity of the place that this machine's address is in, for who asks for ``location="auto"``."""

    source = "GeoJS"

    def __init__(self, *, url: str = "https://get.geojs.io") -> None:
        """Ask for the place; ``url`` is where the service is."""
        self._url = url
        super().__init__(world())

    def ask(self, when: datetime) -> Quote:  # noqa: ARG002 - a place stays
        """Ask for the place of this machine's address: its state or province where there is a figure for it."""
        found = _get(self.source, f"{self._url}/v1/ip/geo.json", {}, {}, None)
        country = found.get("country_code3")
        for name in (found.get("region"), country, found.get("country_code")):
            try:
                place = find_place(str(name), country)
            except LocationError:
                continue
            if place.location is not None and country in {None, country_of(place.location)}:
                return Quote(replace(place, note=f"The place is that of the network address, by {self.source}."))
        msg = f"{self.source} told no place with a known intensity."
        raise ServiceError(msg)


def forecast_zone(zone: str, *, token: str | None = None, url: str = _ELECTRICITY_MAPS) -> IntensitySeries:
    """Return Electricity Maps' forecast for a zone; asks the service, and waits for it.

    Raises:
        ConfigurationError: There is no token, or the service gave no forecast.
        LocationError: The zone's country is not known; nothing is asked then.
    """
    usual = find_place(zone.partition("-")[0])
    sent, check = _token(token, f"forecasts of zone {zone}")
    source = ElectricityMaps.source
    with _waited_for(source):
        found = _get(source, f"{url}/carbon-intensity/forecast", {"zone": zone}, {"auth-token": sent}, check)
        rows = [(row["datetime"], _number(source, row["carbonIntensity"])) for row in found["forecast"]]
        return _series(rows, zone, source, usual)


def forecast_great_britain(now: datetime, *, url: str = _NESO) -> IntensitySeries:
    """Return NESO's forecast of the next 48 hours; asks the service, and waits for it.

    Raises:
        ConfigurationError: The service gave no forecast.
    """
    source = NationalGrid.source
    begins = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%MZ")
    with _waited_for(source):
        found = _get(source, f"{url}/intensity/{begins}/fw48h", {}, {}, None)
        rows = [(row["from"], _number(source, row["intensity"]["forecast"])) for row in found["data"]]
        return _series(rows, "GBR", source, find_place("GBR"))


@contextlib.contextmanager
def _waited_for(source: str) -> Iterator[None]:
    """Tell the user who waits for an answer that a service gave none."""
    try:
        with _in_known_form(source):
            yield
    except ServiceError as error:
        raise ConfigurationError(str(error)) from None


@contextlib.contextmanager
def _in_known_form(source: str) -> Iterator[None]:
    """Tell an answer in which something is missing, or is something else, as such."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError):
        msg = f"{source} answered in an unknown form."
        raise ServiceError(msg) from None


def _series(rows: Sequence[tuple[str, float]], location: str, source: str, usual: CarbonIntensity) -> IntensitySeries:
    """Return a forecast as a series, without what comes twice.

    Raises:
        ServiceError: A time has no offset from UTC.
        ValueError: It is empty, or a time is none.
    """
    table = {datetime.fromisoformat(text): value for text, value in rows}
    if any(time.tzinfo is None for time in table):
        msg = f"{source} told times without an offset from UTC."
        raise ServiceError(msg)
    times = sorted(table)
    if not times:
        raise ValueError(source)
    return IntensitySeries(times, [table[time] for time in times], location, source, usual)


def _token(option: str | None, wanted: str) -> tuple[str, str]:
    """Return the token for Electricity Maps, and what to check in words where it is refused, as it also is for want of a plan.

    Raises:
        ConfigurationError: There is none, or none that can be sent; the message does not hold it.
    """
    told_by = "the option token" if option else f"the environment variable {TOKEN_VARIABLE}"
    token = (option or os.environ.get(TOKEN_VARIABLE, "")).strip()
    if not token:
        msg = f"Electricity Maps wants a token: set {TOKEN_VARIABLE} in the environment, or give ElectricityMaps(token=...)."
        raise ConfigurationError(msg)
    if not (token.isascii() and token.isprintable()):
        msg = f"The token for Electricity Maps holds a character that no HTTP header can carry: check {told_by}."
        raise ConfigurationError(msg)
    return token, f"{told_by}, and that your plan there includes {wanted}"


def _get(
    source: str,
    url: str,
    query: Mapping[str, str],
    headers: Mapping[str, str],
    check: str | None,
    answer_s: float = _ANSWER_S,
) -> Mapping[str, Any]:
    """Return the JSON object that a service answers with; ``check`` says what to look at where its token is refused.

    Raises:
        ServiceError: There is none; the message holds neither the query nor a header.
    """
    import requests  # noqa: PLC0415 - 50 ms, wanted only where a service is asked

    try:
        answer = requests.get(url, params=query, headers=headers, timeout=answer_s, allow_redirects=False)
    except requests.Timeout:
        msg = f"{source} did not answer within {answer_s:g} s."
        raise ServiceError(msg) from None
    except requests.RequestException:
        msg = f"{source} cannot be reached."
        raise ServiceError(msg) from None
    if answer.status_code in {401, 403} and check is not None:
        msg = f"{source} refuses the token: check {check}."
        raise ServiceError(msg)
    if answer.status_code != requests.codes.ok:
        msg = f"{source} answered with status {answer.status_code}."
        raise ServiceError(msg)
    with _in_known_form(source):
        return {**answer.json()}


def _number(source: str, value: Any) -> float:  # noqa: ANN401 - as the service tells it
    if isinstance(value, bool) or not isinstance(value, int | float) or not (isfinite(value) and value >= 0):
        msg = f"{source} told no intensity."
        raise ServiceError(msg)
    return float(value)
