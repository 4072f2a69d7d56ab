"""Distillation: a small student learns the answers of a large teacher for each image, not only the labels.

After Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015): the softened answers of the teacher at
temperature 4, in addition to the labels. It is compared with the same student trained only on the labels.
"""

import torch
from digits import BATCH_SIZE, CLASSES, PIXELS, accuracy, load, mlp, train
from findings import main, of_comparison
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from torch.utils.data import DataLoader

from ml_energy_callbacks.inference import compare_models

TEMPERATURE = 4.0
SOFT_SHARE = 0.9


def distillation_loss(teacher):
    """Return the loss of a student of this teacher."""

    def loss(logits, images, labels):
        with torch.no_grad():
            taught = log_softmax(teacher(images) / TEMPERATURE, 1)
        said = log_softmax(logits / TEMPERATURE, 1)
        soft = kl_div(said, taught, reduction="batchmean", log_target=True) * TEMPERATURE**2
        return SOFT_SHARE * soft + (1 - SOFT_SHARE) * cross_entropy(logits, labels)

    return loss


def student():
    """Return the small network, initialised identically each time."""
    torch.manual_seed(1)
    return mlp(PIXELS, 16, CLASSES)


def find(*, quick):
    """Train a teacher and two students, and compare."""
    torch.manual_seed(0)
    data, test = load()
    teacher = train(mlp(PIXELS, 2048, 2048, CLASSES), data, epochs=1 if quick else 10).eval()
    epochs = 5 if quick else 100
    models = {
        "teacher": teacher,
        "student, labels only": train(student(), data, epochs),
        "student, distilled": train(student(), data, epochs, distillation_loss(teacher)),
    }
    return of_comparison(compare_models(models, DataLoader(test, BATCH_SIZE), accuracy, max_seconds=8 if quick else 60))


if __name__ == "__main__":
    main(find, __doc__)
