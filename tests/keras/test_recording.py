"""A recorded fit of a real Keras model is replayed to its record."""

from pathlib import Path

from frameworks.keras_loops import arrays, net, on_one_backend
from recorded import figures_of

from ml_energy_callbacks.keras import EnergyCallback
from ml_energy_callbacks.testing.replaying import replay_file


@on_one_backend
def test_a_recorded_fit_is_replayed_to_the_last_digit(tmp_path: Path) -> None:
    energy = EnergyCallback(recording=tmp_path / "raw.jsonl", verbose=False)
    x, y = arrays(80)
    net().fit(x, y, batch_size=4, epochs=3, verbose=0, validation_data=(x, y), callbacks=[energy])
    assert {"train", "validate"} <= energy.record.stages.keys()
    assert figures_of(replay_file(tmp_path / "raw.jsonl")) == figures_of(energy.record)
