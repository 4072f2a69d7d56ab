"""The demonstration, as a newcomer runs it, and this backend's example."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from forked import Warm
from frameworks.keras_loops import on_one_backend

from ml_energy_callbacks import load_record

BACKEND = keras.backend.backend()
ROOT = Path(__file__).parents[2]
COMMAND = "from ml_energy_callbacks.cli import main; main()"


# In a fresh process in which TensorFlow is installed.
EXAMPLE = """
import runpy
import sys

runpy.run_path(sys.argv[1], run_name="__main__")
print("TensorFlow is loaded" if "tensorflow" in sys.modules else "TensorFlow is not loaded")
"""


def run(folder: Path, *command: str, status: int = 0, **variables: str) -> str:
    """Run Python in a process of its own."""
    environment = {**os.environ, **variables}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout if status == 0 else done.stderr


@pytest.mark.xdist_group("programs")
def test_the_demonstration_trains_and_shows_what_it_used(tmp_path: Path, program: Warm) -> None:
    command = tmp_path / "command.py"
    command.write_text(COMMAND, encoding="utf-8")
    arguments = (command, "demo", "--framework", "keras", "--logdir", "logs", "--epochs")
    text = " ".join(program.run(*arguments, 2, folder=tmp_path).output.split())
    for word in ("Energy ", "Train ", "Valid ", "Other ", "Record ", "tensorboard --logdir logs", "Test accuracy"):
        assert word in text
    record = load_record(tmp_path / "logs" / "demo" / "keras_0")
    samples = {name: stage.samples for name, stage in record.stages.items() if name != "other"}
    assert samples == {"train": 2 * 1258, "validate": 2 * 270, "test": 269, "predict": 1797}
    assert record.run.framework.startswith(f"keras {keras.version()} ({BACKEND}")
    assert "data_wait" in record.stages["train"].phases
    program.run(*arguments, 1, folder=tmp_path)
    assert load_record(tmp_path / "logs" / "demo" / "keras_1").run.id != record.run.id


@on_one_backend
def test_a_backend_that_cannot_train_gets_one_sentence(tmp_path: Path) -> None:
    said = run(tmp_path, "-c", COMMAND, "demo", "--framework", "keras", status=2, KERAS_BACKEND="numpy")
    assert said == "ml-energy: KERAS_BACKEND is 'numpy'; the demonstration supports tensorflow, jax, torch.\n"


def test_the_backends_example_runs_and_loads_no_other_backend(tmp_path: Path) -> None:
    said = run(tmp_path, "-c", EXAMPLE, str(ROOT / "examples" / f"keras_{BACKEND}_digits.py"))
    assert "J per sample" in said
    assert list(tmp_path.glob("energy_logs/**/energy.json"))
    assert said.splitlines()[-1] == f"TensorFlow is {'not ' * (BACKEND != 'tensorflow')}loaded"
