"""Google TPUs through a simulated metrics server that speaks libtpu's protocol."""

import math
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import pytest

from ml_energy_callbacks import load_record
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
    assert source._metrics._parse_answer(answer) == {0: 0.5}
    integer = answer.replace(gauge, b"\x1a\x02\x10\x32").replace(b"\x1a\x1c", b"\x1a\x15").replace(b"\x0a\x21", b"\x0a\x1a", 1)
    assert source._metrics._parse_answer(integer) == {0: 0.5}
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
        with pytest.raises(ReadError, match=r"does not answer: Connection refused\.$"):
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
    threads = set(threading.enumerate())
    source = backend(tpu, clock, tmp_path, TPU_ACCELERATOR_TYPE="v4-8").open()[0]
    assert tpu.calls == 0
    assert set(threading.enumerate()) <= threads
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
    assert "123 W when idle to 220 W when busy (measured by Google)" in str(sources[0].device.note)


@pytest.mark.parametrize(
    ("ids", "visible", "expected"),
    [
        ((0, 1, 2, 3), None, {0: 100, 1: 110, 2: 120, 3: 130}),
        ((4, 5, 6, 7), None, {0: 100, 1: 110, 2: 120, 3: 130}),  # the second host of a slice
        ((0, 2, 4, 6), None, {0: 100, 1: 110, 2: 120, 3: 130}),  # numbers of cores, two to a chip
        ((0,), None, {0: 100, 1: None, 2: None, 3: None}),  # a process that uses one of four
        ((0, 1, 2, 3), "1,3", {1: 110, 3: 130}),  # libtpu speaks for all
        ((1, 3), "1,3", {1: 100, 3: 110}),
        ((1,), "1,3", {1: 100, 3: None}),
        ((0, 2), "1,3", {1: None, 3: None}),  # another process's
        ((0, 1), "1,3", {1: None, 3: None}),  # another's, or ours counted from 0
        ((4, 5), "1,3", {1: None, 3: None}),
        ((0, 1, 2, 3, 4, 5, 6, 7), None, {0: None, 1: None, 2: None, 3: None}),  # cores? nobody knows
    ],
)
def test_chips_go_by_their_ids_or_their_order(
    ids: tuple[int, ...], visible: str | None, expected: dict[int, float | None], clock: ManualClock, tmp_path: Path
) -> None:
    curves = {chip_id: PowerCurve(clock, 100 + 10 * place) for place, chip_id in enumerate(ids)}
    environ = {"TPU_ACCELERATOR_TYPE": "v4-8"} | ({"TPU_VISIBLE_CHIPS": visible} if visible else {})
    with SimulatedTpu(curves, clock, V4) as server:
        watts = watts_of(backend(server, clock, tmp_path, **environ), clock)
    assert watts == {chip: joules if joules is None else pytest.approx(joules) for chip, joules in expected.items()}


def watts_of(tpus: TpuBackend, clock: ManualClock, deadline_s: float = 20) -> dict[int, float | None]:
    """Return what each chip draws within a second, None where it cannot be read."""
    watts: dict[int, float | None] = {}
    sources = replace(tpus, deadline_s=deadline_s).open()
    for seconds in (1.0, 0.0):
        for source in sources:
            try:
                joules: float | None = source.read()
            except ReadError:
                joules = None
            watts[int(source.device.id.removeprefix("tpu:"))] = joules
        clock.advance(seconds)
    for source in sources:
        source.close()
    return watts


def serve_chips(stack: ExitStack, clock: ManualClock, *processes: Sequence[int]) -> tuple[list[SimulatedTpu], str]:
    """Start a server for each process, whose chips draw 100 W and 10 W more for each id; return their ports, too."""
    servers = [
        stack.enter_context(SimulatedTpu({chip: PowerCurve(clock, 100 + 10 * chip) for chip in chips}, clock, V4))
        for chips in processes
    ]
    return servers, ",".join(server.address.partition(":")[2] for server in servers)


@pytest.mark.parametrize("visible", [None, "2"])
def test_each_process_of_the_host_has_a_port_of_its_own(visible: str | None, clock: ManualClock, tmp_path: Path) -> None:
    """``localhost:8431`` would tell of the first process alone."""
    with ExitStack() as stack:
        _, ports = serve_chips(stack, clock, [0], [1], [2], [3])
        environ = {"TPU_ACCELERATOR_TYPE": "v4-8", "TPU_RUNTIME_METRICS_PORTS": ports}
        environ |= {"TPU_VISIBLE_CHIPS": visible} if visible else {}
        watts = watts_of(TpuBackend(root=tmp_path, environ=environ, clock=clock), clock)
    assert watts == {chip: pytest.approx(100 + 10 * chip) for chip in ([2] if visible else range(4))}


def test_the_ports_of_processes_that_do_not_run_are_passed_over(clock: ManualClock, tmp_path: Path) -> None:
    with ExitStack() as stack:
        servers, ports = serve_chips(stack, clock, [0], [1], [2], [3])
        environ = {"TPU_ACCELERATOR_TYPE": "v4-8", "TPU_RUNTIME_METRICS_PORTS": ports}
        tpus = TpuBackend(root=tmp_path, environ=environ, clock=clock)
        servers[1].stop()
        assert watts_of(tpus, clock) == {0: 100, 1: None, 2: 120, 3: 130}
        servers[2].fault = servers[3].fault = "hang"
        start = perf_counter()
        assert watts_of(tpus, clock, deadline_s=2) == {0: 100, 1: None, 2: None, 3: None}
        assert perf_counter() - start < 7.2, "those that hang are waited for together"
        servers[3].mend()
        servers[2].mend()


def test_one_process_that_uses_all_chips_answers_at_one_port_of_several(clock: ManualClock, tmp_path: Path) -> None:
    with ExitStack() as stack:
        servers, ports = serve_chips(stack, clock, range(4), range(4), range(4))
        servers[0].stop()
        environ = {"TPU_ACCELERATOR_TYPE": "v4-8", "TPU_RUNTIME_METRICS_PORTS": f" {ports} ,"}
        assert watts_of(TpuBackend(root=tmp_path, environ=environ, clock=clock), clock) == {0: 100, 1: 110, 2: 120, 3: 130}


def test_processes_that_each_count_from_0_are_not_taken_for_one_chip(clock: ManualClock, tmp_path: Path) -> None:
    with ExitStack() as stack:
        _, ports = serve_chips(stack, clock, [0], [0])
        environ = {"TPU_ACCELERATOR_TYPE": "v4-8", "TPU_RUNTIME_METRICS_PORTS": ports}
        source = TpuBackend(root=tmp_path, environ=environ, clock=clock).open()[0]
        with pytest.raises(ReadError, match="Two metrics servers of the TPU report chip 0"):
            source.read()


@pytest.mark.parametrize(
    ("environ", "addresses"),
    [
        ({}, ["localhost:8431"]),
        ({"TPU_RUNTIME_METRICS_PORTS": ""}, ["localhost:8431"]),
        ({"TPU_RUNTIME_METRICS_PORTS": "9000"}, ["localhost:9000"]),
        ({"TPU_RUNTIME_METRICS_PORTS": "9000,9001"}, ["localhost:9000", "localhost:9001"]),
    ],
)
def test_libtpu_is_asked_where_it_was_told_to_serve(environ: dict[str, str], addresses: list[str], tmp_path: Path) -> None:
    assert TpuBackend(root=tmp_path, environ=environ)._addresses() == addresses


@pytest.mark.parametrize("variable", ["TPU_VISIBLE_CHIPS", "TPU_VISIBLE_DEVICES"])
def test_a_process_has_the_chips_that_are_visible_to_it(variable: str, tmp_path: Path) -> None:
    environ = {"TPU_ACCELERATOR_TYPE": "v4-8", variable: " 3, 1,"}
    assert [source.device.id for source in TpuBackend(root=tmp_path, environ=environ).open()] == ["tpu:1", "tpu:3"]
    environ[variable] = "0,4"
    with pytest.raises(BackendUnavailableError, match=f"^{variable} is '0,4', but the chips of this host are 0 to 3") as caught:
        TpuBackend(root=tmp_path, environ=environ).open()
    assert caught.value.present


def test_a_generation_without_published_power_needs_the_users(tmp_path: Path) -> None:
    environ = {"TPU_ACCELERATOR_TYPE": "v5litepod-4"}
    with pytest.raises(BackendUnavailableError, match="power of a TPU v5e chip has not been published") as caught:
        TpuBackend(root=tmp_path, environ=environ).open()
    assert caught.value.fix == "Set ML_ENERGY_TPU_WATTS=<idle>,<busy> (watts of one chip)."
    assert caught.value.present
    sources = TpuBackend(root=tmp_path, environ=environ | {"ML_ENERGY_TPU_WATTS": "60, 140.5"}).open()
    assert len(sources) == 4
    assert sources[0].device.note == (
        "60 W when idle to 140.5 W when busy (given by the user), in proportion to the chip's duty cycle."
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
def test_without_a_tpu_the_extra_is_not_even_imported(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "h2", None)
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    with pytest.raises(BackendUnavailableError) as caught:
        TpuBackend(root=tmp_path, environ=environ).open()
    assert caught.value.reason == "This machine has no TPU."
    assert not caught.value.present


def test_a_tpu_of_no_known_type_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        BackendUnavailableError, match="TPU_ACCELERATOR_TYPE is 'something', which is not a known TPU type"
    ) as caught:
        TpuBackend(root=tmp_path, environ={"TPU_ACCELERATOR_TYPE": "something"}).open()
    assert caught.value.present


@pytest.mark.parametrize("module", ["h2.connection", "google.protobuf"])
def test_a_missing_extra_is_named_where_there_is_a_tpu(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ml_energy_callbacks.backends.drivers.grpc_calls", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'ml-energy-callbacks\[tpu\]'") as caught:
        TpuBackend(root=tmp_path, environ={"TPU_ACCELERATOR_TYPE": "v4-8"}).open()
    assert caught.value.present


def test_a_proxy_is_never_asked(tpu: SimulatedTpu, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    source = backend(tpu, clock, tmp_path, TPU_ACCELERATOR_TYPE="v4-8").open()[0]
    assert source.read() == 0.0
    source.close()


def test_a_closed_chip_is_not_read_and_the_others_are(tpu: SimulatedTpu, clock: ManualClock, tmp_path: Path) -> None:
    first, *others = backend(tpu, clock, tmp_path, TPU_ACCELERATOR_TYPE="v4-8").open()
    first.read()
    first.close()
    with pytest.raises(ReadError, match="tpu:0 is closed"):
        first.read()
    clock.advance(1.0)
    for source in others:
        source.read()
        source.close()


SERVER = """
import sys
from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.testing import PowerCurve
from ml_energy_callbacks.testing.tpu import SimulatedTpu

with SimulatedTpu([PowerCurve(monotonic_clock, 150)], monotonic_clock, (90.0, 170.0)) as server:
    print(server.address, flush=True)
    sys.stdin.read()
"""


RUN = """
import os, sys
from pathlib import Path
from time import sleep
from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.backends.tpu import TpuBackend

backends = [TpuBackend(sys.argv[1], Path("nowhere"), {"TPU_ACCELERATOR_TYPE": "v4-2"})]
with EnergyMeter(backends=backends, carbon_intensity=1, verbose=False, output_dir=sys.argv[2]) as meter, meter.stage("train"):
    for _ in range(3):
        child = os.fork()
        if child == 0:
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        sleep(0.9)
"""


def run_with_server(code: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a program beside a simulated server of a process of its own: a gRPC server does not survive a fork of its process."""
    with subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        command = [sys.executable, "-W", "ignore", "-c", code, server.stdout.readline().strip(), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=folder)
        server.stdin.close()
    return done


def test_a_run_in_real_time_has_the_chips_energy_and_says_that_it_is_estimated(tmp_path: Path) -> None:
    """Forks on the way, as of workers that load data, harm nobody."""
    done = run_with_server(RUN, tmp_path)
    assert done.returncode == 0, done.stderr
    (device,) = load_record(tmp_path).devices
    assert (device.id, device.method, device.provenance) == ("tpu:0", "model", "estimated")
    assert device.joules / 150 == pytest.approx(2.7, abs=1.5), "it is read about once a second"


FORKS_WITHIN_QUERIES = """
import os, sys, threading
from contextlib import suppress
from pathlib import Path
from time import sleep
from ml_energy_callbacks.exceptions import ReadError
from ml_energy_callbacks.backends.tpu import TpuBackend

source = TpuBackend(sys.argv[1], Path("nowhere"), {"TPU_ACCELERATOR_TYPE": "v4-2"}).open()[0]
over, answers = threading.Event(), []
def read():
    while not over.wait(0.005):
        with suppress(ReadError):  # a busy server
            answers.append(source.read())
reader = threading.Thread(target=read)
reader.start()
for i in range(200):
    sleep(0.003 + 0.0007 * (i % 13))
    child = os.fork()
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
over.set()
reader.join()
assert len(answers) > 20
"""


def test_a_fork_within_a_query_harms_neither_process(tmp_path: Path) -> None:
    """The gRPC library ended or stopped one of about 300 forks, which may be workers that load data, or the process itself."""
    done = run_with_server(FORKS_WITHIN_QUERIES, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (b"", "the connection was closed"),
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "no answer within 0.5 s"),
        (bytes(9), "it does not speak HTTP/2 as expected"),  # data before anything else
        (b"\x00\x00\x00\x04\x00\x00\x00\x00\x00", "no answer within 0.5 s"),  # its settings, and no more
    ],
)
def test_a_port_of_another_service_is_an_error_in_time(reply: bytes, says: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        released = threading.Event()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(reply)
                if reply:
                    released.wait(20)

        threading.Thread(target=serve, daemon=True).start()
        environ = {"TPU_ACCELERATOR_TYPE": "v4-2"}
        deadline_s = 0.5 if "0.5" in says else 20
        source = TpuBackend(f"localhost:{server.getsockname()[1]}", tmp_path, environ, deadline_s=deadline_s).open()[0]
        start = perf_counter()
        with pytest.raises(ReadError, match=rf"does not answer: {says}\.$"):
            source.read()
        assert perf_counter() - start < 5
        released.set()


def test_a_server_that_accepts_nothing_costs_no_other_its_answer(clock: ManualClock, tmp_path: Path) -> None:
    """As one that is stopped, whose queue of connections is full after some queries."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as hanging, ExitStack() as stack:
        _, port = serve_chips(stack, clock, [0])
        ports = f"{hanging.getsockname()[1]},{port}"
        environ = {"TPU_ACCELERATOR_TYPE": "v4-8", "TPU_RUNTIME_METRICS_PORTS": ports}
        source = TpuBackend(root=tmp_path, environ=environ, clock=clock, deadline_s=0.3).open()[0]
        for _ in range(6):
            source.read()
            clock.advance(1.0)


def test_an_answer_without_end_is_not_kept(clock: ManualClock, tmp_path: Path) -> None:
    curves = [PowerCurve(clock, 100)] * 3000  # 140 kB
    with SimulatedTpu(curves, clock, V4) as server:
        source = replace(backend(server, clock, tmp_path, TPU_ACCELERATOR_TYPE="v4-2"), deadline_s=1).open()[0]
        with pytest.raises(ReadError, match="does not answer: no answer within 1 s"):
            source.read()


@pytest.mark.parametrize("address", ["localhost", "localhost:metrics", "a" * 80 + ":1", ""])
def test_an_address_that_cannot_be_one_is_an_error(address: str, tmp_path: Path) -> None:
    source = TpuBackend(address, tmp_path, {"TPU_ACCELERATOR_TYPE": "v4-2"}).open()[0]
    with pytest.raises(ReadError, match="does not answer"):
        source.read()
