"""Quantization: the weights of a trained network as int8 instead of fp32.

Uses torch's own dynamic quantization: 8-bit weights, and activations that are rounded to 8 bits at run time. Its successor
torchao is not faster on a CPU unless it is compiled.
"""

import warnings

import torch
from digits import BATCH_SIZE, CLASSES, PIXELS, accuracy, load, mlp, train
from findings import main, of_comparison
from torch import nn
from torch.utils.data import DataLoader

from ml_energy_callbacks.inference import compare_models


def quantized(net):
    """Return the network with linear layers of int8."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*deprecated")  # torchao has no replacement that is as fast here
        return torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)


def find(*, quick):
    """Train a network, quantize it, and compare the two."""
    torch.manual_seed(0)
    data, test = load()
    net = train(mlp(PIXELS, 1024, 1024, CLASSES), data, epochs=2 if quick else 10)
    models = {"fp32": net, "int8": quantized(net.eval())}
    return of_comparison(compare_models(models, DataLoader(test, BATCH_SIZE), accuracy, max_seconds=6 if quick else 60))


if __name__ == "__main__":
    main(find, __doc__)
