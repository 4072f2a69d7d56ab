"""The demonstration, as a newcomer runs it."""

import subprocess
import sys
from pathlib import Path

from ml_energy_callbacks import load_record


def test_the_demonstration_trains_and_shows_what_it_used(tmp_path: Path) -> None:
    code = "from ml_energy_callbacks.cli import main; main()"
    command = [sys.executable, "-c", code, "demo", "--epochs", "3", "--logdir", "logs"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    for word in ("train", "validate", "test", "predict", "total", "tensorboard --logdir logs", "Test accuracy"):
        assert word in text
    record = load_record(tmp_path / "logs" / "demo" / "version_0")
    assert record.stages["train"].samples == 3 * 1258
    assert record.stages["predict"].samples == 1797
    assert list((tmp_path / "logs/demo/version_0/energy").glob("events.out.tfevents.*"))
