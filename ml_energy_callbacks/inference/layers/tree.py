"""The modules of a network that are listed as its layers, down to a depth."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.meter.options import is_flag
from ml_energy_callbacks.safe_text import describe


@dataclass(frozen=True, slots=True)
class Layer:
    """A module that is listed.

    Attributes:
        name: Its name in the network, such as ``encoder.0``.
        module: The torch module.
        depth: 1 for a part of the network itself, 2 for a part of such a part.
        parent: Index of the layer that it is a part of; None for a part of the network itself.
    """

    name: str
    module: Any
    depth: int
    parent: int | None


def find_layers(module: Any, depth: int) -> list[Layer]:  # noqa: ANN401 - a torch module
    """Return the modules inside a network down to a depth, each before its parts.

    Modules that are not called, such as a ``ModuleList``, are not listed and are no level of depth. A module that is in several
    places is listed in the first one.

    Raises:
        ConfigurationError: It is not a torch module, the depth is invalid, it has no layers, or a compiler hides them.
    """
    torch: Any = sys.modules.get("torch")
    if torch is None or not isinstance(module, torch.nn.Module):
        msg = f"The module is a {type(module).__name__}; pass a torch module."
        raise ConfigurationError(msg)
    levels: object = depth
    if is_flag(levels) or not isinstance(levels, Integral) or levels < 1:
        msg = f"depth is {describe(depth)}; give a whole number from 1 upwards, such as 2 for the parts of the parts."
        raise ConfigurationError(msg)
    if (reason := _compiler_of(torch, module)) is not None:
        msg = f"The module is compiled by {reason}, which leaves no layers: pass the module as it was before."
        raise ConfigurationError(msg)
    if any(map(torch.nn.parameter.is_lazy, module.parameters())):
        msg = "The module has lazy layers without weights yet; call it once before."
        raise ConfigurationError(msg)
    layers: list[Layer] = []
    _add_parts(torch, module, "", None, int(levels), layers, {id(module)})
    if not layers:
        msg = f"The module, a {type(module).__name__}, has no layers inside; pass the network that contains it."
        raise ConfigurationError(msg)
    return layers


def _add_parts(
    torch: Any,  # noqa: ANN401 - the package
    module: Any,  # noqa: ANN401 - a torch module
    prefix: str,
    parent: int | None,
    levels: int,
    layers: list[Layer],
    seen: set[int],
) -> None:
    for name, part in _parts(module):
        if id(part) in seen:
            continue
        seen.add(id(part))
        if type(part).forward is torch.nn.Module.forward:  # it is never called
            _add_parts(torch, part, f"{prefix}{name}.", parent, levels, layers, seen)
            continue
        layers.append(Layer(f"{prefix}{name}", part, 1 if parent is None else layers[parent].depth + 1, parent))
        if levels > 1:
            _add_parts(torch, part, f"{prefix}{name}.", len(layers) - 1, levels - 1, layers, seen)


def _parts(module: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - a torch module
    keras: Any = sys.modules.get("keras")
    if keras is not None and isinstance(module, keras.Model):  # which does not register all of them with torch
        return ((layer.name, layer) for layer in module.layers)
    return iter(module.named_children())


def _compiler_of(torch: Any, module: Any) -> str | None:  # noqa: ANN401 - the package, and a module of it
    """Return the name of the compiler of a module or of one inside; None if there is none."""
    for part in module.modules():
        if isinstance(part, torch.jit.ScriptModule):
            return "torch.jit"
        compiled = type(part).__name__ == "OptimizedModule" or getattr(part, "_compiled_call_impl", None) is not None
        if compiled or getattr(part, "_compiler_ctx", None) is not None:  # the last one is Lightning's
            return "torch.compile"
    return None
