"""Parts of a torch model that call a function: its forward pass, its backward pass, and its optimizer's step."""

from collections.abc import Callable
from typing import Any

import torch

Work = Callable[[str], None]


class _Busy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, work: Work) -> torch.Tensor:
        ctx.work = work
        work("forward")
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        ctx.work("backward")
        return grads[0], None


def busy(x: torch.Tensor, work: Work) -> torch.Tensor:
    """Return a tensor that needs a gradient, with work in the forward and in the backward pass."""
    found: torch.Tensor = _Busy.apply(x, work)  # type: ignore[no-untyped-call]
    return found


def busy_optimizer(kind: type[torch.optim.Optimizer], parameters: Any, work: Work, **options: Any) -> torch.optim.Optimizer:
    """Return an optimizer of this class whose steps work."""

    class Busy(kind):  # type: ignore[misc,valid-type]
        def step(self, closure: Any = None) -> Any:
            found = super().step(closure)
            work("optimizer")
            return found

    return Busy(parameters, **options)
