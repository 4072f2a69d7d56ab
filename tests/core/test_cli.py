"""The command `ml-energy`, as a process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ml_energy_callbacks import EnergyMeter

COMMAND = [sys.executable, "-c", "from ml_energy_callbacks.cli import main; main()"]


def ml_energy(*args: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*COMMAND, *args], capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with EnergyMeter(output_dir=tmp_path, verbose=False) as meter, meter.stage("train"), meter.batch(1000):
        pass
    return tmp_path


def test_report_shows_the_table(folder: Path) -> None:
    done = ml_energy("report", str(folder))
    assert done.returncode == 0, done.stderr
    for word in ("train", "total", "Wh/1000", "gCO2e", "estimated", "Note: Nobody named a place"):
        assert word in " ".join(done.stdout.split())


def test_report_as_json_is_the_record(folder: Path) -> None:
    done = ml_energy("report", str(folder), "--json")
    assert json.loads(done.stdout) == json.loads((folder / "energy.json").read_text())


def test_what_a_user_gets_wrong_is_one_sentence_and_status_2(tmp_path: Path) -> None:
    done = ml_energy("report", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ml-energy: There is no run record at")
    assert len(done.stderr.splitlines()) == 1


def test_version() -> None:
    assert ml_energy("--version").stdout.startswith("ml-energy 0.")


def test_the_demonstration_without_its_packages_names_what_to_install(tmp_path: Path) -> None:
    try:
        import pytorch_lightning  # noqa: F401, PLC0415
    except ImportError:
        done = ml_energy("demo", "--logdir", str(tmp_path))
        assert done.returncode == 2
        assert "pip install 'ml-energy-callbacks[demo]'" in done.stderr
    else:
        pytest.skip("this environment has the extras; the core environments have not")
