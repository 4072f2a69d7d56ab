"""Pruning: remove the least important neurons of a trained network, and fine-tune the rest.

The layers are rebuilt without these neurons, so they are really smaller. Setting the same neurons to zero, as masks do, gives a
network with the same answers, but its layers are as large as before.
"""

from copy import deepcopy
from itertools import pairwise

import torch
from digits import BATCH_SIZE, CLASSES, PIXELS, accuracy, load, mlp, train
from findings import main, of_comparison
from torch.utils.data import DataLoader

from ml_energy_callbacks.inference import compare_models


def most_important(layer, following, share):
    """Return the neurons to keep, by the product of the norms of the weights into and out of each."""
    importance = layer.weight.norm(dim=1) * following.weight.norm(dim=0)
    return importance.topk(int(share * layer.out_features)).indices.sort().values


def pruned(net, share):
    """Return the network with this fraction of its hidden neurons, and the full-size one with the others set to zero."""
    masked = deepcopy(net)
    layers = masked[::2]
    kept = [most_important(layer, following, share) for layer, following in pairwise(layers)]
    inputs, outputs = torch.arange(layers[0].in_features), torch.arange(layers[-1].out_features)
    small = mlp(len(inputs), *(len(neurons) for neurons in kept), len(outputs))
    with torch.no_grad():
        for layer, smaller, before, after in zip(layers, small[::2], [inputs, *kept], [*kept, outputs], strict=True):
            smaller.weight.copy_(layer.weight[after][:, before])
            smaller.bias.copy_(layer.bias[after])
            removed = torch.ones(layer.out_features, dtype=torch.bool)
            removed[after] = False
            layer.weight[removed] = 0
            layer.bias[removed] = 0
    return small, masked


def find(*, quick):
    """Train a network, prune three quarters of its neurons, fine-tune the rest, and compare."""
    torch.manual_seed(0)
    data, test = load()
    net = train(mlp(PIXELS, 1024, 1024, CLASSES), data, epochs=2 if quick else 10)
    small, masked = pruned(net, 0.25)
    tuned = train(deepcopy(small), data, epochs=1 if quick else 5)
    models = {"dense": net, "masked with zeros": masked, "pruned": small, "pruned, fine-tuned": tuned}
    return of_comparison(compare_models(models, DataLoader(test, BATCH_SIZE), accuracy, max_seconds=10 if quick else 100))


if __name__ == "__main__":
    main(find, __doc__)
