"""The demonstration, as a newcomer runs it."""

from pathlib import Path

import pytest
from forked import Warm

from ml_energy_callbacks import load_record

COMMAND = """
from hidden import show
from ml_energy_callbacks.cli import main

show(["scipy", "sklearn"])  # the data are scikit-learn's
main()
"""


@pytest.mark.xdist_group("programs")
def test_the_demonstration_trains_and_shows_what_it_used(program: Warm, tmp_path: Path) -> None:
    command = tmp_path / "ml-energy.py"
    command.write_text(COMMAND, encoding="utf-8")
    done = program.run(command, "demo", "--epochs", 3, "--logdir", "logs", folder=tmp_path)
    text = " ".join(done.output.split())
    for word in ("Energy ", "Train ", "Valid ", "Other ", "Record ", "tensorboard --logdir logs", "Test accuracy"):
        assert word in text
    assert "\n\nTest accuracy" in done.output
    record = load_record(tmp_path / "logs" / "demo" / "version_0")
    assert record.stages["train"].samples == 3 * 1258
    assert record.stages["predict"].samples == 1797
    assert list((tmp_path / "logs/demo/version_0/energy").glob("events.out.tfevents.*"))
