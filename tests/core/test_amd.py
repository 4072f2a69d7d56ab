"""AMD GPUs through a stand-in for the module amdsmi."""

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from ml_energy_callbacks import EnergyMeter
from ml_energy_callbacks.attribution.counters import EnergyCounter
from ml_energy_callbacks.backends.amd import AmdBackend
from ml_energy_callbacks.backends.cpu_model import CpuModelBackend
from ml_energy_callbacks.backends.discovery import discover
from ml_energy_callbacks.backends.rapl import RaplBackend
from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.exceptions import BackendUnavailableError, ReadError
from ml_energy_callbacks.readings import PowerSource, Source
from ml_energy_callbacks.testing import Curve, ManualClock, SineCurve, SquareCurve
from ml_energy_callbacks.testing.amdsmi import (
    DRIVER_NOT_LOADED,
    NO_PERM,
    NOT_FOUND,
    NOT_SUPPORTED,
    RESOLUTION_UJ,
    SimulatedAmd,
    SimulatedAmdGpu,
)
from ml_energy_callbacks.testing.conformance import BackendConformance, Bench
from ml_energy_callbacks.testing.powercap import SimulatedPowercap

FLAT = SquareCurve(200, 200, 1)
MI250 = {"name": "AMD Instinct MI250X", "device_id": 0x740C, "graphics": "gfx90a", "power": "average_socket_power"}


@dataclass
class World:
    """A machine with AMD GPUs."""

    root: Path
    clock: ManualClock = field(default_factory=ManualClock)
    running: list[SimulatedAmd] = field(default_factory=list)

    def start(
        self,
        *gpus: SimulatedAmdGpu,
        tells_order: bool = True,
        counter_key: str = "energy_accumulator",
        import_error: Exception | None = None,
    ) -> SimulatedAmd:
        """Show these GPUs, or one of 200 W."""
        found = gpus or (SimulatedAmdGpu(FLAT),)
        simulation = SimulatedAmd(self.clock, found, self.root, tells_order=tells_order, counter_key=counter_key)
        simulation.import_error = import_error
        self.running.append(simulation.__enter__())
        return simulation

    def open(self, **environ: str) -> Sequence[Source]:
        """Open the GPUs that are visible."""
        return AmdBackend(self.root, environ).open()

    def seen(self, **environ: str) -> list[int]:
        """Return which GPUs are opened, by their unique ids, and close them."""
        sources = self.open(**environ)
        for source in sources:
            source.close()
        return [int(source.device.id.rpartition("-")[2], 16) for source in sources]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A machine without GPUs, until the test starts some."""
    world = World(tmp_path)
    yield world
    for simulation in reversed(world.running):
        simulation.__exit__(None, None, None)


def four(**common: object) -> list[SimulatedAmdGpu]:
    """Return four GPUs whose order on the bus (1, 2, 3, 4) is not ROCm's (3, 1, 4, 2)."""
    nodes = {1: 5, 2: 7, 3: 4, 4: 6}
    return [
        SimulatedAmdGpu(FLAT, place=f"0000:{i:02x}:00.0", unique_id=i, node=nodes[i], **common)  # type: ignore[arg-type]
        for i in nodes
    ]


class TestAmd(BackendConformance):
    """What is promised of every backend."""

    @pytest.fixture
    def bench(self, world: World, tmp_path: Path) -> Bench:
        curves: dict[str, Curve] = {}
        gpus = [
            SimulatedAmdGpu(SquareCurve(90, 420, 0.5), place="0000:03:00.0", unique_id=1),
            SimulatedAmdGpu(SineCurve(200, 80, 2), place="0000:04:00.0", unique_id=2, counter_bits=32, start_joules=65_000),
            SimulatedAmdGpu(SineCurve(150, 50, 2), place="0000:05:00.0", unique_id=3, counter="refused"),
        ]
        simulation = world.start(*gpus)

        def truth(device_id: str) -> Curve:
            return curves[device_id]

        backend = AmdBackend(tmp_path, {})
        for gpu, source in zip(gpus, backend.open(), strict=True):
            curves[source.device.id] = gpu.curve
            source.close()

        def fault(status: int) -> Callable[[], None]:
            def set_all() -> None:
                for gpu in simulation.gpus:
                    gpu.error = status

            return set_all

        return Bench(
            backend,
            world.clock,
            truth,
            absent=AmdBackend(tmp_path / "another machine", {}),
            fail=fault(NOT_FOUND),
            mend=fault(0),
            refresh_s=0.001,
            resolution=1.0,
        )


@pytest.mark.parametrize("counter_key", ["energy_accumulator", "power"])
def test_the_counter_is_multiplied_by_its_resolution(world: World, counter_key: str) -> None:
    world.start(SimulatedAmdGpu(FLAT, start_joules=500_000), counter_key=counter_key)
    (gpu,) = world.open()
    before = gpu.read()
    assert before == pytest.approx(500_000 + FLAT.joules(world.clock()), abs=1e-3)
    world.clock.advance(3)
    assert gpu.read() - before == pytest.approx(600, abs=1e-3)
    assert gpu.device.method == "energy_counter"
    assert gpu.device.wrap_joules is None
    gpu.close()


@pytest.mark.parametrize("bits", [32, 64])
def test_a_counter_of_32_bits_wraps_and_a_young_one_of_64_goes_on(world: World, bits: int) -> None:
    world.start(SimulatedAmdGpu(FLAT, counter_bits=bits, start_joules=65_000))
    (gpu,) = world.open()
    assert gpu.device.wrap_joules == pytest.approx(2**32 * RESOLUTION_UJ / 1e6)
    counter = EnergyCounter(gpu.device.wrap_joules)
    counter.advance(world.clock(), gpu.read())
    for _ in range(1000):
        world.clock.advance(1)
        counter.advance(world.clock(), gpu.read())
    assert counter.joules == pytest.approx(200_000, rel=1e-6)
    gpu.close()


@pytest.mark.parametrize("key", ["current_socket_power", "average_socket_power", "socket_power"])
def test_power_is_told_beside_the_counter_by_whichever_key_holds_it(world: World, key: str) -> None:
    simulation = world.start(SimulatedAmdGpu(FLAT, power=key))
    (gpu,) = world.open()
    assert isinstance(gpu, PowerSource)
    assert gpu.watts() == 200
    simulation.gpus[0].power = None
    with pytest.raises(ReadError, match="no power"):
        gpu.watts()
    gpu.close()
    with pytest.raises(ReadError, match="closed"):
        gpu.watts()


def test_a_frozen_or_wrong_counter_shows_against_the_power(world: World) -> None:
    world.start(
        SimulatedAmdGpu(FLAT, place="0000:03:00.0", unique_id=1, counter="frozen"),
        SimulatedAmdGpu(FLAT, place="0000:04:00.0", unique_id=2, counter_rate=1.5),
    )
    frozen, wrong = sources = world.open()
    before = [source.read() for source in sources]
    world.clock.advance(2)
    assert frozen.read() == before[0]
    assert wrong.read() - before[1] == pytest.approx(600, abs=0.1)
    assert [source.watts() for source in sources if isinstance(source, PowerSource)] == [200, 200]
    for source in sources:
        source.close()


@pytest.mark.parametrize(("counter", "bits"), [("absent", 64), ("absent", 32), ("refused", 64)])
def test_without_a_counter_power_is_integrated(world: World, counter: Literal["absent", "refused"], bits: int) -> None:
    world.start(SimulatedAmdGpu(FLAT, counter=counter, counter_bits=bits))
    (gpu,) = world.open()
    assert gpu.device.method == "power_integration"
    assert gpu.device.wrap_joules is None
    assert gpu.read() == 200
    assert not isinstance(gpu, PowerSource)
    gpu.close()


def test_a_gpu_that_tells_nothing_is_no_device(world: World) -> None:
    simulation = world.start(SimulatedAmdGpu(FLAT, counter="absent", power=None))
    with pytest.raises(BackendUnavailableError, match="virtual machines do not") as caught:
        world.open()
    assert caught.value.present
    simulation.gpus[0].error = NOT_SUPPORTED
    with pytest.raises(BackendUnavailableError):
        world.open()
    assert simulation.starts == simulation.stops


def test_a_counter_that_falls_silent_is_a_failed_read_never_a_zero(world: World) -> None:
    simulation = world.start()
    (gpu,) = world.open()
    simulation.gpus[0].counter = "silent"
    with pytest.raises(ReadError, match="reports no energy"):
        gpu.read()
    gpu.close()


@pytest.mark.parametrize(("environ", "shared"), [({}, False), ({"HIP_VISIBLE_DEVICES": "1"}, True)])
def test_an_mi250s_two_dies_are_one_device(world: World, environ: dict[str, str], shared: bool) -> None:  # noqa: FBT001
    world.start(
        SimulatedAmdGpu(FLAT, place="0000:c1:00.0", unique_id=1, **MI250),  # type: ignore[arg-type]
        SimulatedAmdGpu(FLAT, place="0000:c6:00.0", unique_id=2, counter="silent", **MI250),  # type: ignore[arg-type]
        SimulatedAmdGpu(FLAT, place="0000:c9:00.0", unique_id=3, counter="silent", **MI250),  # type: ignore[arg-type]
        SimulatedAmdGpu(FLAT, place="0000:ce:00.0", unique_id=4, **MI250),  # type: ignore[arg-type]
    )
    cards = world.open(**environ)
    # The second die alone is visible in the second case, and the first one tells its energy.
    assert [card.device.id[-12:] for card in cards] == (["000000000001"] if environ else ["000000000001", "000000000004"])
    assert {card.device.shared for card in cards} == {shared}
    assert "2 GPUs" in (cards[0].device.note or "")
    for card in cards:
        card.close()


def test_dies_that_each_tell_their_energy_stay_two_devices(world: World) -> None:
    world.start(
        SimulatedAmdGpu(FLAT, place="0000:c1:00.0", unique_id=1, **MI250),  # type: ignore[arg-type]
        SimulatedAmdGpu(FLAT, place="0000:c6:00.0", unique_id=2, **MI250),  # type: ignore[arg-type]
    )
    dies = world.open()
    assert [die.device.note for die in dies] == [None, None]
    for die in dies:
        die.close()


def test_a_gpu_that_tells_nothing_is_not_taken_for_another_ones_die(world: World) -> None:
    world.start(
        SimulatedAmdGpu(FLAT, place="0000:03:00.0", unique_id=1),
        SimulatedAmdGpu(FLAT, place="0000:04:00.0", unique_id=2, counter="refused", power=None),
    )
    (gpu,) = world.open()
    assert gpu.device.missing == "The GPU at 0000:04:00.0 reports neither energy nor power: its energy is not included."
    assert not gpu.device.shared
    gpu.close()
    (gpu,) = world.open(HIP_VISIBLE_DEVICES="0")
    assert gpu.device.missing is None
    gpu.close()
    world.running[-1].gpus[1].graphics = "gfx1036"  # RAPL includes its energy
    (gpu,) = world.open()
    assert gpu.device.missing is None
    gpu.close()
    world.running[-1].gpus[1].graphics = "gfx942"
    with pytest.raises(BackendUnavailableError) as caught:
        world.open(HIP_VISIBLE_DEVICES="1")
    assert caught.value.present


def test_the_partitions_of_a_gpu_are_counted_once(world: World) -> None:
    partitions = [SimulatedAmdGpu(FLAT, place=f"0000:05:00.{i}", unique_id=7, node=i + 1) for i in range(4)]
    for partition in partitions[1:]:
        partition.counter, partition.power = "absent", None
    simulation = world.start(*partitions)
    (gpu,) = world.open()
    assert "4 GPUs" in (gpu.device.note or "")
    assert not gpu.device.shared
    gpu.close()
    for partition in simulation.gpus:  # some releases tell each the energy of the whole
        partition.counter = "counts"
    (gpu,) = world.open(HIP_VISIBLE_DEVICES="2")
    assert gpu.device.shared
    gpu.close()


@pytest.mark.parametrize(
    ("graphics", "device_id", "covers"),
    [("gfx942", 0x74A1, ()), ("gfx942", 0x74A0, ("cpu", "dram")), ("gfx1151", 0x1586, ())],
)
def test_a_processor_in_the_same_package_is_covered(
    world: World, graphics: str, device_id: int, covers: tuple[str, ...]
) -> None:
    world.start(SimulatedAmdGpu(FLAT, graphics=graphics, device_id=device_id))
    (gpu,) = world.open()
    assert gpu.device.covers == covers
    assert gpu.device.kind == ("cpu" if graphics == "gfx1151" else "gpu")
    gpu.close()


def rapl(tmp_path: Path) -> tuple[SimulatedPowercap, RaplBackend]:
    """Return a processor's own counter, and the backend that reads it."""
    tree = SimulatedPowercap(tmp_path / "powercap", monotonic_clock)
    tree.package(SquareCurve(90, 90, 1))
    return tree, RaplBackend(tree.files.root, tmp_path / "none", tmp_path / "none", tmp_path / "none")


@pytest.mark.parametrize(("readable", "expected"), [(True, "rapl:package-0"), (False, "amd:0000:03:00.0")])
def test_an_apus_power_is_the_processors_where_rapl_does_not_tell_it(
    tmp_path: Path,
    readable: bool,  # noqa: FBT001
    expected: str,
) -> None:
    tree, processor = rapl(tmp_path)
    if not readable:
        tree.hide()
    apu = SimulatedAmdGpu(FLAT, graphics="gfx1151", counter="refused", unique_id=0)
    model = CpuModelBackend(100, proc=tmp_path / "none")
    with SimulatedAmd(monotonic_clock, [apu], tmp_path), tree.files.live():
        found = discover(backends=[AmdBackend(tmp_path, {}), processor, model])
        assert [source.device.id for source in found.sources] == [expected]
        for source in found.sources:
            source.close()
    assert list(found.left_out) == (["amd:0000:03:00.0"] if readable else [])
    assert readable or "whole package" in (found.sources[0].device.note or "")


def test_an_mi300as_counter_holds_its_processors(tmp_path: Path) -> None:
    tree, processor = rapl(tmp_path)
    with SimulatedAmd(monotonic_clock, [SimulatedAmdGpu(FLAT, device_id=0x74A0, unique_id=0)], tmp_path), tree.files.live():
        found = discover(backends=[AmdBackend(tmp_path, {}), processor])
        assert [source.device.id for source in found.sources] == ["amd:0000:03:00.0"]
        for source in found.sources:
            source.close()


@pytest.mark.parametrize("tells_order", [True, False])
@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, [1, 2, 3, 4]),
        ({"HIP_VISIBLE_DEVICES": "0"}, [3]),
        ({"HIP_VISIBLE_DEVICES": "0,3"}, [2, 3]),
        ({"HIP_VISIBLE_DEVICES": "0,9,1"}, [3]),
        ({"HIP_VISIBLE_DEVICES": "0,-1,1"}, [3]),
        ({"HIP_VISIBLE_DEVICES": "0,0,1"}, [1, 3]),
        ({"HIP_VISIBLE_DEVICES": "0, 1"}, [3]),
        ({"HIP_VISIBLE_DEVICES": "GPU-0000000000000002"}, [2]),
        ({"HIP_VISIBLE_DEVICES": "GPU-0000000000000009,0"}, None),
        ({"HIP_VISIBLE_DEVICES": "MIG-1"}, None),
        ({"HIP_VISIBLE_DEVICES": ""}, None),
        ({"HIP_VISIBLE_DEVICES": "", "CUDA_VISIBLE_DEVICES": "0"}, None),
        ({"CUDA_VISIBLE_DEVICES": "1"}, [1]),
        ({"CUDA_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "0"}, [3]),
        ({"ROCR_VISIBLE_DEVICES": "1,0"}, [1, 3]),
        ({"ROCR_VISIBLE_DEVICES": "1, 2"}, [1, 4]),
        ({"ROCR_VISIBLE_DEVICES": "0,0,1"}, [3]),
        ({"ROCR_VISIBLE_DEVICES": "gpu-0000000000000004"}, [4]),
        ({"ROCR_VISIBLE_DEVICES": "GPU-00000000000000,0"}, None),  # fits all of them
        ({"ROCR_VISIBLE_DEVICES": ""}, None),
        ({"ROCR_VISIBLE_DEVICES": "2,1", "HIP_VISIBLE_DEVICES": "0"}, [4]),
        ({"ROCR_VISIBLE_DEVICES": "2,1", "HIP_VISIBLE_DEVICES": "2"}, None),
    ],
)
def test_only_visible_gpus_are_read(
    world: World,
    environ: dict[str, str],
    expected: list[int] | None,
    tells_order: bool,  # noqa: FBT001
) -> None:
    world.start(*four(), tells_order=tells_order)
    if expected is None:
        with pytest.raises(BackendUnavailableError, match="hides every AMD GPU") as caught:
            world.open(**environ)
        assert not caught.value.present
    else:
        assert sorted(world.seen(**environ)) == expected


def test_a_library_that_knows_not_every_gpus_number_is_not_asked_for_the_order(world: World) -> None:
    simulation = world.start(*four())
    asked = simulation.module.amdsmi_get_gpu_enumeration_info

    def some(handle: Any) -> dict[str, Any]:
        info: dict[str, Any] = asked(handle)
        return info | ({"hip_id": "N/A"} if info["drm_card"] == 2 else {})

    vars(simulation.module)["amdsmi_get_gpu_enumeration_info"] = some
    assert world.seen(HIP_VISIBLE_DEVICES="0,3") == [2, 3]


def test_where_rocms_order_is_not_known_all_gpus_are_counted_and_it_is_said(world: World) -> None:
    world.start(*four(), tells_order=False)
    for node in (world.root / "sys/class/kfd/kfd/topology/nodes").iterdir():
        (node / "properties").write_text("garbage\n")
    gpus = world.open(HIP_VISIBLE_DEVICES="1")
    assert len(gpus) == 4
    assert "cannot be identified" in (gpus[0].device.note or "")
    for gpu in gpus:
        gpu.close()


@pytest.mark.parametrize("number", [0, 5])
def test_gpus_without_a_number_of_their_own_are_named_by_their_places(world: World, number: int) -> None:
    world.start(*(SimulatedAmdGpu(FLAT, place=f"0000:{i:02x}:00.0", unique_id=number, name="") for i in (3, 4)))
    gpus = world.open()
    assert [gpu.device.id for gpu in gpus] == ["amd:0000:03:00.0", "amd:0000:04:00.0"]
    assert gpus[0].device.name == "AMD GPU"
    for gpu in gpus:
        gpu.close()


def test_a_gpu_that_is_lost_is_read_again_when_it_is_back(world: World) -> None:
    simulation = world.start(*four())
    lost, other, *rest = gpus = world.open()
    simulation.gpus[0].error = NOT_FOUND
    for _ in range(50):
        with pytest.raises(ReadError):
            lost.read()
        assert other.read() > 0  # though the library is started anew in between
    assert simulation.starts == 3  # after 20 and 40 failures: it takes a while, and the others wait
    simulation.gpus[0].error = 0
    assert lost.read() > 0
    for gpu in (lost, other, *rest):
        gpu.close()
    assert len(gpus) == 4
    assert simulation.starts == simulation.stops > 1


def test_a_reload_of_the_driver_is_survived_by_every_gpu(world: World) -> None:
    simulation = world.start(*four())
    gpus = world.open()
    simulation.reload()
    failures = 0
    for _ in range(30):
        for gpu in gpus:
            try:
                assert gpu.read() < 1e5
            except ReadError:
                failures += 1
    assert 0 < failures <= 4 * 21
    assert all(gpu.read() for gpu in gpus)
    for gpu in gpus:
        gpu.close()


def test_a_library_that_another_part_of_the_program_shut_down_is_started_again(world: World) -> None:
    simulation = world.start()
    (gpu,) = world.open()
    simulation.module.amdsmi_shut_down()
    for _ in range(20):
        with pytest.raises(ReadError, match="32"):
            gpu.read()
    assert gpu.read() > 0
    gpu.close()


def test_a_library_that_cannot_be_started_again_is_a_failed_read(world: World) -> None:
    simulation = world.start()
    (gpu,) = world.open()
    simulation.reload()
    simulation.init_error = DRIVER_NOT_LOADED
    for _ in range(45):
        with pytest.raises(ReadError):
            gpu.read()
    simulation.init_error = 0
    for _ in range(60):
        try:
            assert gpu.read() > 0
            break
        except ReadError:
            continue
    else:
        pytest.fail("never came back")
    gpu.close()


def test_the_library_is_shut_down_with_its_last_user(world: World) -> None:
    simulation = world.start(*four())
    first, second = world.open(), world.open()
    assert simulation.starts == 1
    for gpu in first:
        gpu.close()
        gpu.close()
    assert simulation.stops == 0
    assert all(gpu.read() > 0 for gpu in second)
    for gpu in second:
        gpu.close()
    assert simulation.stops == 1
    with pytest.raises(ReadError, match="closed"):
        second[0].read()


@dataclass
class HeldCurve:
    """A power whose reading waits to be let go."""

    held: bool = False
    entered: threading.Event = field(default_factory=threading.Event)
    let_go: threading.Event = field(default_factory=threading.Event)

    def joules(self, time_ns: int) -> float:
        if self.held:
            self.entered.set()
            assert self.let_go.wait(10)
        return FLAT.joules(time_ns)

    def watts(self, time_ns: int) -> float:
        return FLAT.watts(time_ns)


def test_the_library_is_not_shut_down_while_it_answers(world: World) -> None:
    curve = HeldCurve()
    simulation = world.start(SimulatedAmdGpu(curve))
    (gpu,) = world.open()
    curve.held = True
    with ThreadPoolExecutor(2) as pool:
        reading = pool.submit(gpu.read)
        assert curve.entered.wait(10)
        closing = pool.submit(gpu.close)
        with pytest.raises(TimeoutError):
            closing.result(0.2)
        assert simulation.stops == 0
        curve.let_go.set()
        assert reading.result(10) > 0
        closing.result(10)
    assert simulation.stops == 1


def test_a_counter_without_a_unit_is_none(world: World) -> None:
    simulation = world.start()
    asked = simulation.module.amdsmi_get_energy_count
    vars(simulation.module)["amdsmi_get_energy_count"] = lambda handle: asked(handle) | {"counter_resolution": "N/A"}
    (gpu,) = world.open()
    assert gpu.device.method == "power_integration"
    gpu.close()


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (NO_PERM, r"no permission to use.*render,video"),
        (DRIVER_NOT_LOADED, r"not loaded.*modprobe amdgpu"),
        (18, "cannot be used: .*18"),
    ],
)
def test_why_the_library_cannot_be_used_is_said(world: World, status: int, reason: str) -> None:
    world.start().init_error = status
    with pytest.raises(BackendUnavailableError, match=reason) as caught:
        world.open()
    assert caught.value.present
    assert "\n" not in str(caught.value)


def test_a_library_that_shows_no_gpu_is_told(world: World) -> None:
    world.start().gpus.clear()
    with pytest.raises(BackendUnavailableError, match=r"lists no GPU.*--device /dev/kfd --device /dev/dri") as caught:
        world.open()
    assert caught.value.present


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ModuleNotFoundError("No module named 'amdsmi'", name="amdsmi"), r"not installed.*ml-energy-callbacks\[amd\]"),
        (ModuleNotFoundError("No module named 'yaml'", name="yaml"), r"cannot load.*yaml.*ml-energy-callbacks\[amd\]"),
        (KeyError("libamd_smi.so"), "cannot load.*KeyError.*amd-smi-lib"),
        (OSError("libdrm.so.2: cannot open shared object file"), "cannot load.*libdrm.*amd-smi-lib"),
        (AttributeError("undefined symbol: amdsmi_free_name_value_pairs"), "cannot load.*undefined symbol"),
    ],
)
def test_a_package_that_is_missing_or_broken_is_told_with_the_way_out(world: World, error: Exception, reason: str) -> None:
    world.start(import_error=error)
    with pytest.raises(BackendUnavailableError, match=reason) as caught:
        world.open()
    assert caught.value.present


NOT_INSTALLED = ModuleNotFoundError("No module named 'amdsmi'", name="amdsmi")


@pytest.mark.parametrize(
    ("graphics", "present"),
    [
        (("gfx942",), True),
        (("gfx1036",), False),
        (("gfx90c",), False),
        (("gfx90a",), True),
        (("gfx1103", "gfx1100"), True),
    ],
)
def test_without_the_package_an_apus_energy_is_not_missing(
    world: World,
    graphics: tuple[str, ...],
    present: bool,  # noqa: FBT001
) -> None:
    """RAPL tells it, or says itself that it cannot be read."""
    gpus = [SimulatedAmdGpu(FLAT, place=f"0000:{i:02x}:00.0", graphics=name) for i, name in enumerate(graphics)]
    world.start(*gpus, import_error=NOT_INSTALLED)
    with pytest.raises(BackendUnavailableError, match="not installed") as caught:
        world.open()
    assert caught.value.present == present


@pytest.mark.parametrize("kfd", [True, False])
@pytest.mark.parametrize(("environ", "present"), [({"HIP_VISIBLE_DEVICES": ""}, False), ({"ROCR_VISIBLE_DEVICES": "0"}, True)])
def test_without_the_package_a_hidden_gpu_is_not_missing(
    world: World,
    environ: dict[str, str],
    present: bool,  # noqa: FBT001
    kfd: bool,  # noqa: FBT001
) -> None:
    world.start(import_error=NOT_INSTALLED)
    if not kfd:
        shutil.rmtree(world.root / "sys/class/kfd")
    with pytest.raises(BackendUnavailableError, match="not installed") as caught:
        world.open(**environ)
    assert caught.value.present == present


def test_without_the_package_a_gpu_that_is_hidden_by_its_number_is_not_missing(world: World) -> None:
    gpus = [SimulatedAmdGpu(FLAT, place=f"0000:0{i}:00.0", graphics=name) for i, name in enumerate(("gfx1100", "gfx1036"))]
    world.start(*gpus, import_error=NOT_INSTALLED)
    for number in (0, 1):
        with pytest.raises(BackendUnavailableError, match="not installed") as caught:
            world.open(HIP_VISIBLE_DEVICES=str(number))
        assert caught.value.present == (number == 0)


def test_an_apu_is_told_by_its_processor_where_the_kernel_does_not_tell_the_graphics(world: World) -> None:
    world.start(SimulatedAmdGpu(FLAT, graphics="gfx902"), import_error=NOT_INSTALLED)
    file = world.root / "sys/class/kfd/kfd/topology/nodes/1/properties"
    lines = file.read_text().replace("cpu_cores_count 0", "cpu_cores_count 8").splitlines()
    file.write_text("\n".join(line for line in lines if not line.startswith("gfx")))
    with pytest.raises(BackendUnavailableError) as caught:
        world.open()
    assert not caught.value.present


@pytest.mark.parametrize("graphics", ["gfx942", "gfx1036"])
def test_without_rocm_any_gpu_of_the_driver_is_one_whose_energy_is_missing(world: World, graphics: str) -> None:
    world.start(SimulatedAmdGpu(FLAT, graphics=graphics), import_error=NOT_INSTALLED)
    shutil.rmtree(world.root / "sys/class/kfd")
    with pytest.raises(BackendUnavailableError, match="not installed") as caught:
        world.open()
    assert caught.value.present


def test_a_gpu_of_the_host_that_the_container_may_not_use_is_not_missing(world: World) -> None:
    """The bus shows it, and its node cannot be read."""
    world.start(import_error=NOT_INSTALLED)
    (world.root / "sys/class/kfd/kfd/topology/nodes/1/properties").unlink()
    with pytest.raises(BackendUnavailableError, match="not installed") as caught:
        world.open()
    assert not caught.value.present


def test_a_driver_without_a_device_is_no_gpu(world: World) -> None:
    world.start(import_error=NOT_INSTALLED)
    shutil.rmtree(world.root / "sys/bus/pci/drivers/amdgpu/0000:03:00.0")
    shutil.rmtree(world.root / "sys/class/kfd/kfd/topology/nodes/1")
    (world.root / "sys/module/amdgpu").mkdir(parents=True)
    with pytest.raises(BackendUnavailableError, match="no AMD GPU") as caught:
        world.open()
    assert not caught.value.present


def test_on_a_machine_without_amd_gpus_nothing_is_imported_and_nothing_to_be_installed(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib\n"
        "from ml_energy_callbacks.backends.amd import AmdBackend\n"
        "from ml_energy_callbacks.exceptions import BackendUnavailableError\n"
        "try:\n"
        "    AmdBackend(pathlib.Path(sys.argv[1]), {}).open()\n"
        "except BackendUnavailableError as error:\n"
        "    print(error, error.fix, 'amdsmi' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], check=True, capture_output=True, text=True)
    assert done.stdout == "This machine has no AMD GPU. None False\n"


def test_a_package_that_cannot_be_loaded_is_told(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world.start()
    sys.modules.pop("amdsmi")
    (tmp_path / "amdsmi.py").write_text("print('Unable to find libamd_smi.so')\n{}['libamd_smi.so']\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BackendUnavailableError, match=r"cannot load.*KeyError"):
        world.open()


def test_a_run_in_real_time_gets_the_true_total(tmp_path: Path) -> None:
    curve = SquareCurve(90, 420, 0.2)
    with SimulatedAmd(monotonic_clock, [SimulatedAmdGpu(curve)], tmp_path):
        meter = EnergyMeter(backends=[AmdBackend(tmp_path, {})], carbon_intensity=100, verbose=False)
        with meter:
            time.sleep(1)
    (device,) = meter.record.devices
    assert device.joules == pytest.approx(255 * meter.record.total.seconds, rel=0.1)
    assert device.backend == "amd"


def test_a_gpu_that_does_not_answer_delays_no_other(tmp_path: Path) -> None:
    hangs, release = threading.Event(), threading.Event()

    class Hanging:
        """A curve whose GPU does not answer from when ``hangs`` is set until ``release`` is."""

        def watts(self, time_ns: int) -> float:
            return FLAT.watts(time_ns)

        def joules(self, time_ns: int) -> float:
            if hangs.is_set():
                release.wait(60)
            return FLAT.joules(time_ns)

    gpus = [SimulatedAmdGpu(Hanging(), unique_id=1), SimulatedAmdGpu(FLAT, place="0000:04:00.0", unique_id=2)]
    with SimulatedAmd(monotonic_clock, gpus, tmp_path), ThreadPoolExecutor(1) as pool:
        slow, quick = AmdBackend(tmp_path, {}).open()
        hangs.set()
        reading = pool.submit(slow.read)
        time.sleep(0.05)
        start = time.monotonic()
        assert quick.read() > 0
        assert time.monotonic() - start < 30  # and not 60
        assert not reading.done()
        release.set()
        assert reading.result() > 0
        slow.close()
        quick.close()
