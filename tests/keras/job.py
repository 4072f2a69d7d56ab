"""One process of a job that trains with torch, for the tests to start: each has a GPU of its own, all have one processor."""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import keras
import torch.distributed as dist
from frameworks.keras_loops import arrays, net
from job_world import Place

from ml_energy_callbacks.keras import EnergyBudget, EnergyCallback


def main() -> None:
    """Fit with a validation, and predict; leave what was logged."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--budget", type=float)
    parser.add_argument("--dies", type=int, help="the rank that is killed in the second epoch; the others do not predict")
    options = parser.parse_args()
    dist.init_process_group("gloo")  # as torchrun's variables say
    rank = dist.get_rank()
    energy = EnergyCallback(
        backends=Place(steady=True).backends([rank]),
        location="FRA",
        output_dir=options.folder,
        log_every_n_steps=1,
        metrics="all",
    )
    pace = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: time.sleep(0.05))

    def die(epoch: int, _: Any) -> None:
        if rank == options.dies and epoch == 1:
            os.kill(os.getpid(), 9)

    dying = keras.callbacks.LambdaCallback(on_epoch_begin=die)
    budget: list[Any] = [] if options.budget is None else [EnergyBudget(kwh=options.budget)]
    # Rank 1 has more samples than rank 0.
    x, y = arrays(40 + 10 * rank)
    model = net()
    history = model.fit(
        x, y, batch_size=5, epochs=3, validation_data=(x[:20], y[:20]), callbacks=[energy, *budget, pace, dying], verbose=2
    )
    if options.dies is None:
        model.predict(x, batch_size=5, callbacks=[energy], verbose=0)
    logged = {name: [float(value) for value in values] for name, values in history.history.items()}
    (options.folder / f"logged-{rank}.json").write_text(json.dumps(logged), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
