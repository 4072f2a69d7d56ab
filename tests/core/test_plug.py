"""Smart plugs through simulated ones that speak the makers' HTTP."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter, sleep

import pytest

from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.backends.plug import PlugBackend
from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.exceptions import BackendUnavailableError, ConfigurationError, ReadError
from ml_energy_callbacks.testing import ManualClock, PowerCurve, SineCurve, SquareCurve
from ml_energy_callbacks.testing.conformance import BackendConformance, Bench
from ml_energy_callbacks.testing.plug import PlugFault, PlugKind, SimulatedPlug

KINDS: tuple[PlugKind, ...] = ("shelly-switch", "shelly-pm1", "tasmota")
FAULTS: tuple[PlugFault, ...] = ("hang", "drip", "error", "password", "warning", "redirect", "garbage", "nan", "null", "huge")


class TestPlug(BackendConformance):
    @pytest.fixture(params=KINDS)
    def bench(self, request: pytest.FixtureRequest) -> Iterator[Bench]:
        clock = ManualClock()
        curves = [SquareCurve(100, 300, period_s=2.0), SineCurve(400, 100, period_s=3.0)]
        with (
            SimulatedPlug([curves[0]], clock, request.param) as first,
            SimulatedPlug([curves[1]], clock, "shelly-switch") as second,
        ):
            plugs = (first, second)

            def switch(*, on: bool) -> None:
                for plug in plugs:
                    (plug.on if on else plug.off)()

            yield Bench(
                PlugBackend(environ={"ML_ENERGY_PLUGS": f"{first.address}, {second.address},"}),
                clock,
                lambda device_id: next(
                    curve for plug, curve in zip(plugs, curves, strict=True) if plug.address.endswith(device_id[5:])
                ),
                absent=PlugBackend(environ={}),
                fail=lambda: switch(on=False),
                mend=lambda: switch(on=True),
                refresh_s=0.0,
            )


@pytest.fixture(params=KINDS)
def plug(request: pytest.FixtureRequest) -> Iterator[SimulatedPlug]:
    """A plug of each kind with a machine of 250 W."""
    clock = ManualClock()
    with SimulatedPlug([PowerCurve(clock, 250)], clock, request.param) as simulated:
        yield simulated


def test_a_plug_meters_the_whole_machine(plug: SimulatedPlug) -> None:
    (source,) = PlugBackend([plug.address]).open()
    assert source.read() == 250.0
    assert source.device.id == f"plug:{plug.address.partition('//')[2]}"
    assert source.device.whole_machine
    assert source.device.min_interval_s == 1.0
    source.close()
    with pytest.raises(ReadError, match="is closed"):
        source.read()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_plug_at_fault_is_an_error_and_never_a_number(fault: PlugFault) -> None:
    clock = ManualClock()
    with SimulatedPlug([PowerCurve(clock, 250)], clock, "tasmota") as plug:
        (source,) = PlugBackend([plug.address]).open()
        with plug.failing(fault):
            start = perf_counter()
            with pytest.raises(ReadError, match=r"^The plug 127\.0\.0\.1"):
                source.read()
            assert perf_counter() - start < 1.5
        assert source.read() == 250.0


@pytest.mark.parametrize("fault", FAULTS)
def test_a_plug_at_fault_when_it_is_opened_is_told_with_the_reason(fault: PlugFault) -> None:
    clock = ManualClock()
    with SimulatedPlug([PowerCurve(clock, 250)], clock, "shelly-pm1") as plug, plug.failing(fault):
        start = perf_counter()
        with pytest.raises(BackendUnavailableError, match=r"^The plug 127\.0\.0\.1:\d+ .*\.$") as caught:
            PlugBackend([plug.address]).open()
        assert perf_counter() - start < 1.5, "who does not answer is not asked the second question"
        assert caught.value.present, "the user named it"


@pytest.mark.parametrize(
    "body",
    [
        "null",
        "[]",
        "3",
        '{"apower": "250"}',
        '{"apower": true}',
        '{"apower": -Infinity}',
        '{"apower": [250]}',
        f'{{"apower": 1{"0" * 400}}}',
        f'{{"apower": 1{"0" * 5000}}}',
        "[" * 60_000,
        '{"StatusSNS": {"ENERGY": {"Power": 250}}}',
    ],
)
def test_json_without_a_power_is_an_error(body: str) -> None:
    with pytest.raises(BackendUnavailableError, match=r"reports no power|cannot be parsed"):
        open_one_that_answers(body, "shelly", questions=2)


def open_one_that_answers(body: str, make: str, questions: int) -> None:
    """Open a plug that answers so many questions with this body; the whole answer, as it comes over the line."""
    data = body.encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data)
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:

        def serve() -> None:
            for _ in range(questions):
                line, _ = server.accept()
                with line:
                    line.recv(4096)
                    line.sendall(answer)

        served = pool.submit(serve)
        try:
            PlugBackend([f"{make}://127.0.0.1:{server.getsockname()[1]}"]).open()
        finally:
            served.result()


def test_a_reading_is_one_request(plug: SimulatedPlug) -> None:
    (source,) = PlugBackend([plug.address]).open()
    plug.requests.clear()
    for _ in range(3):
        source.read()
    assert len(plug.requests) == 3
    assert len(set(plug.requests)) == 1


def test_an_endless_answer_is_cut_off(plug: SimulatedPlug) -> None:
    (source,) = PlugBackend([plug.address]).open()
    with plug.failing("huge"), pytest.raises(ReadError, match="larger than 65536 bytes"):
        source.read()


def test_a_redirection_is_not_followed(plug: SimulatedPlug) -> None:
    (source,) = PlugBackend([plug.address]).open()
    plug.requests.clear()
    with plug.failing("redirect"), pytest.raises(ReadError, match="HTTP status 302"):
        source.read()
    assert len(plug.requests) == 1


def test_a_password_is_named_as_the_reason(plug: SimulatedPlug) -> None:
    fix = "WebPassword 0" if plug.address.startswith("tasmota") else "Disable authentication"
    with plug.failing("password"), pytest.raises(BackendUnavailableError, match=f"requires a password.*{fix}"):
        PlugBackend([plug.address]).open()


@pytest.mark.parametrize(
    "warning", ["Need user=<username>&password=<password>", "Benötige user=<Benutzername>&password=<Passwort>"]
)
def test_tasmotas_warning_for_want_of_a_password_is_understood(warning: str) -> None:
    with pytest.raises(BackendUnavailableError, match=r"requires a password.*`WebPassword 0` in the plug's console"):
        open_one_that_answers(json.dumps({"WARNING": warning}), "tasmota", questions=1)


@pytest.mark.parametrize("kind", KINDS)
def test_power_that_flows_back_is_said_to(kind: PlugKind) -> None:
    """Zero or a positive figure would be wrong; and the answer of the component that a Shelly lacks is no reason."""
    clock = ManualClock()
    with (
        SimulatedPlug([PowerCurve(clock, -12.5)], clock, kind) as simulated,
        pytest.raises(BackendUnavailableError, match=r"negative power \(-12\.5 W\): check its wiring"),
    ):
        PlugBackend([simulated.address]).open()


def test_a_proxy_is_never_asked(plug: SimulatedPlug, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    (source,) = PlugBackend([plug.address]).open()
    assert source.read() == 250.0


@pytest.mark.parametrize(
    ("kind", "suffix", "watts"),
    [
        ("shelly-switch", "", 100),
        ("shelly-switch", "/0", 100),
        ("shelly-pm1", "/1", 200),
        ("tasmota", "/1", 100),
        ("tasmota", "/2", 200),
    ],
)
def test_an_outlet_of_several_goes_by_its_makers_number(kind: PlugKind, suffix: str, watts: float) -> None:
    clock = ManualClock()
    with SimulatedPlug([PowerCurve(clock, 100), PowerCurve(clock, 200)], clock, kind) as strip:
        (source,) = PlugBackend([strip.address + suffix]).open()
        assert source.read() == watts
        assert source.device.id.endswith(suffix)


def test_an_outlet_of_several_has_to_be_named() -> None:
    clock = ManualClock()
    with SimulatedPlug([PowerCurve(clock, 100)] * 2, clock, "tasmota") as strip:
        with pytest.raises(BackendUnavailableError, match=r"has 2 outlets: select one, as in tasmota://127\.0\.0\.1:\d+/1\.$"):
            PlugBackend([strip.address]).open()
        with pytest.raises(BackendUnavailableError, match="reports no power"):
            PlugBackend([strip.address + "/3"]).open()


def test_an_outlet_that_a_shelly_does_not_have_is_told() -> None:
    clock = ManualClock()
    with (
        SimulatedPlug([PowerCurve(clock, 100)], clock, "shelly-switch") as simulated,
        pytest.raises(BackendUnavailableError, match="HTTP status"),
    ):
        PlugBackend([simulated.address + "/4"]).open()


def test_one_plug_of_two_does_not_pass_for_the_machine(plug: SimulatedPlug) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        address = f"tasmota://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(BackendUnavailableError, match=r"cannot be read: .*refused\. Check the address and the port"):
            PlugBackend([plug.address, address]).open()


def test_what_to_check_where_nothing_answers(plug: SimulatedPlug) -> None:
    with plug.failing("hang"), pytest.raises(BackendUnavailableError, match=r"timed out\. Check that the plug is on"):
        PlugBackend([plug.address]).open()


def test_what_is_no_web_server_is_no_plug() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:

        def serve() -> None:
            line, _ = server.accept()
            with line:
                line.recv(4096)
                line.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

        served = pool.submit(serve)
        with pytest.raises(BackendUnavailableError, match=r"cannot be read: SSH.*\. Check that it is a plug's address\.$"):
            PlugBackend([f"tasmota://127.0.0.1:{server.getsockname()[1]}"]).open()
        served.result()


def test_the_same_plug_twice_is_one(plug: SimulatedPlug) -> None:
    assert len(PlugBackend([plug.address, plug.address + "/", plug.address.upper()]).open()) == 1


def test_a_host_that_does_not_exist_is_told() -> None:
    fix = r"Check the name, or give the plug's IP address in ML_ENERGY_PLUGS\."
    with pytest.raises(
        BackendUnavailableError, match=rf"^The plug no-such-host.invalid cannot be found: .*\. {fix}$"
    ) as caught:
        PlugBackend(["shelly://no-such-host.invalid"]).open()
    assert caught.value.present


def test_without_a_plug_the_way_to_name_one_is_told() -> None:
    for environ in ({}, {"ML_ENERGY_PLUGS": " , "}):
        with pytest.raises(BackendUnavailableError) as caught:
            PlugBackend(environ=environ).open()
        assert caught.value.reason == "No smart plug is configured."
        assert "ML_ENERGY_PLUGS" in str(caught.value.fix)
        assert not caught.value.present, "nobody misses it"


@pytest.mark.parametrize(
    "address",
    [
        "192.168.1.20",
        "http://192.168.1.20",
        "shelly://",
        "shelly://:80",
        "shelly://host:0",
        "shelly://host:65536",
        "shelly://host:port",
        "shelly://host/relay",
        "shelly://host/0?x=1",
        "shelly://ho st",
        "shelly://host\r\nX: y",
        "tasmota://host/0",
        "tasmota://[::1",
    ],
)
def test_an_address_that_cannot_be_one_is_refused_in_a_sentence(address: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"^(The smart plug )?'.*' (is not the address of a smart plug|has no channel 0); give .*\.$"
    ):
        PlugBackend(environ={"ML_ENERGY_PLUGS": address}).open()


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigurationError) as caught:
        PlugBackend(["tasmota://admin:secret@plug.local"]).open()
    assert "secret" not in str(caught.value)


def test_a_run_in_real_time_has_the_machines_energy() -> None:
    with SimulatedPlug([PowerCurve(monotonic_clock, 200)], monotonic_clock, "tasmota") as simulated:
        meter = EnergyMeter(backends=[PlugBackend([simulated.address])], carbon_intensity=1, verbose=False)
        with meter, meter.stage("train"):
            sleep(2.6)
    (device,) = meter.record.whole_machine
    assert device.id == f"plug:{simulated.address.partition('//')[2]}"
    assert device.joules / 200 == pytest.approx(2.6, abs=1.5), "it is read about once a second"


def test_the_http_library_is_not_imported_with_the_backend() -> None:
    """It takes longer than the rest of the module, and few machines have a plug."""
    script = "import sys, ml_energy_callbacks.backends.plug; print('http.client' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"
