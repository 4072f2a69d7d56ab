"""Live intensities from a real HTTP server on this machine, which answers well, badly or not at all."""

import contextlib
import copy
import gzip
import itertools
import json
import pickle
import resource
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from loads import steady
from service import Service

from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.carbon import ElectricityMaps, NationalGrid, Rates, Site
from ml_energy_callbacks.carbon.live import LiveIntensity, NetworkLocation, forecast_great_britain, forecast_zone
from ml_energy_callbacks.exceptions import ConfigurationError, LocationError

KWH = 3.6e6
SECOND = timedelta(seconds=1)
TOKEN = "s3cret-t0ken"  # noqa: S105 - made up
FRANCE = 56.039
REFUSED = "Electricity Maps rejects the token: check"


@pytest.fixture
def service() -> Iterator[Service]:
    found = Service()
    yield found
    found.close()


def maps(service: Service) -> ElectricityMaps:
    return ElectricityMaps("FR", token=TOKEN, url=service.url)


def settled(live: LiveIntensity, when: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Any:
    """Return the quote once the service has answered."""
    end = time.monotonic() + 15
    while time.monotonic() < end:
        now = when()
        quote = live.quote(now)
        if not quote.provisional and (quote.until is None or quote.until > max(now, datetime.now(UTC)) + 2 * SECOND):
            return quote
        time.sleep(0.01)
    return None


def test_electricity_maps_tells_the_zones_intensity(service: Service) -> None:
    service.tell(41)
    quote = settled(maps(service))
    assert (quote.per_kwh, quote.fallback) == (41, None)
    assert (quote.intensity.source, quote.intensity.location, quote.intensity.basis) == ("Electricity Maps", "FR", "lifecycle")
    assert quote.until > datetime.now(UTC) + timedelta(minutes=14)
    ((path, headers),) = service.asked
    assert path == "/carbon-intensity/latest?zone=FR"
    assert headers["auth-token"] == TOKEN


def test_great_britains_is_the_measured_one_or_else_the_forecast(service: Service) -> None:
    now = datetime.now(UTC)
    for told, found in (({"forecast": 266, "actual": 263}, 263), ({"forecast": 266, "actual": None}, 266)):
        period = {"from": now.isoformat(), "to": (now + timedelta(minutes=20)).strftime("%Y-%m-%dT%H:%MZ"), "intensity": told}
        service.body = json.dumps({"data": [period]})
        quote = settled(NationalGrid(url=service.url))
        assert (quote.per_kwh, quote.fallback) == (found, None)
        assert now + timedelta(minutes=18) < quote.until <= now + timedelta(minutes=20)
    assert all("auth-token" not in headers for _, headers in service.asked)


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (401, "{}", f"{REFUSED} the option token, and that your plan there includes zone FR."),
        (403, "no", f"{REFUSED} the option token, and that your plan there includes zone FR."),
        (500, "oops", "Electricity Maps answered with status 500."),
        (302, "", "Electricity Maps answered with status 302."),
        (200, "<html>Please log in</html>", "Electricity Maps answered in an unknown format."),
        (200, "[1]", "Electricity Maps answered in an unknown format."),
        (200, "{}", "Electricity Maps returned no intensity."),
        (200, '{"carbonIntensity": -3}', "Electricity Maps returned no intensity."),
        (200, '{"carbonIntensity": NaN}', "Electricity Maps returned no intensity."),
        (200, '{"carbonIntensity": "56"}', "Electricity Maps returned no intensity."),
    ],
)
def test_what_a_service_cannot_tell_is_the_places_usual_intensity(service: Service, status: int, body: str, says: str) -> None:
    service.status, service.body = status, body
    quote = settled(maps(service))
    assert (quote.per_kwh, quote.fallback) == (FRANCE, says)
    assert quote.until is not None
    assert TOKEN not in repr(quote)
    assert len(service.asked) == 1


def test_a_service_that_is_not_there_is_told(service: Service) -> None:
    live = ElectricityMaps("FR", token=TOKEN, url="http://127.0.0.1:1")
    assert settled(live).fallback == "Electricity Maps cannot be reached."
    assert not service.asked


class Brief(ElectricityMaps):
    answer_s = 2.0


@pytest.mark.parametrize(("kind", "seconds"), [(Brief, 2), pytest.param(ElectricityMaps, 10, marks=pytest.mark.full)])
def test_a_service_that_is_silent_holds_nothing_up(service: Service, kind: type[ElectricityMaps], seconds: int) -> None:
    service.silence_s = 30
    took = []
    for _ in range(3):  # of which a busy machine may interrupt one
        begun = time.monotonic()
        live = kind("FR", token=TOKEN, url=service.url)
        quote = live.quote(datetime.now(UTC))
        took.append(time.monotonic() - begun)
        assert (quote.per_kwh, quote.fallback, quote.provisional) == (FRANCE, "Electricity Maps has not answered yet.", True)
    assert min(took) < 0.2
    assert settled(live).fallback == f"Electricity Maps did not answer within {seconds} s."


def test_a_service_has_ten_seconds_to_answer() -> None:
    assert (ElectricityMaps.answer_s, NationalGrid.answer_s) == (10, 10)


class Hasty(NationalGrid):
    patience_s = 0.3


def test_an_answer_that_never_comes_is_given_up(service: Service) -> None:
    service.silence_s = 5
    live = Hasty(url=service.url)
    assert live.quote(datetime.now(UTC)).provisional
    assert settled(live).fallback == "NESO Carbon Intensity API did not answer within 0.3 s."


def test_an_old_value_does_not_go_on_where_the_next_never_comes(service: Service) -> None:
    now = datetime.now(UTC)
    service.body = json.dumps({"data": [{"to": now.isoformat(), "intensity": {"actual": 100}}]})
    live = NationalGrid(url=service.url)
    assert settled(live).per_kwh == 100
    live.patience_s = Hasty.patience_s
    service.silence_s = 5
    later = now + timedelta(minutes=20)
    assert live.quote(later).per_kwh == 100  # while it is asked for
    quote = settled(live, lambda: later)
    assert (quote.intensity.location, quote.fallback) == ("GBR", "NESO Carbon Intensity API did not answer within 0.3 s.")
    assert quote.per_kwh != 100
    service.silence_s = 0
    live.patience_s = NationalGrid.patience_s
    live.quote(quote.until)
    assert settled(live, lambda: quote.until).per_kwh == 100


def test_a_value_of_before_a_pause_is_not_that_of_a_run_after_it(service: Service) -> None:
    service.tell(100)
    live = maps(service)
    settled(live)
    service.tell(300)
    service.silence_s = 0.5
    later = datetime.now(UTC) + timedelta(days=4)
    rates = Rates(live, None, "EUR", Site())
    rates.begin([0.0, KWH], later)
    assert rates.pending
    assert settled(live, lambda: later).per_kwh == 300
    rates.follow([0.0, 2 * KWH], later + 10 * SECOND)
    assert sum(rates.amounts([0.0, 2 * KWH]).grams or []) - sum(rates.amounts([0.0, KWH]).grams or []) == pytest.approx(300)


def test_a_failure_is_asked_again_ever_more_rarely(service: Service) -> None:
    service.status = 500
    live = maps(service)
    now = datetime.now(UTC)
    for minutes in (1, 2, 4, 8, 16, 32, 60, 60):
        quote = settled(live, lambda now=now: now)  # type: ignore[misc]
        assert quote.until == now + timedelta(minutes=minutes)
        asked = len(service.asked)
        live.quote(now + timedelta(minutes=minutes) - timedelta(seconds=1))
        assert len(service.asked) == asked
        now = quote.until
        live.quote(now)
    service.status = 200
    service.tell(30)
    now = settled(live, lambda: now).until or now
    live.quote(now)
    assert settled(live, lambda: now).per_kwh == 30


def test_a_new_value_counts_from_when_it_was_told_and_the_first_from_the_start(service: Service) -> None:
    service.tell(100)
    live = maps(service)
    now = datetime.now(UTC)
    rates = Rates(live, None, "EUR", Site())
    rates.begin([], now)
    settled(live)
    rates.follow([0.0, KWH], now + timedelta(minutes=10))
    assert sum(rates.amounts([0.0, KWH]).grams) == pytest.approx(100)
    service.tell(300)
    later = now + timedelta(minutes=20)
    with service.silent():
        rates.follow([0.0, 2 * KWH], later)  # the old one goes on until the new one is there
    settled(live, lambda: later + 2 * SECOND)
    assert sum(rates.amounts([0.0, 2 * KWH]).grams) == pytest.approx(200)
    rates.follow([0.0, 3 * KWH], later + timedelta(minutes=10))
    assert sum(rates.amounts([0.0, 3 * KWH]).grams) == pytest.approx(500, abs=1)
    assert rates.fallbacks == []
    assert [i.rate.intensity.g_per_kwh for i in rates.intervals([0.0, 3 * KWH])] == [100, 300]


def test_no_token_and_no_place_are_refused_before_anything_is_asked(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ELECTRICITY_MAPS_TOKEN", raising=False)
    with pytest.raises(
        ConfigurationError, match=r"set ELECTRICITY_MAPS_TOKEN in the environment, or give ElectricityMaps\(token=...\)"
    ):
        ElectricityMaps("FR", url=service.url)
    with pytest.raises(LocationError, match="The location 'XX' is unknown"):
        ElectricityMaps("XX-1", token=TOKEN, url=service.url)
    assert not service.asked
    monkeypatch.setenv("ELECTRICITY_MAPS_TOKEN", f"{TOKEN}\n")
    service.tell(41)
    assert settled(ElectricityMaps("US-CAL-CISO", location="California", url=service.url)).per_kwh == 41
    assert service.asked[0][1]["auth-token"] == TOKEN


def test_a_copy_asks_for_itself(service: Service) -> None:
    service.tell(41)
    live = maps(service)
    settled(live)
    for other in (copy.copy(live), copy.deepcopy(live)):
        assert settled(other).per_kwh == 41
    assert TOKEN not in repr(live)


@pytest.mark.parametrize("option", [None, TOKEN], ids=["from the environment", "given"])
def test_no_pickle_contains_the_token(service: Service, option: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELECTRICITY_MAPS_TOKEN", TOKEN)
    service.tell(41)
    live = ElectricityMaps("FR", token=option, url=service.url)
    assert settled(live).per_kwh == 41
    data = pickle.dumps(live)
    assert TOKEN.encode() not in data
    assert settled(pickle.loads(data)).per_kwh == 41  # noqa: S301 - our own
    while len(service.asked) < 2:
        time.sleep(0.01)
    assert [headers["auth-token"] for _, headers in service.asked] == [TOKEN] * 2


def test_an_unpickled_provider_without_a_token_uses_the_fallback(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ELECTRICITY_MAPS_TOKEN", raising=False)
    service.tell(41)
    data = pickle.dumps(maps(service))
    quote = settled(pickle.loads(data))  # noqa: S301 - our own
    assert quote.per_kwh == FRANCE
    assert quote.fallback.startswith("Electricity Maps requires a token: set ELECTRICITY_MAPS_TOKEN")


@pytest.mark.parametrize("told", [1e308, 10_001, 1e999])
def test_an_impossible_intensity_of_a_service_is_not_believed(service: Service, told: float) -> None:
    service.tell(told)
    quote = settled(maps(service))
    assert (quote.per_kwh, quote.fallback) == (FRANCE, "Electricity Maps returned no intensity.")


def answering(head: str, pieces: Iterator[bytes]) -> tuple[str, socket.socket]:
    """Serve one answer piece by piece, and return the URL and the server's socket."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(head.encode())
                for piece in pieces:
                    connection.sendall(piece)

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{server.getsockname()[1]}", server


def test_a_compressed_answer_is_not_unpacked() -> None:
    packed = gzip.compress(b" " * 3_000_000) * 100
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n"
    url, server = answering(head, iter([packed]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with server:
        quote = settled(ElectricityMaps("FR", token=TOKEN, url=url))
    assert quote.fallback == "Electricity Maps answered in an unknown format."
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB


def test_an_answer_without_end_is_not_read_to_the_end() -> None:
    url, server = answering("HTTP/1.1 200 OK\r\n\r\n", itertools.repeat(b" " * 65536))
    with server:
        quote = settled(ElectricityMaps("FR", token=TOKEN, url=url))
    assert quote.fallback == "Electricity Maps answered in an unknown format: the answer is larger than 4194304 bytes."


@pytest.mark.parametrize("head", ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nX: "], ids=["body", "header"])
def test_an_answer_that_drips_ends_at_the_time_limit(head: str) -> None:
    def drip() -> Iterator[bytes]:
        while True:
            time.sleep(0.1)
            yield b" "

    url, server = answering(head, drip())
    with server:
        live = Brief("FR", token=TOKEN, url=url)
        assert settled(live).fallback == "Electricity Maps did not answer within 2 s."


def test_a_service_with_tls_is_queried_within_the_same_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-days", "2"]
    subprocess.run(
        [*make, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    found = Service()
    found.server.socket = context.wrap_socket(found.server.socket, server_side=True)
    found.tell(41)
    url = found.url.replace("http", "https")
    try:
        assert settled(ElectricityMaps("FR", token=TOKEN, url=url)).fallback == "Electricity Maps cannot be reached."
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "cert.pem"))
        assert settled(ElectricityMaps("FR", token=TOKEN, url=url)).per_kwh == 41
        found.body = " " * 5_000_000
        assert "larger than" in settled(ElectricityMaps("FR", token=TOKEN, url=url)).fallback
        found.silence_s = 30
        assert settled(Brief("FR", token=TOKEN, url=url)).fallback == "Electricity Maps did not answer within 2 s."
    finally:
        found.close()


def test_a_service_is_reached_through_a_proxy(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", service.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    service.tell(41)
    assert settled(ElectricityMaps("FR", token=TOKEN, url="http://maps.invalid")).per_kwh == 41
    assert service.asked[0][0] == "http://maps.invalid/carbon-intensity/latest?zone=FR"


def test_a_run_is_reckoned_with_what_the_service_told(service: Service) -> None:
    service.tell(400)
    meter = EnergyMeter(backends=[steady(100.0)], carbon_intensity=maps(service), verbose=False)
    with meter, meter.stage("train"):
        time.sleep(1.5)
    record = meter.record
    assert record.total.joules is not None
    assert record.total.co2e_grams == pytest.approx(record.total.joules / KWH * 400, rel=1e-6)
    assert (record.carbon.source, record.carbon.location, record.carbon.intervals) == ("Electricity Maps", "FR", [])
    assert not any("fallback intensity" in warning for warning in record.warnings)


def test_a_run_whose_service_fails_says_so_and_goes_on(service: Service) -> None:
    service.status = 500
    meter = EnergyMeter(backends=[steady(100.0)], carbon_intensity=maps(service), verbose=False)
    with meter, meter.stage("train"):
        time.sleep(1.5)
    record = meter.record
    assert record.total.joules is not None
    assert record.total.co2e_grams == pytest.approx(record.total.joules / KWH * FRANCE, rel=1e-6)
    assert [interval.fallback for interval in record.carbon.intervals] == ["Electricity Maps answered with status 500."]
    assert any("status 500" in warning for warning in record.warnings)


def test_while_nothing_is_known_no_grams_are_told_and_no_window_loses_any(service: Service) -> None:
    service.silence_s = 1.0
    service.tell(5)
    live = ElectricityMaps("PL", token=TOKEN, url=service.url)
    meter = EnergyMeter(backends=[steady(100.0)], carbon_intensity=live, verbose=False)
    windows: list[float | None] = []
    totals: list[float] = []
    with meter, meter.stage("train"):
        since = meter.point()
        while len(windows) < 12:
            time.sleep(0.3)
            until = meter.point()
            windows.append(meter.metrics("train", since, until).get("energy/train/co2e_grams"))
            totals += [grams for grams in [meter.totals(until).get("energy/total/co2e_grams")] if grams is not None]
            meter.add_epoch("train", len(windows), since, until)
            since = until
    record = meter.record
    assert windows[0] is None
    known = [grams for grams in windows if grams is not None]
    assert known
    assert all(grams == pytest.approx(30 / KWH * 5, rel=0.5) for grams in known)
    assert totals == sorted(totals)
    assert all(epoch.co2e_grams is None or epoch.co2e_grams > 0 for epoch in record.epochs)
    assert record.total.joules is not None
    assert record.total.co2e_grams == pytest.approx(record.total.joules / KWH * 5, rel=1e-6)
    assert (record.carbon.intervals, record.carbon.fallback_share) == ([], 0.0)
    assert not any("fallback intensity" in warning for warning in record.warnings)


def test_a_run_that_ends_before_the_answer_takes_the_places_figure(service: Service) -> None:
    service.silence_s = 5
    meter = EnergyMeter(backends=[steady(100.0)], carbon_intensity=maps(service), verbose=False)
    with meter, meter.stage("train"):
        time.sleep(0.3)
        assert meter.record.total.co2e_grams is None
    record = meter.record
    assert record.total.joules is not None
    assert record.total.co2e_grams == pytest.approx(record.total.joules / KWH * FRANCE, rel=1e-6)
    assert (record.carbon.fallback_share, record.carbon.relative_uncertainty) == (1.0, 0.2)
    assert record.warnings == ["The fallback intensity of FRA is used: Electricity Maps has not answered yet."]


def test_a_renewal_that_fails_is_told_from_then_on(service: Service) -> None:
    service.tell(100)
    live = maps(service)
    now = datetime.now(UTC)
    rates = Rates(live, None, "EUR", Site())
    settled(live)
    rates.begin([], now)
    service.status, service.silence_s = 500, 1  # it answers after the next line, in real time
    rates.follow([0.0, KWH], now + timedelta(minutes=20))
    assert settled(live, lambda: now + timedelta(minutes=20) + 2 * SECOND).fallback is not None
    rates.follow([0.0, 2 * KWH], now + timedelta(minutes=40))
    assert sum(rates.amounts([0.0, 2 * KWH]).grams or []) == pytest.approx(100 + FRANCE, abs=1)
    assert rates.fallbacks == ["The fallback intensity of FRA is used: Electricity Maps answered with status 500."]


def test_a_forecast_is_a_series(service: Service) -> None:
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    hours = [now + timedelta(hours=i) for i in range(3)]
    service.body = json.dumps(
        {
            "forecast": [
                {"datetime": hour.strftime("%Y-%m-%dT%H:%M:%S.000Z"), "carbonIntensity": 50 + i} for i, hour in enumerate(hours)
            ]
        }
    )
    found = forecast_zone("DE", token=TOKEN, url=service.url)
    assert (found.times, found.values, found.source) == (hours, [50, 51, 52], "Electricity Maps")
    service.body = json.dumps(
        {
            "data": [
                {"from": hour.strftime("%Y-%m-%dT%H:%MZ"), "to": "", "intensity": {"forecast": 9 + i}}
                for i, hour in enumerate(hours)
            ]
        }
    )
    found = forecast_great_britain(now, url=service.url)
    assert (found.times, found.values) == (hours, [9, 10, 11])
    assert service.asked[-1][0] == f"/intensity/{now.strftime('%Y-%m-%dT%H:%MZ')}/fw48h"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, ""),
        (401, ""),
        (200, "<html>"),
        (200, "{}"),
        (200, "[]"),
        (200, '{"forecast": [], "data": []}'),
        (200, f'{{"forecast": [{{"datetime": "2026-11-25T12:00:00Z", "carbonIntensity": 1{400 * "0"}}}], "data": [[]]}}'),
    ],
    ids=["error", "refused", "html", "empty", "list", "no rows", "no float"],
)
def test_a_forecast_that_does_not_come_is_an_error(service: Service, status: int, body: str) -> None:
    service.status, service.body = status, body
    with pytest.raises(ConfigurationError, match=r"^Electricity Maps (answered|rejects|returned)") as error:
        forecast_zone("DE", token=TOKEN, url=service.url)
    assert TOKEN not in str(error.value)
    with pytest.raises(ConfigurationError, match=r"^NESO Carbon Intensity API answered"):
        forecast_great_britain(datetime.now(UTC), url=service.url)


def test_a_forecast_whose_times_have_no_offset_is_refused(service: Service) -> None:
    service.body = json.dumps({"forecast": [{"datetime": "2026-11-25T12:00:00", "carbonIntensity": 50}]})
    with pytest.raises(ConfigurationError, match=r"^Electricity Maps returned times without an offset from UTC\.$"):
        forecast_zone("DE", token=TOKEN, url=service.url)


def test_a_token_that_is_refused_is_looked_for_where_it_came_from(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.status = 401
    plan = r", and that your plan there includes forecasts of zone DE\.$"
    with pytest.raises(ConfigurationError, match=f"^{REFUSED} the option token{plan}"):
        forecast_zone("DE", token=TOKEN, url=service.url)
    monkeypatch.setenv("ELECTRICITY_MAPS_TOKEN", TOKEN)
    with pytest.raises(ConfigurationError, match=f"^{REFUSED} the environment variable ELECTRICITY_MAPS_TOKEN{plan}"):
        forecast_zone("DE", url=service.url)


def test_the_line_end_of_a_token_is_left_out(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.body = json.dumps({"forecast": [{"datetime": "2026-11-25T12:00:00Z", "carbonIntensity": 50}]})
    monkeypatch.setenv("ELECTRICITY_MAPS_TOKEN", f"{TOKEN}\n")
    assert forecast_zone("DE", url=service.url).values == [50]
    service.tell(41)
    assert settled(ElectricityMaps("FR", url=service.url)).per_kwh == 41
    assert [headers["auth-token"] for _, headers in service.asked] == [TOKEN, TOKEN]
    monkeypatch.setenv("ELECTRICITY_MAPS_TOKEN", "\n")
    with pytest.raises(ConfigurationError, match="requires a token"):
        forecast_zone("DE", url=service.url)


@pytest.mark.parametrize("token", ["s3cret\nt0ken", "s3cret-t\u00f6ken", "s3cret-\u0142"])
def test_a_token_that_no_header_can_carry_is_told(service: Service, token: str) -> None:
    says = "The token for Electricity Maps contains a character that is not allowed in an HTTP header: check the option token."
    with pytest.raises(ConfigurationError) as error:
        forecast_zone("DE", token=token, url=service.url)
    assert str(error.value) == says
    with pytest.raises(ConfigurationError) as error:
        ElectricityMaps("FR", token=token, url=service.url)
    assert str(error.value) == says
    assert not service.asked


def test_an_answer_that_is_nested_without_end_is_of_an_unknown_form(service: Service) -> None:
    service.body = "[" * 100_000
    with pytest.raises(ConfigurationError, match="answered in an unknown format"):
        forecast_zone("DE", token=TOKEN, url=service.url)
    with pytest.raises(ConfigurationError, match="answered in an unknown format"):
        forecast_great_britain(datetime.now(UTC), url=service.url)
    assert settled(maps(service)).fallback == "Electricity Maps answered in an unknown format."


def test_a_zone_of_no_known_country_is_not_asked_for(service: Service) -> None:
    with pytest.raises(LocationError, match="The location 'XX' is unknown"):
        forecast_zone("XX-1", token=TOKEN, url=service.url)
    assert not service.asked


@pytest.mark.parametrize(
    ("told", "code"),
    [
        ({"country_code3": "FRA", "country_code": "FR", "region": "Ile-de-France"}, "FRA"),
        ({"country_code3": "USA", "country_code": "US", "region": "Virginia"}, "US-VA"),
        ({"country_code3": "CAN", "country_code": "CA", "region": "Quebec"}, "CA-QC"),
        ({"country_code3": "GEO", "country_code": "GE", "region": "Tbilisi"}, "GEO"),
        ({"country_code3": "USA", "country_code": "US", "region": "Georgia"}, "US-GA"),
        ({"country_code3": "ESP", "country_code": "ES", "region": "Virginia"}, "ESP"),
        ({"country_code": "FR"}, "FRA"),
        ({"country_code3": "SEN", "country_code": "SN", "region": "Dakar"}, "SEN"),
    ],
)
def test_the_place_of_the_address_is_told_with_a_note(service: Service, told: dict[str, str], code: str) -> None:
    service.body = json.dumps(told)
    quote = settled(NetworkLocation(url=service.url))
    assert (quote.intensity.location, quote.fallback, quote.intensity.assumed) == (code, None, False)
    assert "IP address" in quote.intensity.note


def test_an_address_without_a_place_leaves_the_worlds_average_assumed(service: Service) -> None:
    service.body = json.dumps({"country_code3": "ATA", "region": None})
    quote = settled(NetworkLocation(url=service.url))
    assert (quote.per_kwh, quote.intensity.assumed) == (475, True)
    assert quote.fallback == "GeoJS returned no place with a known intensity."


def test_nothing_is_asked_of_the_network_unless_it_is_asked_for() -> None:
    """A whole run, its report and its export without a socket."""
    program = """
import socket, sys
def refuse(*args, **kwargs):
    raise AssertionError("a socket was opened")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.report.export import Format, export
for location in (None, "FRA", "aws:eu-west-3", "Virginia"):
    with EnergyMeter(location=location, verbose=False) as meter, meter.stage("predict"), meter.batch(samples=3):
        sum(range(1000000))
    export(meter.record, Format.CODECARBON_CSV)
assert "requests" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
