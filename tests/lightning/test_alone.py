"""Each of the Lightning packages without the other, and without all that neither needs."""

import csv
from pathlib import Path

import hidden
import job_world
import pytest
from lightning_models import PACKAGES

from ml_energy_callbacks import load_record

OTHERS = {"pytorch_lightning": ["lightning"], "lightning.pytorch": ["pytorch_lightning", "lightning_fabric"]}
NOT_NEEDED = (
    *(
        "jax",
        "jsonargparse",
        "keras",
        "matplotlib",
        "mlflow",
        "pandas",
        "ray",
        "scipy",
        "sklearn",
        "tensorboard",
        "tensorboardX",
    ),
    *("tensorflow", "transformers", "wandb"),
)


@pytest.mark.parametrize("package", PACKAGES)
def test_it_works_in_either_package_alone_without_tensorboard_and_other_frameworks(package: str, tmp_path: Path) -> None:
    script = Path(__file__).with_name("alone.py")
    packages = ",".join([*OTHERS[package], *NOT_NEEDED])
    job_world.end(job_world.start(Path(hidden.__file__), {}, packages, script, package, tmp_path))
    record = load_record(tmp_path / "lightning_logs" / "version_0")
    assert record.run.status == "completed"
    assert record.run.framework.startswith(f"{package} 2.")
    assert {name: record.stages[name].samples for name in ("train", "validate", "test")} == {
        "train": 80,
        "validate": 16,
        "test": 8,
    }
    with (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").open(encoding="utf-8") as file:
        assert any(row["energy/train/watts"] for row in csv.DictReader(file))
