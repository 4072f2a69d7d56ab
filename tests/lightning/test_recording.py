"""A recorded fit of a real trainer is replayed to its record."""

from pathlib import Path

import pytest
from lightning_models import PACKAGES, loader, module, trainer
from recorded import figures_of

from ml_energy_callbacks.lightning import EnergyCallback
from ml_energy_callbacks.testing.replaying import replay_file


@pytest.mark.parametrize("package", PACKAGES)
def test_a_recorded_fit_is_replayed_to_the_last_digit(tmp_path: Path, package: str) -> None:
    energy = EnergyCallback(recording=tmp_path / "raw.jsonl", verbose=False)
    t, m = trainer(tmp_path, [energy], package), module(package)
    t.fit(m, loader(80), loader(10, 5))
    t.test(m, loader(12, 4), verbose=False)
    assert {"train", "validate", "test"} <= energy.record.stages.keys()
    assert figures_of(replay_file(tmp_path / "raw.jsonl")) == figures_of(energy.record)
