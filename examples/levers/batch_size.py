"""Batch size: the energy of a prediction by the number of images per call, and the best number under a latency limit."""

import torch
from digits import CLASSES, PIXELS, accuracy, load, mlp, train
from findings import Findings, cost, main, notes

from ml_energy_callbacks.inference import profile_inference

LATENCY_LIMIT_S = 0.005


def find(*, quick):
    """Train a network, and measure its predictions at each batch size."""
    torch.manual_seed(0)
    data, test = load()
    net = train(mlp(PIXELS, 1024, 1024, CLASSES), data, epochs=2 if quick else 10).eval()
    images, labels = test.tensors
    right = accuracy(net(images), labels)
    sizes = (1, 32) if quick else (1, 4, 16, 64, 256)

    def make_batch(size):
        return images[torch.randint(len(images), (size,))]

    profile = profile_inference(net, make_batch, sizes, latency_limit=LATENCY_LIMIT_S, max_seconds=6 if quick else 90)
    rows = []
    for size in profile.sizes:
        speed = {"samples_per_second": size.samples_per_second and size.samples_per_second.mean}
        verdict = "lowest" if size.batch_size == profile.best else "no difference" if size.batch_size in profile.alike else ""
        rows.append({"name": str(size.batch_size), "accuracy": right, **cost(size), **speed, "verdict": verdict})
    best = f"batch size {profile.best}" if profile.best is not None else "none"
    summary = f"Lowest energy per sample with a p95 latency of up to {1000 * LATENCY_LIMIT_S:g} ms: {best}."
    return Findings(
        rows,
        profile.provenance,
        profile.relative_uncertainty,
        [summary, *notes({f"Batch size {size.batch_size}": size for size in profile.sizes})],
    )


if __name__ == "__main__":
    main(find, __doc__)
