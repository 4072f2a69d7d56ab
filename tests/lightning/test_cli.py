"""Our callbacks in a program with LightningCLI: options, files of configuration, help."""

import inspect
import re
from pathlib import Path

import lightning_command_line as command_line
import pytest
import yaml
from forked import Warm
from lightning_models import PACKAGES

from ml_energy_callbacks import load_record
from ml_energy_callbacks.lightning import EnergyBudget, EnergyCallback, EnergyEarlyStopping

pytestmark = pytest.mark.xdist_group("programs")

OURS = "ml_energy_callbacks.lightning"

OPTIONS = [
    "--seed_everything=1",
    "--trainer.accelerator=cpu",
    "--trainer.max_epochs=2",
    "--trainer.enable_progress_bar=false",
    f"--trainer.callbacks+={OURS}.EnergyCallback",
    "--trainer.callbacks.location=FRA",
    '--trainer.callbacks.electricity_price={"06:00": 0.3, "22:00": 0.2}',
    '--trainer.callbacks.devices=["cpu-model:*"]',
    '--trainer.callbacks.tags={"team": "vision"}',
    "--trainer.callbacks.batch_size_fn=builtins.len",
    f"--trainer.callbacks+={OURS}.EnergyBudget",
    "--trainer.callbacks.kwh=1",
    f"--trainer.callbacks+={OURS}.EnergyEarlyStopping",
    "--trainer.callbacks.monitor=loss",
    "--trainer.callbacks.min_gain_per_kwh=1e-9",
]

CONFIGURED = """
trainer:
  callbacks:
    - class_path: ml_energy_callbacks.lightning.EnergyCallback
      init_args:
        carbon_intensity:
          class_path: ml_energy_callbacks.carbon.CarbonIntensity
          init_args: {g_per_kwh: 50, location: our roof, source: our meter, data_year: 2026}
        pue: 1.1
"""


def fit(program: Warm, package: str, folder: Path, *options: str) -> Path:
    """Fit in a process of its own, and return the folder of its logs."""
    program.run(command_line.__file__, package, "fit", *options, folder=folder)
    return max((folder / "lightning_logs").iterdir())


@pytest.mark.parametrize("package", [PACKAGES[0], pytest.param(PACKAGES[1], marks=pytest.mark.full)])
def test_callbacks_are_added_on_the_command_line_and_the_saved_configuration_gives_the_same(
    program: Warm, package: str, tmp_path: Path
) -> None:
    logs = fit(program, package, tmp_path, *OPTIONS)
    record = load_record(logs)
    assert record.run.status == "completed"
    assert record.run.tags == {"team": "vision"}
    assert record.carbon.location == "FRA"
    assert record.total.cost is not None
    assert [device.id for device in record.devices] == ["cpu-model:0"]
    assert record.early_stopping is not None
    assert record.early_stopping.monitor == "loss"
    assert record.stages["train"].samples == 2 * 10 * 2  # by batch_size_fn: a batch is a list of inputs and targets

    saved = (logs / "config.yaml").read_text(encoding="utf-8")
    callbacks = yaml.safe_load(saved)["trainer"]["callbacks"]
    assert [callback["class_path"] for callback in callbacks] == [
        f"{OURS}.{kind.__name__}" for kind in (EnergyCallback, EnergyBudget, EnergyEarlyStopping)
    ]
    (tmp_path / "saved.yaml").write_text(saved, encoding="utf-8")
    again = fit(program, package, tmp_path, "--config=saved.yaml")
    assert again != logs
    assert (again / "config.yaml").read_text(encoding="utf-8") == saved
    assert load_record(again).early_stopping is not None


def test_a_file_of_configuration_names_callbacks_and_what_they_are_given(program: Warm, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(CONFIGURED, encoding="utf-8")
    record = load_record(fit(program, PACKAGES[1], tmp_path, *OPTIONS[1:4], "--config=mine.yaml"))
    assert record.carbon.source == "our meter"
    assert record.carbon.intensity_g_per_kwh == 50
    assert record.carbon.pue == 1.1


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*args parameter is intended.*")  # LightningCLI's own
@pytest.mark.parametrize("kind", [EnergyCallback, EnergyBudget, EnergyEarlyStopping])
def test_help_tells_each_option_in_the_words_of_the_docstring(kind: type, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command_line.main(PACKAGES[0], ["fit", f"--trainer.callbacks.help={OURS}.{kind.__name__}"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    told = inspect.getdoc(kind) or ""
    for name in inspect.signature(kind).parameters:
        assert f"--trainer.callbacks.{name} " in shown
        found = re.search(rf"^    {name}: (.*)$", told, re.MULTILINE)
        assert found is not None
        assert found[1] in shown
