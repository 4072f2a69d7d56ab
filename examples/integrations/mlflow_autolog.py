"""MLflow's autolog: energy beside the loss, without a logger."""

import mlflow
import pytorch_lightning as pl
from digits import Digits

from ml_energy_callbacks.lightning import EnergyCallback


def main() -> None:
    """Train, and print what MLflow has of the energy."""
    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    mlflow.pytorch.autolog(log_models=False)
    energy = EnergyCallback(location="FRA", output_dir="energy_logs/mlflow")
    with mlflow.start_run() as run:
        pl.Trainer(max_epochs=2, callbacks=[energy], logger=False, enable_checkpointing=False).fit(Digits())
        mlflow.log_metric("energy/total/kwh", energy.record.total.kwh)
        mlflow.log_artifact(energy.record_path)

    metrics = mlflow.get_run(run.info.run_id).data.metrics
    print({name: value for name, value in metrics.items() if name in {"val_loss", "energy/train/joules", "energy/total/kwh"}})


if __name__ == "__main__":
    main()
