"""What is counted: nothing twice, only what is used, and hardware that other packages bring."""

import io
import json
import os
import subprocess
import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from rich.console import Console

from ml_energy_callbacks import EnergyMeter, LoopDescription, load_record
from ml_energy_callbacks.backends.discovery import discover
from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.exceptions import BackendUnavailableError, ConfigurationError
from ml_energy_callbacks.fleet.rows import make_row
from ml_energy_callbacks.readings import Device, Kind, Source
from ml_energy_callbacks.record.merge import add_records
from ml_energy_callbacks.report import render, summary
from ml_energy_callbacks.testing import PowerCurve, ScriptedBackend, ScriptedCounter, ScriptedPower

PLAIN = Device(
    id="a:0",
    name="A device",
    kind="gpu",
    backend="a",
    method="power_integration",
    provenance="measured",
    relative_uncertainty=0.1,
)


@dataclass(slots=True)
class Closing(ScriptedPower):
    """A source that tells whether it was closed."""

    closed: bool = False

    def close(self) -> None:
        self.closed = True


def source(name: str, **changes: object) -> Closing:
    device = replace(PLAIN, id=name, backend=name.partition(":")[0], **changes)
    return Closing(PowerCurve(monotonic_clock, 100), monotonic_clock, device=device)


def ids(*sources: Closing, **options: object) -> list[str]:
    names = dict.fromkeys(one.device.backend for one in sources)
    backends = [ScriptedBackend([one for one in sources if one.device.backend == name], name=name) for name in names]
    found = discover(backends=backends, **options)
    for one in sources:
        assert one.closed is (one not in found.sources)
    return [one.device.id for one in found.sources]


def test_what_a_superchips_counter_covers_is_not_added_to_it() -> None:
    module = source("nvml:GPU-0", covers=("cpu", "dram"))
    processor, model = (
        source("arm:0", kind="cpu"),
        source("memory-model:0", kind="dram", method="model", provenance="estimated"),
    )
    found = discover(backends=[ScriptedBackend([module, processor, model])])
    assert [one.device.id for one in found.sources] == ["nvml:GPU-0"]
    assert found.left_out == {"arm:0": "arm:0 is included in the figure of nvml:GPU-0."}
    # Alone it counts; and beside the module where the user wants just these two, it still does not.
    assert ids(source("arm:0", kind="cpu")) == ["arm:0"]


def test_what_a_superchips_counter_covers_is_on_its_own_node_alone() -> None:
    modules = [source(f"nvml:GPU-{node}", covers=("cpu",), node=node) for node in (0, 2)]
    sockets = [source(f"arm-power:socket-{node}", kind="cpu", node=node) for node in range(4)]
    model = source("cpu-model:0", kind="cpu", method="model", provenance="estimated")
    assert ids(*modules, *sockets, model) == ["nvml:GPU-0", "nvml:GPU-2", "arm-power:socket-1", "arm-power:socket-3"]
    # Where one does not say where it is, it may be anywhere.
    assert ids(source("nvml:GPU-0", covers=("cpu",)), source("arm-power:socket-1", kind="cpu", node=1)) == ["nvml:GPU-0"]


def test_of_two_that_hold_each_other_the_first_counts() -> None:
    assert ids(source("a:0", kind="cpu", covers=("cpu",)), source("b:0", kind="cpu", covers=("cpu",))) == ["a:0"]


def test_a_vendors_own_estimate_goes_before_a_model() -> None:
    vendors, model = source("apple:cpu", kind="cpu", provenance="estimated"), source("cpu-model:0", kind="cpu", method="model")
    assert ids(vendors, model) == ["apple:cpu"]


def test_a_meter_of_the_whole_machine_measures_no_part_of_it() -> None:
    plug = source("plug:0", kind="board", whole_machine=True)
    model = source("cpu-model:0", kind="cpu", method="model", provenance="estimated")
    assert ids(plug, model) == ["plug:0", "cpu-model:0"]


def test_the_gpus_that_the_job_runs_on_are_counted_alone() -> None:
    gpus = [source(f"nvml:GPU-{i:04d}") for i in range(4)]
    processor = source("rapl:package-0", kind="cpu")
    assert ids(*gpus, processor, gpus=["0001", "GPU-0003"]) == ["nvml:GPU-0001", "nvml:GPU-0003", "rapl:package-0"]
    assert ids(*gpus, processor, gpus=[]) == ["rapl:package-0"]


def test_a_gpu_that_the_next_loop_does_not_run_on_is_not_missed() -> None:
    meter = EnergyMeter(backends=[ScriptedBackend([source(f"nvml:GPU-000{i}", cuda=i) for i in range(2)])], verbose=False)
    for gpus in (["cuda:0", "cuda:1"], ["cuda:1"]):
        meter.start(LoopDescription(gpus=gpus))
        meter.stop()
    assert [device.id for device in meter.record.devices] == ["nvml:GPU-0000", "nvml:GPU-0001"]
    assert not any("any more" in warning for warning in meter.record.warnings)


def test_where_the_jobs_gpus_are_not_known_by_their_ids_all_are_counted() -> None:
    assert ids(source("nvml:GPU-0001"), gpus=["something else"]) == ["nvml:GPU-0001"]
    assert ids(source("nvml:GPU-0001"), gpus=None) == ["nvml:GPU-0001"]


def test_a_choice_by_the_user_goes_before_the_jobs_gpus() -> None:
    gpus = [source(f"nvml:GPU-{i:04d}") for i in range(2)]
    assert ids(*gpus, devices=["nvml:*"], gpus=["0001"]) == ["nvml:GPU-0000", "nvml:GPU-0001"]


def test_a_device_that_is_not_there_is_refused_with_what_is_there_and_all_are_closed() -> None:
    here = source("a:0")
    with pytest.raises(ConfigurationError, match=r"No device matches 'b:\*'; available: a:0"):
        discover(["a:0", "b:*"], backends=[ScriptedBackend([here])])
    assert here.closed


def test_hardware_that_is_here_and_cannot_be_read_is_told_at_the_start_unless_the_user_chose_others() -> None:
    class Locked:
        name = "locked"

        def open(self) -> list[ScriptedCounter]:
            msg = "The counter is closed to this user."
            raise BackendUnavailableError(msg, "Open it with `sudo chmod a+r`.", present=True)

    backends = [Locked(), ScriptedBackend([source("a:0")], name="a")]
    told = "Not measured: The counter is closed to this user. Open it with `sudo chmod a+r`."
    for devices, expected in (("auto", True), (["a:*"], False)):
        with EnergyMeter(devices=devices, backends=backends, carbon_intensity=1, verbose=False) as meter:
            pass
        assert (told in meter.record.warnings) is expected


def test_a_wrong_setting_of_a_backend_is_refused_and_what_was_open_is_closed() -> None:
    class Wrong:
        name = "wrong"

        def open(self) -> list[ScriptedCounter]:
            msg = "ML_ENERGY_WRONG is 'x'; give watts."
            raise ConfigurationError(msg)

    here = source("a:0")
    with pytest.raises(ConfigurationError, match="give watts"):
        discover(backends=[ScriptedBackend([here]), Wrong()])
    assert here.closed


MODULE = """
from ml_energy_callbacks.exceptions import BackendUnavailableError
from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.testing import PowerCurve, ScriptedBackend, ScriptedPower
from ml_energy_callbacks.readings import Device

def make():
    device = Device(id="abacus:0", name="Abacus", kind="soc", backend="abacus", method="power_integration",
                    provenance="measured", relative_uncertainty=0.02)
    return ScriptedBackend([ScriptedPower(PowerCurve(monotonic_clock, 5), monotonic_clock, device=device)], name="abacus")

def broken():
    raise RuntimeError("no beads")
"""


def test_a_package_brings_its_backend_by_an_entry_point_and_a_broken_one_harms_nobody(tmp_path: Path) -> None:
    (tmp_path / "abacus.py").write_text(MODULE)
    info = tmp_path / "abacus-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: abacus\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[ml_energy_callbacks.backends]\nabacus = abacus:make\nbroken = abacus:broken\nabsent = nowhere:make\n"
    )
    command = [sys.executable, "-c", "from ml_energy_callbacks.cli import main; main()", "doctor", "--json"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    shown = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    facts = json.loads(shown.stdout)
    (abacus,) = (device for device in facts["devices"] if device["id"] == "abacus:0")
    assert abacus["watts"] == pytest.approx(5, rel=0.1)
    reasons = {entry["name"]: entry["reason"] for entry in facts["unmeasured"]}
    assert "no beads" in reasons["broken"]
    assert "nowhere" in reasons["absent"]


def test_a_backend_that_found_nothing_keeps_nothing_of_its_callers_alive() -> None:
    class Absent:
        name = "absent"

        def open(self) -> Sequence[Source]:
            msg = "There is no such hardware."
            raise BackendUnavailableError(msg)

    class Model:
        pass

    def train() -> "tuple[weakref.ref[Model], EnergyMeter]":
        model = Model()
        with EnergyMeter(backends=[Absent()], verbose=False) as meter:
            pass
        return weakref.ref(model), meter

    model, meter = train()
    assert model() is None
    assert str(meter.discovery.unavailable["absent"]) == "There is no such hardware."


@pytest.mark.parametrize(
    ("accelerator", "found", "lacks"),
    [
        ("gpu", [], True),
        ("gpu", [source("nvml:GPU-0001")], False),
        ("gpu", [source("jetson:VDD_IN", kind="soc", covers=("cpu", "gpu", "dram"))], False),
        ("gpu", [source("plug:desk", kind="board", covers=("gpu",), whole_machine=True)], True),
        ("tpu", [source("nvml:GPU-0001")], True),
        (None, [], False),
    ],
    ids=["no device", "GPU", "whole chip", "plug", "other kind", "processor alone"],
)
def test_a_loop_on_a_gpu_that_cannot_be_read_says_so(
    accelerator: Kind | None, found: list[Closing], *, lacks: bool, tmp_path: Path
) -> None:
    sources = [source("rapl:package-0", kind="cpu"), *found]
    meter = EnergyMeter(backends=[ScriptedBackend(sources)], carbon_intensity=1, output_dir=tmp_path, verbose=False)
    meter.start(LoopDescription(accelerator=accelerator))
    live = meter.totals()
    meter.stop()
    record = load_record(tmp_path)
    assert any("can be read on this machine: its energy is missing" in warning for warning in record.warnings) == lacks
    assert record.total.lower_bound == lacks
    assert live.get("energy/total/lower_bound") == (1.0 if lacks else None)
    assert ("at least" in summary(record)) == lacks
    assert make_row(record, "").incomplete == lacks
    text = io.StringIO()
    Console(file=text, width=200).print(render(record))
    assert ("≥" in text.getvalue()) == lacks


def test_one_of_two_gpus_that_cannot_be_read_is_named() -> None:
    devices = [source("nvml:GPU-0001"), source("rapl:package-0", kind="cpu")]
    meter = EnergyMeter(backends=[ScriptedBackend(devices)], carbon_intensity=1, verbose=False)
    meter.start(LoopDescription(accelerator="gpu", gpus=["0001", "0002"]))
    meter.stop()
    assert any("of which 0002 cannot be read" in warning for warning in meter.record.warnings)
    assert meter.record.total.lower_bound


def test_devices_that_the_user_chose_lack_none() -> None:
    devices = [source("rapl:package-0", kind="cpu")]
    meter = EnergyMeter(backends=[ScriptedBackend(devices, name="rapl")], devices=["rapl:*"], carbon_intensity=1, verbose=False)
    meter.start(LoopDescription(accelerator="gpu"))
    meter.stop()
    assert not meter.record.total.lower_bound
    assert not meter.record.warnings


@pytest.mark.parametrize("first", [True, False])
def test_a_run_whose_one_part_is_incomplete_is_a_lower_bound(*, first: bool) -> None:
    records = []
    for accelerator in ("gpu", None) if first else (None, "gpu"):
        meter = EnergyMeter(backends=[ScriptedBackend([source("rapl:0", kind="cpu")])], carbon_intensity=1, verbose=False)
        meter.start(LoopDescription(accelerator=accelerator))
        meter.stop()
        records.append(meter.record)
    assert add_records(*records).total.lower_bound
