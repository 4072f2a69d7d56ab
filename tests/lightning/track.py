"""Train, test and predict with four loggers at once, in a process that may not use the network: track.py FOLDER."""

import sys
import warnings
from pathlib import Path
from typing import Any

import trackers
from lightning_models import loader, module, trainer
from pytorch_lightning.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger

from ml_energy_callbacks.clock import monotonic_clock
from ml_energy_callbacks.lightning import EnergyCallback
from ml_energy_callbacks.testing import PowerCurve, ScriptedBackend, ScriptedCounter


class Logging(type(module())):  # type: ignore[misc] - a class made at run time
    """Logs its loss at steps and epochs, and has a hyper-parameter of its own."""

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", self._loss(batch))


def main(folder: Path) -> None:
    trackers.refuse_the_network()
    warnings.simplefilter("ignore")
    loggers = [
        TensorBoardLogger(folder, name="tb"),
        CSVLogger(folder, name="csv"),
        MLFlowLogger("mine", tracking_uri=f"sqlite:///{folder}/mlflow.db"),
        WandbLogger(save_dir=folder, project="mine", offline=True),
    ]
    # What counts by itself: the loggers keep a busy machine from reading power often enough, and the record would warn of it.
    counter = ScriptedCounter(PowerCurve(monotonic_clock, 100.0), monotonic_clock)
    options = {
        "location": "FRA",
        "pue": 1.2,
        "electricity_price": 0.25,
        "currency": "EUR",
        "output_dir": folder,
        "metrics": "all",
    }
    energy = EnergyCallback(backends=[ScriptedBackend([counter])], **options)
    t, m = trainer(folder, [energy], logger=loggers), Logging()
    t.fit(m, loader(200), loader(40))
    t.test(m, loader(40), verbose=False)
    t.predict(m, loader(40))
    loggers[-1].experiment.finish()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
