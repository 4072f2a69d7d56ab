"""Calls of modules that can be repeated alone: a step of the network, and the calls of each layer in it."""

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ml_energy_callbacks.inference.layers.stopwatch import tensors_in
from ml_energy_callbacks.inference.layers.tree import Layer


@dataclass(slots=True)
class Call:
    """A call of a module with the same inputs each time.

    Attributes:
        module: The torch module.
        args: Its inputs.
        kwargs: Its inputs by name.
        backward: Whether gradients are computed.
        overwrites: Whether the module writes into its inputs, so that each call needs copies of them.
        autocast: Returns the context of mixed precision.
        wanted: The parameters and inputs whose gradients are computed.
    """

    module: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    backward: bool
    overwrites: bool = False
    autocast: Callable[[], Any] = contextlib.nullcontext
    wanted: Sequence[Any] = field(init=False)

    def __post_init__(self) -> None:
        """Find the parameters and inputs whose gradients are computed."""
        found = [*self.module.parameters(), *tensors_in((self.args, self.kwargs))]
        self.wanted = [tensor for tensor in found if tensor.requires_grad]

    def forward(self) -> Any:  # noqa: ANN401 - what the module returns
        """Run the forward pass, and return the outputs."""
        torch: Any = sys.modules["torch"]
        args, kwargs = (self.args, self.kwargs)
        if self.overwrites:
            args, kwargs = _map_tensors(lambda tensor: tensor.clone(), (args, kwargs))
        with torch.enable_grad() if self.backward else torch.no_grad(), self.autocast():
            return self.module(*args, **kwargs)

    def run_backward(self, outputs: Any) -> None:  # noqa: ANN401 - as above
        """Compute the gradients of all parameters and inputs, without storing them.

        They are those of the output ``loss`` if there is one, and else of the sum of all outputs.
        """
        torch: Any = sys.modules["torch"]
        if not self.backward:
            return
        loss = getattr(outputs, "loss", None)
        ends = [tensor for tensor in tensors_in(outputs if loss is None else loss) if tensor.requires_grad]
        if ends and self.wanted:
            torch.autograd.grad(ends, self.wanted, [torch.ones_like(end) for end in ends], allow_unused=True)

    def with_copies(self) -> "Call":
        """Return the same call with copies of its inputs, so that the module does not write into those that were given."""
        args, kwargs = _map_tensors(
            lambda tensor: tensor.detach().clone().requires_grad_(tensor.requires_grad), (self.args, self.kwargs)
        )
        return replace(self, args=args, kwargs=kwargs)

    def __call__(self) -> None:
        """Run both passes."""
        self.run_backward(self.forward())


def split_inputs(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:  # noqa: ANN401 - of the user's module
    """Return the inputs of a module and its inputs by name: a tuple holds several, and a dictionary has their names."""
    if isinstance(example_inputs, tuple):
        return example_inputs, {}
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    return (example_inputs,), {}


def record_calls(layers: Sequence[Layer], step: Call) -> list[list[Call]]:
    """Run the forward pass of a step, and return the calls of each layer in it; a call from elsewhere is none of the layer."""
    torch: Any = sys.modules["torch"]
    found: list[list[Call]] = [[] for _ in layers]
    within: list[int | None] = [None]
    inputs: list[tuple[Any, list[int]]] = []
    kind = next((tensor.device.type for tensor in [*step.module.parameters(), *tensors_in(step.args)]), "cpu")

    def enter(index: int, _: Any, args: Any, kwargs: Any) -> None:  # noqa: ANN401 - of the user's module
        if within[-1] == layers[index].parent:
            within.append(index)
            inputs.append(((args, kwargs), _versions((args, kwargs))))

    def leave(index: int, module: Any, _args: Any, _kwargs: Any, _output: Any) -> None:  # noqa: ANN401 - as above
        if within[-1] != index:
            return
        within.pop()
        given, versions = inputs.pop()
        backward = step.backward and torch.is_grad_enabled()
        args, kwargs = _map_tensors(lambda tensor: tensor.detach().requires_grad_(backward and tensor.requires_grad), given)
        overwrites = versions != _versions(given)
        found[index].append(Call(module, args, kwargs, backward, overwrites, _autocast(torch, kind)))

    handles = []
    try:
        for i, layer in enumerate(layers):
            handles.append(layer.module.register_forward_pre_hook(partial(enter, i), with_kwargs=True))
            handles.append(layer.module.register_forward_hook(partial(leave, i), with_kwargs=True))
        step.forward()
    finally:
        for handle in handles:
            handle.remove()
    return found


def _versions(value: Any) -> list[int]:  # noqa: ANN401 - arguments of a module
    """Return how often each tensor was written into."""
    return [0 if tensor.is_inference() else tensor._version for tensor in tensors_in(value)]  # noqa: SLF001 - torch's own


def _map_tensors(change: Callable[[Any], Any], value: Any) -> Any:  # noqa: ANN401 - arguments of a module
    torch: Any = sys.modules["torch"]
    return torch.utils._pytree.tree_map_only(torch.Tensor, change, value)  # noqa: SLF001 - as in tensors_in()


def _autocast(torch: Any, kind: str) -> Callable[[], Any]:  # noqa: ANN401 - the package
    """Return the present context of mixed precision; before torch 2.4, none."""
    if not hasattr(torch, "get_autocast_dtype") or not torch.is_autocast_enabled(kind):
        return contextlib.nullcontext
    return partial(torch.autocast, kind, torch.get_autocast_dtype(kind))
