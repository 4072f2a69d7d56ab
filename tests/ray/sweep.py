"""A driver of Ray Tune: six trials of up to nine epochs, 200 J each, within budgets."""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import ray
from ray import tune

from ml_energy_callbacks.frameworks.ray_tune import EnergyStopper
from ml_energy_callbacks.testing import ManualClock, PowerCurve, ScriptedBackend, ScriptedCounter, SteppedMeter


def train(config: dict[str, Any]) -> None:
    """Train with a clock that is advanced by hand."""
    clock = ManualClock()
    counter = ScriptedCounter(PowerCurve(clock, 100.0), clock, period_s=0.1)
    meter = SteppedMeter(
        clock,
        backends=[ScriptedBackend([counter])],
        output_dir=f"{config['records']}/{config['index']}",
        carbon_intensity=1,
        verbose=False,
    )
    with meter:
        for _ in range(9):
            with meter.stage("train"):
                clock.advance(2.0)
            tune.report({"index": config["index"], "energy/total/joules": meter.record.total.joules})


def main() -> None:
    """Search, and leave what Tune tells of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    stopper = EnergyStopper(trial_joules=500, total_joules=1500)
    with tempfile.TemporaryDirectory(prefix="ray") as own:  # short: Ray puts sockets under it, whose paths are limited
        ray.init(num_cpus=1, num_gpus=0, include_dashboard=False, object_store_memory=80 * 2**20, _temp_dir=own)
        results = tune.Tuner(
            train,
            param_space={"index": tune.grid_search(list(range(6))), "records": str(folder / "records")},
            tune_config=tune.TuneConfig(max_concurrent_trials=1),
            run_config=tune.RunConfig(name="sweep", storage_path=str(folder), stop=stopper, verbose=0),
        ).fit()
        told = {
            "trials": [result.metrics for result in results],
            "errors": [str(error) for error in results.errors],
            "joules": stopper.joules,
        }
        (folder / "sweep.json").write_text(json.dumps(told, default=str), encoding="utf-8")
        ray.shutdown()


if __name__ == "__main__":
    main()
