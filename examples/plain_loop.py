"""Energy of any loop: EnergyMeter without a framework.

Fits scikit-learn's classifier to handwritten digits in batches, then predicts; the energy of each stage is printed at
the end of the `with` block.
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier

from ml_energy_callbacks import EnergyMeter


def main() -> None:
    """Train and predict."""
    images, labels = load_digits(return_X_y=True)
    model = SGDClassifier(random_state=0)
    rng = np.random.default_rng(0)

    with EnergyMeter(output_dir="energy_logs/plain_loop", location="France") as meter:
        with meter.stage("train"):
            for _ in range(20):
                for batch in np.array_split(rng.permutation(len(images)), 50):
                    with meter.batch(samples=len(batch)):
                        model.partial_fit(images[batch], labels[batch], classes=range(10))
        with meter.stage("predict"), meter.batch(samples=len(images)):
            accuracy = (model.predict(images) == labels).mean()

    print(f"accuracy {accuracy:.1%}")


if __name__ == "__main__":
    main()
