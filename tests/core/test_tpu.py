"""Google TPUs through a simulated metrics server that speaks libtpu's protocol."""

import math
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter, sleep

import pytest

from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.backends.tpu import WATTS, TpuBackend
from ml_energy_callbacks.exceptions import BackendUnavailableError, ConfigurationError, ReadError
from ml_energy_callbacks.testing import ManualClock, PowerCurve, SineCurve, SquareCurve
from ml_energy_callbacks.testing.conformance import BackendConformance, Bench
from ml_energy_callbacks.testing.tpu import SimulatedTpu, TpuFault

V4 = WATTS["v4"]
FAULTS: tuple[TpuFault, ...] = ("hang", "error", "garbage", "nan", "no_gauge", "no_chips")


def pci(root: Path, slot: str, device: str, subsystem: str = "0x0000", vendor: str = "0x1ae0") -> None:
    folder = root / slot
    folder.mkdir(parents=True)
    for name, text in (("vendor", vendor), ("device", device), ("subsystem_device", subsystem)):
        (folder / name).write_text(f"{text}\n")


def backend(tpu: SimulatedTpu, clock: ManualClock, tmp_path: Path, **environ: str) -> TpuBackend:
    return TpuBackend(tpu.address, tmp_path, environ, clock=clock)


class TestTpu(BackendConformance):
    @pytest.fixture
    def bench(self, tmp_path: Path) -> Iterator[Bench]:
        clock = ManualClock()
        curves = [SquareCurve(*V4, period_s=2.0), SineCurve(130, 40, period_s=3.0)]
        for slot in range(2):
            pci(tmp_path, f"0000:00:0{slot}.0", "0x005e")
        with SimulatedTpu(curves, clock, V4) as tpu:
            yield Bench(
                TpuBackend(tpu.address, tmp_path, {}, clock=clock),
                clock,
                lambda device_id: curves[int(device_id[-1])],
                absent=TpuBackend(tpu.address, tmp_path / "nothing", {}),
                fail=tpu.stop,
                mend=tpu.start,
                refresh_s=0.0,
            )


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def curve(clock: ManualClock) -> PowerCurve:
    return PowerCurve(clock, 130)


@pytest.fixture
def tpu(clock: ManualClock, curve: PowerCurve) -> Iterator[SimulatedTpu]:
    """Four chips of a v4 host that draw the same."""
    with SimulatedTpu([curve] * 4, clock, V4) as server:
        yield server


def test_energy_is_idle_power_and_a_share_of_the_way_to_busy(
    tpu: SimulatedTpu, clock: ManualClock, curve: PowerCurve, tmp_path: Path
) -> None:
    source = backend(tpu, clock, tmp_path, TPU_ACCELERATOR_TYPE="v4-8").open()[0]
    for watts in (90.0, 130.0, 170.0):
        curve.set(watts)
        start = source.read()
        clock.advance(2.0)
        assert source.read() - start == pytest.approx(2 * watts)
    source.close()


def test_a_message_of_the_true_protocol_is_understood(tpu: SimulatedTpu, clock: ManualClock, tmp_path: Path) -> None:
    """The bytes are written out, as ``protoc`` encodes ``metric { name: "m" metrics { ... } }`` with a duty cycle of 50 %."""
    attribute = b"\x0a\x0f" + b"\x0a\x09device-id" + b"\x12\x02\x18\x00"
    gauge = b"\x1a\x09" + b"\x09\x00\x00\x00\x00\x00\x00\x49\x40"
    metric = b"\x1a\x1c" + attribute + gauge
    answer = b"\x0a\x21" + b"\x0a\x01m" + metric
    source = backend(tpu, clock, tmp_path, TPU_ACCELERATOR_TYPE="v4-2").open()[0]
    assert source._server._parse(answer) == {0: 0.5}
    integer = answer.replace(gauge, b"\x1a\x02\x10\x32").replace(b"\x1a\x1c", b"\x1a\x15").replace(b"\x0a\x21", b"\x0a\x1a", 1)
    assert source._server._parse(integer) == {0: 0.5}
    source.close()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_at_fault_is_an_error_and_never_a_number(
    tpu: SimulatedTpu, clock: ManualClock, tmp_path: Path, fault: TpuFault
) -> None:
    sources = backend(tpu, clock, tmp_path, TPU_ACCELERATOR_TYPE="v4-8").open()
    for source in sources:
        source.read()
    with tpu.failing(fault):
        clock.advance(1.0)
        start = perf_counter()
        for source in sources:
            with pytest.raises(ReadError):
                source.read()
        assert perf_counter() - start < 1.0, "the chips wait for one answer together"
    clock.advance(1.0)
    assert all(math.isfinite(source.read()) for source in sources)
    for source in sources:
        source.close()


def test_what_was_drawn_while_the_server_was_silent_is_not_made_up(
    tpu: SimulatedTpu, clock: ManualClock, tmp_path: Path
) -> None:
    source = backend(tpu, clock, tmp_path, TPU_ACCELERATOR_TYPE="v4-8").open()[0]
    assert source.read() == 0.0
    clock.advance(1.0)
    assert source.read() == pytest.approx(130)
    tpu.stop()
    for _ in range(5):
        clock.advance(1.0)
        with pytest.raises(ReadError, match="UNAVAILABLE"):
            source.read()
    tpu.start()
    clock.advance(1.0)
    assert source.read() == pytest.approx(130), "six seconds of which nobody knows"
    clock.advance(1.0)
    assert source.read() == pytest.approx(260)
    source.close()


def test_all_chips_are_read_by_one_call(tpu: SimulatedTpu, clock: ManualClock, tmp_path: Path) -> None:
    sources = backend(tpu, clock, tmp_path, TPU_ACCELERATOR_TYPE="v4-8").open()
    for _ in range(3):
        for source in sources:
            source.read()
        clock.advance(1.0)
    assert len(sources) == 4
    assert tpu.calls == 3
    for source in sources:
        source.close()


def test_nothing_is_asked_before_the_first_read(tpu: SimulatedTpu, clock: ManualClock, tmp_path: Path) -> None:
    """A fork at set-up, for workers that load data, finds no connection that it could break."""
    threads = threading.active_count()
    source = backend(tpu, clock, tmp_path, TPU_ACCELERATOR_TYPE="v4-8").open()[0]
    assert tpu.calls == 0
    assert source._server._channel is None
    assert threading.active_count() == threads
    source.close()


@pytest.mark.parametrize(
    ("name", "devices", "generation"),
    [
        ("v4-8", 4, "v4"),
        ("v4-512", 4, "v4"),
        ("v3-8", 4, "v3"),
        ("v4-2", 1, "v4"),
        ("v5litepod-1", 1, "v5e"),
        ("v5litepod-8", 8, "v5e"),
        ("v5litepod-16", 4, "v5e"),
        ("v5p-8", 4, "v5p"),
        ("v6e-8", 8, "v6e"),
        ("tpu7x-8", 4, "7x"),
    ],
)
def test_the_accelerators_type_tells_the_hosts_chips(name: str, devices: int, generation: str, tmp_path: Path) -> None:
    for variable in ("TPU_ACCELERATOR_TYPE", "ACCELERATOR_TYPE"):
        sources = TpuBackend(root=tmp_path, environ={variable: name}, watts=(50, 150)).open()
        assert [source.device.id for source in sources] == [f"tpu:{chip}" for chip in range(devices)]
        assert {source.device.name for source in sources} == {
            f"Google TPU {generation}, chip {chip}" for chip in range(devices)
        }


def test_the_hardware_is_believed_before_the_environment(tmp_path: Path) -> None:
    pci(tmp_path, "0000:00:03.0", "0x0042")  # Google's network card
    pci(tmp_path, "0000:00:04.0", "0x0027", "0x004f")
    pci(tmp_path, "0000:00:05.0", "0x0027", "0x004f")
    pci(tmp_path, "0000:00:06.0", "0x005e", vendor="0x8086")
    sources = TpuBackend(root=tmp_path, environ={"TPU_ACCELERATOR_TYPE": "v4-8"}).open()
    assert [source.device.name for source in sources] == ["Google TPU v3, chip 0", "Google TPU v3, chip 1"]
    assert "123 W when idle to 220 W when busy (as Google measured)" in str(sources[0].device.note)


@pytest.mark.parametrize(
    ("ids", "visible", "expected"),
    [
        ((0, 1, 2, 3), None, {0: 100, 1: 110, 2: 120, 3: 130}),
        ((4, 5, 6, 7), None, {0: 100, 1: 110, 2: 120, 3: 130}),  # the second host of a slice
        ((0, 2, 4, 6), None, {0: 100, 1: 110, 2: 120, 3: 130}),  # numbers of cores, two to a chip
        ((0,), None, {0: 100, 1: None, 2: None, 3: None}),  # a process that uses one of four
        ((0, 1, 2, 3), "1,3", {1: 110, 3: 130}),  # libtpu speaks for all
        ((1, 3), "1,3", {1: 100, 3: 110}),
        ((0, 1), "1,3", {1: 100, 3: 110}),  # it counts from 0
        ((0, 1, 2, 3, 4, 5, 6, 7), None, {0: None, 1: None, 2: None, 3: None}),  # cores? nobody knows
    ],
)
def test_chips_go_by_their_ids_or_their_order(
    ids: tuple[int, ...], visible: str | None, expected: dict[int, float | None], clock: ManualClock, tmp_path: Path
) -> None:
    curves = {chip_id: PowerCurve(clock, 100 + 10 * place) for place, chip_id in enumerate(ids)}
    environ = {"TPU_ACCELERATOR_TYPE": "v4-8"} | ({"TPU_VISIBLE_CHIPS": visible} if visible else {})
    watts: dict[int, float | None] = {}
    with SimulatedTpu(curves, clock, V4) as server:
        sources = backend(server, clock, tmp_path, **environ).open()
        for second in range(2):
            for source in sources:
                try:
                    joules: float | None = source.read()
                except ReadError:
                    joules = None
                watts[int(source.device.id.removeprefix("tpu:"))] = joules
            clock.advance(1.0 - second)
        for source in sources:
            source.close()
    assert watts == {chip: joules if joules is None else pytest.approx(joules) for chip, joules in expected.items()}


def test_a_generation_without_published_power_needs_the_users(tmp_path: Path) -> None:
    environ = {"TPU_ACCELERATOR_TYPE": "v5litepod-4"}
    with pytest.raises(BackendUnavailableError, match="published what a TPU v5e chip draws") as caught:
        TpuBackend(root=tmp_path, environ=environ).open()
    assert caught.value.fix == "Set ML_ENERGY_TPU_WATTS=<idle>,<busy> (watts of one chip)."
    sources = TpuBackend(root=tmp_path, environ=environ | {"ML_ENERGY_TPU_WATTS": "60, 140.5"}).open()
    assert len(sources) == 4
    assert sources[0].device.note == (
        "60 W when idle to 140.5 W when busy (as the user says), in proportion to the chip's duty cycle."
    )
    assert sources[0].device.provenance == "estimated"


def test_the_users_wattage_wins_over_the_published_one(clock: ManualClock, tmp_path: Path) -> None:
    with SimulatedTpu([PowerCurve(clock, 300)], clock, (100, 300)) as server:
        environ = {"TPU_ACCELERATOR_TYPE": "v4-2", "ML_ENERGY_TPU_WATTS": "1,2"}
        source = TpuBackend(server.address, tmp_path, environ, watts=(100, 300), clock=clock).open()[0]
        source.read()
        clock.advance(1.0)
        assert source.read() == pytest.approx(300)
        source.close()


@pytest.mark.parametrize("text", ["90", "90,170,192", "a,b", "170,90", "-1,170", "0,0", "90,nan", "90,inf", ",", "nan,170"])
def test_a_wattage_that_cannot_be_one_is_refused_in_a_sentence(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^ML_ENERGY_TPU_WATTS is '.*'; give the watts of one chip.*\.$"):
        TpuBackend(root=tmp_path, environ={"ML_ENERGY_TPU_WATTS": text}).open()


def test_a_wattage_in_code_that_cannot_be_one_is_refused_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^The watts of a TPU chip are \(170, 90\); give the watts of one chip"):
        TpuBackend(root=tmp_path, environ={}, watts=(170, 90)).open()


@pytest.mark.parametrize("environ", [{}, {"ACCELERATOR_TYPE": "nvidia-tesla-t4"}, {"ACCELERATOR_TYPE": "v100-8"}])
def test_without_a_tpu_grpc_is_not_even_imported(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(BackendUnavailableError) as caught:
        TpuBackend(root=tmp_path, environ=environ).open()
    assert caught.value.reason == "This machine has no TPU."


def test_a_tpu_of_no_known_type_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailableError, match="TPU_ACCELERATOR_TYPE is 'something', which names no known TPU"):
        TpuBackend(root=tmp_path, environ={"TPU_ACCELERATOR_TYPE": "something"}).open()


@pytest.mark.parametrize("module", ["grpc", "google.protobuf"])
def test_a_missing_extra_is_named_where_there_is_a_tpu(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'ml-energy-callbacks\[tpu\]'"):
        TpuBackend(root=tmp_path, environ={"TPU_ACCELERATOR_TYPE": "v4-8"}).open()


def test_a_proxy_is_never_asked(tpu: SimulatedTpu, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    source = backend(tpu, clock, tmp_path, TPU_ACCELERATOR_TYPE="v4-8").open()[0]
    assert source.read() == 0.0
    source.close()


def test_the_last_chip_to_close_closes_the_channel(tpu: SimulatedTpu, clock: ManualClock, tmp_path: Path) -> None:
    first, *others = backend(tpu, clock, tmp_path, TPU_ACCELERATOR_TYPE="v4-8").open()
    first.read()
    first.close()
    with pytest.raises(ReadError, match="tpu:0 is closed"):
        first.read()
    clock.advance(1.0)
    for source in others:
        source.read()
        source.close()
    assert others[0]._server._channel is None


SERVER = """
import sys
from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.testing import PowerCurve
from ml_energy_callbacks.testing.tpu import SimulatedTpu

with SimulatedTpu([PowerCurve(monotonic_clock, 150)], monotonic_clock, (90.0, 170.0)) as server:
    print(server.address, flush=True)
    sys.stdin.read()
"""


def test_a_run_in_real_time_has_the_chips_energy_and_says_that_it_is_estimated(tmp_path: Path) -> None:
    """Forks on the way, as of workers that load data, harm nobody; but a gRPC *server* does not survive one."""
    with subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        backends = [TpuBackend(server.stdout.readline().strip(), tmp_path, {"TPU_ACCELERATOR_TYPE": "v4-2"})]
        meter = EnergyMeter(backends=backends, carbon_intensity=1, verbose=False)
        with meter, meter.stage("train"):
            for _ in range(3):
                fork()
                sleep(0.9)
        server.stdin.close()
    (device,) = meter.record.devices
    assert (device.id, device.method, device.provenance) == ("tpu:0", "model", "estimated")
    assert device.joules / 150 == pytest.approx(2.7, abs=1.5), "it is read about once a second"


def fork() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of forks beside threads; this is one
        child = os.fork()
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
