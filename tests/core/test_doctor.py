"""`ml-energy doctor` as a command: what can be measured, how well, and what to do about the rest."""

import io
import json
import os
import re
import signal
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from command import COMMAND, ml_energy
from lateness import Lateness
from rich.console import Console

from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.doctor import SECONDS, Diagnosis, Examined, Unmeasured, live_watts, render
from ml_energy_callbacks.testing import PowerCurve, ScriptedBackend, ScriptedPower
from ml_energy_callbacks.testing.nvml import SimulatedDriver

run = partial(ml_energy, "doctor")


@pytest.fixture
def gpus(driver: SimulatedDriver) -> None:
    """A machine with two simulated GPUs."""
    driver.start(2, watts=120)


def facts(environment: dict[str, str] | None = None) -> dict[str, Any]:
    shown = run("--json", environment=environment)
    assert shown.returncode == 0, shown.stderr
    found: dict[str, Any] = json.loads(shown.stdout)
    return found


def test_gpus_are_told_with_their_power_their_refresh_and_how_sure_that_is(gpus: None) -> None:
    devices = {device["id"]: device for device in facts()["devices"]}
    nvml = [device for name, device in devices.items() if name.startswith("nvml:")]
    assert len(nvml) == 2
    for device in nvml:
        assert device["watts"] == pytest.approx(120, rel=0.05)
        assert (device["method"], device["provenance"]) == ("energy_counter", "measured")
        assert device["refresh"] == "regular"
        assert device["update_period_s"] == pytest.approx(0.1, rel=0.02)
        assert device["relative_uncertainty"] == 0.1
        assert device["cross_check"] == pytest.approx(0, abs=0.1)


def test_what_is_not_measured_has_its_reason_and_its_fix() -> None:
    entries = {entry["name"]: entry for entry in facts()["unmeasured"]}
    assert "libnvidia-ml.so.1" in entries["nvml"]["reason"]
    assert "--gpus all" in entries["nvml"]["fix"]
    assert all(entry["reason"].endswith(".") for entry in entries.values())


def test_hardware_that_is_here_and_cannot_be_read_comes_first() -> None:
    shown = run("--all", environment={"ML_ENERGY_PLUGS": "shelly://127.0.0.1:9"}, columns=100)  # the port of "discard"
    here, absent = shown.stdout.index("Present, but not measured"), shown.stdout.index("Not present")
    assert here < shown.stdout.index("127.0.0.1:9 ") < absent < shown.stdout.index("libnvidia-ml.so.1")
    entries = {entry["name"]: entry for entry in facts({"ML_ENERGY_PLUGS": "shelly://127.0.0.1:9"})["unmeasured"]}
    assert entries["plug"]["present"]
    assert not entries["nvml"]["present"]


def test_what_is_in_brackets_is_shown() -> None:
    """As the extra of a package to install, or a plug's address."""
    shown = run(environment={"ML_ENERGY_PLUGS": "shelly://[fd00::1]:9"}, columns=200)
    assert "The plug [fd00::1]:9 " in shown.stdout


def test_the_table_fits_a_terminal_and_says_the_same(gpus: None) -> None:
    with Lateness() as late:
        shown = run()
    assert shown.returncode == 0
    assert max(map(len, shown.stdout.splitlines())) <= 80
    first = " ".join(shown.stdout.split())
    assert first.startswith("Energy is measured for 2 GPUs, and estimated for ")
    for expected in ("Counted in every total", "measured ±10 %", "are not present: ml-energy doctor --all"):
        assert expected in first
    assert "Not present" not in shown.stdout
    periods = [float(text) for text in re.findall(r"every ([\d.]+) ms", shown.stdout)]
    assert periods == [pytest.approx(100, rel=0.005 + 2 * late.seconds / SECONDS)] * 2  # from the first to the last refresh


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_the_doctor_says_first_what_the_machine_can_do(columns: int) -> None:
    shown = run("--all", columns=columns)
    assert max(map(len, shown.stdout.splitlines())) <= columns
    words = " ".join(shown.stdout.split())
    assert re.match(r"Energy is estimated ±\d+ %: (a virtual machine without counters|no counter of this machine) ?", words)
    assert "To measure what is estimated, " in words
    assert "Not present" in words


def a_device(**facts: Any) -> Examined:
    known: dict[str, Any] = {
        "id": "nvml:a",
        "name": "[red]<b>\x1b[31m",
        "kind": "gpu",
        "backend": "nvml",
        "method": "energy_counter",
        "provenance": "measured",
        "relative_uncertainty": 0.05,
        "update_period_s": 0.1,
        "joules": 1.0,
        "missing_s": 0.0,
        "watts": 100.0,
        "whole_machine": False,
    }
    return Examined(**{**known, **facts})


@pytest.mark.parametrize(
    ("devices", "first"),
    [
        ([], "Energy is unknown: no device of this machine can be read."),
        ([a_device(), a_device(id="nvml:b")], "Energy is measured ±5 %: 2 GPUs."),
        (
            [a_device(), a_device(id="cpu", kind="cpu", provenance="estimated", method="model")],
            "Energy is measured for GPU, and estimated for processor: ±5 % in total.",
        ),
        (
            [a_device(kind="cpu", provenance="estimated", method="model")],
            "Energy is estimated ±5 %: a virtual machine without counters.",
        ),
    ],
)
def test_the_first_sentence_is_a_verdict(devices: list[Examined], first: str) -> None:
    broken = Unmeasured(name="rapl", reason="The counters are for root alone.", fix="Run `sudo chmod o+r ...`.", present=True)
    found = Diagnosis(devices=devices, unmeasured=[broken], notes=[], relative_uncertainty=0.05, virtual=True)
    console = Console(width=200, file=io.StringIO(), markup=False)
    console.print(render(found))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0] == first
    assert lines[1] == "To do: The counters are for root alone. Run `sudo chmod o+r ...`."
    assert "\x1b" not in console.file.getvalue()  # type: ignore[attr-defined]


def test_one_device_can_be_asked_for_and_one_that_is_not_there_is_a_sentence(gpus: None) -> None:
    shown = run("--json", "nvml:GPU-00000001*")
    assert [device["id"] for device in json.loads(shown.stdout)["devices"]] == ["nvml:GPU-00000001-0000-0000-0000-000000000000"]
    wrong = run("tpu:7")
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1
    assert "No device matches 'tpu:7'" in wrong.stderr


def test_what_cannot_be_read_now_has_no_watts() -> None:
    power = ScriptedPower(PowerCurve(monotonic_clock, 100), monotonic_clock)
    watching = live_watts(backends=[ScriptedBackend([power])], every_s=0.5)
    next(watching)
    assert next(watching)["scripted:power"] == pytest.approx(100, rel=0.05)
    power.failing = True
    next(watching)
    assert next(watching)["scripted:power"] is None
    watching.close()


def test_watching_shows_each_devices_power_until_it_is_interrupted(driver_library: SimulatedDriver, tmp_path: Path) -> None:
    environment = os.environ | driver_library.environment(2, 120)
    with (tmp_path / "lines").open("w+") as lines:
        watching = subprocess.Popen(
            [*COMMAND, "doctor", "--watch", "--json", "nvml:*"], stdout=lines, stderr=subprocess.PIPE, env=environment
        )
        end = time.monotonic() + 30
        while (tmp_path / "lines").read_text().count("\n") < 2 and time.monotonic() < end:
            time.sleep(0.1)
        watching.send_signal(signal.SIGINT)
        _, errors = watching.communicate(timeout=20)
    assert (watching.returncode, errors) == (0, b"")
    first, *_ = (tmp_path / "lines").read_text().splitlines()
    assert json.loads(first) == {
        f"nvml:GPU-0000000{i}-0000-0000-0000-000000000000": pytest.approx(120, rel=0.1) for i in range(2)
    }
