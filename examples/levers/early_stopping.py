"""Early stopping by energy: training that ends when the gain per joule becomes too small, compared with full training."""

import pytorch_lightning as pl
from digits import BATCH_SIZE, CLASSES, PIXELS, Classifier, load, mlp, quiet_trainer
from findings import Findings, main, times
from torch.utils.data import DataLoader, random_split

from ml_energy_callbacks.lightning import EnergyEarlyStopping

# A tenth of a percentage point per 20 J.
MIN_GAIN_PER_KWH = 0.001 / 20 * 3.6e6


def trained(name, epochs, *callbacks):
    """Train; return the table row and the record."""
    pl.seed_everything(0, verbose=False)
    data, test = load()
    training, validation = random_split(data, (0.8, 0.2))
    trainer, energy = quiet_trainer(epochs, f"early_stopping/{name}", *callbacks)
    model = Classifier(mlp(PIXELS, 512, 512, CLASSES))
    trainer.fit(model, DataLoader(training, BATCH_SIZE, shuffle=True), DataLoader(validation, BATCH_SIZE))
    ran = trainer.current_epoch
    record = energy.record  # as of the end of the fit, without the test below
    stages = [record.stages[name] for name in ("train", "validate")]
    (scores,) = trainer.test(model, DataLoader(test, BATCH_SIZE), verbose=False)
    row = {
        "name": name,
        "accuracy": scores["test_accuracy"],
        "epochs": ran,
        "seconds": sum(stage.seconds for stage in stages),
        "joules": None if any(stage.joules is None for stage in stages) else sum(stage.joules for stage in stages),
        "joules_per_sample": stages[0].joules_per_sample,
    }
    return row, record


def find(*, quick):
    """Train to the end, and with the early-stopping callback."""
    epochs = 4 if quick else 50
    full, record = trained("full", epochs)
    stopping = EnergyEarlyStopping("validation_accuracy", min_gain_per_kwh=MIN_GAIN_PER_KWH, patience=3, mode="max")
    stopped, ended = trained("stopped", epochs, stopping)
    points = 100 * (full["accuracy"] - stopped["accuracy"])
    gain = f"is {points:.1f} points more accurate" if points > 0 else "is no more accurate"
    said = [
        f"The full training used {times(full['joules'], stopped['joules'])} the energy, and {gain}.",
        f"Reason for stopping: {ended.run.reason or 'none; the gain stayed above the limit, so all epochs ran.'}",
    ]
    return Findings([full, stopped], record.total.provenance, record.total.relative_uncertainty, said)


if __name__ == "__main__":
    main(find, __doc__)
