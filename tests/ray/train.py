"""A driver of Ray Train with two workers."""

import argparse
import json
import tempfile
from pathlib import Path

import ray.train
import ray_loops
from ray.train.torch import TorchTrainer

from ml_energy_callbacks.lightning import EnergyCallback


def main() -> None:
    """Run the loops, and leave what Ray tells of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    # The callback travels to the workers in a pickle.
    hardware = ray_loops.Hardware()
    config = {
        "hardware": hardware,
        "energy": EnergyCallback(location="FRA", backends=[hardware], verbose=False, metrics="all"),
        "logs": str(folder / "logs"),
    }
    with tempfile.TemporaryDirectory(prefix="ray") as own:  # short: Ray puts sockets under it, whose paths are limited
        ray.init(num_cpus=2, num_gpus=0, include_dashboard=False, object_store_memory=80 * 2**20, _temp_dir=own)
        result = TorchTrainer(
            ray_loops.both,
            train_loop_config=config,
            scaling_config=ray.train.ScalingConfig(num_workers=2),
            run_config=ray.train.RunConfig(name="night", storage_path=str(folder)),
        ).fit()
        told = {"path": result.path, "last": result.metrics, "epochs": result.metrics_dataframe.to_dict("records")}
        (folder / "told.json").write_text(json.dumps(told), encoding="utf-8")
        ray.shutdown()


if __name__ == "__main__":
    main()
