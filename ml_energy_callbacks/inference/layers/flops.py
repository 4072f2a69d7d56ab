"""Floating-point operations of calls, by torch's own counter."""

import importlib
from collections.abc import Iterable
from typing import Any

from ml_energy_callbacks.inference.layers.calls import Call
from ml_energy_callbacks.meter.unforeseen import pass_users_error


def count_flops(calls: Iterable[Call]) -> tuple[int | None, int | None]:
    """Return the operations of the forward and of the backward passes.

    torch counts matrix products, convolutions and attention: a pass with none of them, or that the counter cannot follow, is
    unknown, and so is that of torch without a counter.
    """
    forward = backward = 0
    try:
        counter: Any = importlib.import_module("torch.utils.flop_counter").FlopCounterMode
        for call in calls:
            with counter(display=False) as counted:
                outputs = call.forward()
            forward += counted.get_total_flops()
            with counter(display=False) as counted:
                call.run_backward(outputs)
            backward += counted.get_total_flops()
    except Exception as error:  # noqa: BLE001 - a module may do anything that the counter cannot follow
        pass_users_error(error)
        return None, None
    return forward or None, backward or None
