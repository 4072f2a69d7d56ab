"""scikit-learn: an estimator's fit and its predictions."""

from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

from ml_energy_callbacks import EnergyMeter


def main() -> None:
    """Fit, predict, and print the energy of a sample of each."""
    x_train, x_test, y_train, y_test = train_test_split(*load_digits(return_X_y=True), random_state=0)
    forest = RandomForestClassifier(n_estimators=50, random_state=0)

    with EnergyMeter(output_dir="energy_logs/sklearn", location="FRA") as meter:
        with meter.stage("train"), meter.batch(samples=len(x_train)):
            forest.fit(x_train, y_train)
        with meter.stage("predict"), meter.batch(samples=len(x_test)):
            accuracy = forest.score(x_test, y_test)

    stages = meter.record.stages
    print(f"accuracy {accuracy:.1%}; J/sample: fit {stages['train'].joules_per_sample:.2g}, ", end="")
    print(f"predict {stages['predict'].joules_per_sample:.2g}")


if __name__ == "__main__":
    main()
