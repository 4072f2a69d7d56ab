"""The parts of a batch, where Keras shows them: with torch, whose training step is Python."""

from typing import Any

import keras

from ml_energy_callbacks.frameworks.parts import Parts

UNSEEN = (
    "The model's own train_step does not call optimizer.scale_loss and optimizer.apply, as that of Keras does: mark the parts "
    "in it with meter.part()."
)
"""Why a training that marks its batches has no parts."""


def mark_parts(parts: Parts, model: Any) -> None:
    """Mark the parts of the batches of a training by what Keras calls of its model and the optimizer.

    Keras moves a batch to the device while it fetches it, or in the forward pass: that is no part of its own. The forward pass
    lasts to ``scale_loss``, which Keras calls right before ``loss.backward()``, and the backward pass to ``apply``.
    """
    backend = keras.backend.backend()
    if backend != "torch":
        parts.refuse(f"Keras on {backend} runs the whole training step as one.")
    elif model.jit_compile:
        parts.refuse("With jit_compile, torch.compile runs the whole training step as one.")
    elif model.optimizer is None:
        parts.refuse("The model has no optimizer of Keras.")
    else:
        parts.begin(model, "train_step", "forward")
        parts.begin(model.optimizer, "scale_loss", "backward", after=True)
        parts.around(model.optimizer, "apply", "optimizer")
