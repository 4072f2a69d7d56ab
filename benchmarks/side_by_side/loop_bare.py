"""A plain loop that trains a small network in numpy, and a real training run in torch."""

import time

import torch
from hooks import timed
from sampling import Network
from sklearn.datasets import load_digits

from .marks import batches_for, marking
from .tools import Place

BATCH = 32
HIDDEN = 256


def run(kind, batches) -> list[int]:
    """Return the time of a tool's hooks of each batch in ns."""
    network = Network()
    with marking(kind, Place()) as marks:
        times = timed(marks, "begin", "end")
        for _ in range(batches_for(kind, batches)):
            marks.begin()
            network.step()
            marks.end()
    return times


class Digits:
    """The digit images of scikit-learn, and a network that learns them."""

    def __init__(self):
        # With so small a network a second thread waits in a busy loop, and times vary by far more than the cost of any tool.
        torch.set_num_threads(1)
        images, labels = (torch.tensor(array) for array in load_digits(return_X_y=True))
        self._parts = list(zip((images.float() / 16).split(BATCH), labels.split(BATCH), strict=True))

    def train(self, epochs, begin, end) -> float:
        """Return the time of this number of epochs in s."""
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(64, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, 10))
        optimizer = torch.optim.Adam(model.parameters())
        begun = time.perf_counter()
        for _ in range(epochs):
            for images, labels in self._parts:
                begin()
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(images), labels).backward()
                optimizer.step()
                end()
        return time.perf_counter() - begun
