"""Energy of a Keras run on TensorFlow: add one callback, and pass the data through it.

Trains a small network on scikit-learn's handwritten digits from a `tf.data` pipeline, and prints the energy of
training and of prediction, and how long training waited for data. TensorBoard shows the energy beside the loss.
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from ml_energy_callbacks.keras import EnergyCallback


def main() -> None:
    """Train, predict, and print the energy."""
    pixels, labels = load_digits(return_X_y=True)
    images, test_images, labels, test_labels = train_test_split(pixels / 16, labels, test_size=0.2, random_state=0)
    training = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(len(images)).batch(32)
    validation = tf.data.Dataset.from_tensor_slices((test_images, test_labels)).batch(32)

    model = keras.Sequential([keras.layers.Dense(128, activation="relu"), keras.layers.Dense(10, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])

    energy = EnergyCallback(location="FRA", electricity_price=0.25, currency="EUR")
    # It must come after the energy callback to show its keys; the energy callback writes its record to the same folder.
    board = keras.callbacks.TensorBoard("energy_logs/keras_tensorflow_digits")
    model.fit(energy.watch(training), validation_data=validation, epochs=10, callbacks=[energy, board], verbose=2)
    model.predict(pixels / 16, callbacks=[energy], verbose=2)

    record = energy.record
    for name in ("train", "predict"):
        stage = record.stages[name]
        each = f"{stage.joules_per_sample:.3g} J per sample without compilation"
        print(f"{name}: {stage.joules:.3g} J, {each} ({stage.provenance})")
    phases = record.stages["train"].phases
    print(f"training waited {phases['data_wait'].seconds:.2f} s for data and computed for {phases['compute'].seconds:.2f} s")
    print(f"record: {energy.record_path}")


if __name__ == "__main__":
    main()
