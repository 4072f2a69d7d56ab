"""LightGBM: each round of boosting is a batch. XGBoost's callbacks do the same in before_iteration and after_iteration."""

import lightgbm
from sklearn.datasets import load_digits

from ml_energy_callbacks import EnergyMeter


def main() -> None:
    """Train, and print the energy of a round."""
    x, y = load_digits(return_X_y=True)
    meter = EnergyMeter(output_dir="energy_logs/lightgbm", location="FRA")

    def start(_: object) -> None:
        meter.batch_start()

    def end(_: object) -> None:
        meter.batch_end(samples=len(x))

    start.before_iteration = True
    options = {"objective": "multiclass", "num_class": 10, "num_leaves": 8, "verbosity": -1}
    with meter, meter.stage("train"):
        lightgbm.train(options, lightgbm.Dataset(x, y), num_boost_round=10, callbacks=[start, end])

    train = meter.record.stages["train"]
    print(f"{train.batches} rounds, {train.joules / train.batches:.2g} J each")


if __name__ == "__main__":
    main()
