"""The energy and time of the layers of a network: data classes, written as JSON by ``record.load.dump_json``."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any, Literal

import msgspec

from ml_energy_callbacks.metrics import ratio
from ml_energy_callbacks.readings import Provenance

Method = Literal["repetition", "time"]
"""How energy was divided among layers: by steps that repeat some of them, or in proportion to their times."""


class LayerCost(msgspec.Struct, kw_only=True):
    """A layer in one step, with its parts.

    Attributes:
        name: Its name in the network, such as ``encoder.0``; ``rest`` for what is in no layer.
        kind: Its class; empty for the rest.
        depth: 1 for a part of the network itself, 2 for a part of such a part; 0 for the whole step.
        calls: How often a step calls it, on average.
        seconds: Its time in s, forward and backward.
        time_share: ``seconds`` as a share of the step.
        forward_seconds: Time of its forward pass in s; None where it was not timed.
        backward_seconds: The same of its backward pass.
        forward_flops: Floating-point operations of its forward pass by torch's counter, which counts matrix products,
            convolutions and attention; None if it has none of them or they were not counted.
        backward_flops: The same of its backward pass.
        joules: Its energy in J; None if it is not known.
        low_joules: Lower end of the 95 % interval in J, also where ``joules`` is None; it does not hold the devices' own
            uncertainty. None where nothing bounds it.
        high_joules: Its upper end.
        joules_share: ``joules`` as a share of the step.
        joules_per_flop: Energy of an operation in J, or None.
        reason: Why ``joules`` is None; else None.
    """

    name: str
    kind: str
    depth: int
    calls: float
    seconds: float
    time_share: float
    forward_seconds: float | None = None
    backward_seconds: float | None = None
    forward_flops: int | None = None
    backward_flops: int | None = None
    joules: float | None = None
    low_joules: float | None = None
    high_joules: float | None = None
    joules_share: float | None = None
    joules_per_flop: float | None = None
    reason: str | None = None

    @property
    def flops(self) -> int | None:
        """Floating-point operations of both passes; None if neither is known."""
        known = [flops for flops in (self.forward_flops, self.backward_flops) if flops is not None]
        return sum(known) if known else None


class LayerProfile(msgspec.Struct, kw_only=True):
    """The energy and time of the layers in a step; those of depth 1 and the rest add up to the whole.

    Attributes:
        module: Class of the network.
        method: How the energy was divided.
        whole: The step.
        layers: The layers, each before its parts; without those that a step does not call.
        rest: What is in no layer of depth 1, and the energy of those whose own is not known.
        steps: Number of steps whose times are used.
        blocks: Number of blocks of steps whose energy was measured.
        provenance: ``measured`` if every device was and the energy was not divided by time, else ``estimated``; None if no
            device was read.
        relative_uncertainty: Half-width of the 95 % interval of the devices' own systematic uncertainty, as a share of all
            joules; no other interval here includes it. None if no device was read.
        devices: Ids of the devices that are included.
        seconds: Duration of the measurement in s.
        notes: What limits the figures, in sentences.
    """

    module: str
    method: Method
    whole: LayerCost
    layers: list[LayerCost]
    rest: LayerCost
    steps: int
    blocks: int
    provenance: Provenance | None
    relative_uncertainty: float | None
    devices: list[str]
    seconds: float
    notes: list[str]

    def _repr_html_(self) -> str:
        html: str = _in_notebooks().layers_html(self)
        return html

    def to_text(self, width: int = 80) -> str:
        """Return a table of this many columns of a terminal, and notes."""
        text: str = _in_notebooks().layers_text(self, width)
        return text

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain dictionaries, lists, texts and numbers."""
        facts: dict[str, Any] = msgspec.to_builtins(self)
        return facts

    def to_frame(self) -> Any:  # noqa: ANN401 - of pandas or polars
        """Return the layers and the rest as rows of a data frame of pandas or polars.

        Raises:
            ConfigurationError: Neither is installed.
        """
        return _in_notebooks().layers_frame(self)

    def plot(self) -> Any:  # noqa: ANN401 - report.notebook.Picture
        """Return a picture of the layers, which a notebook shows and whose ``save`` writes a page."""
        return _in_notebooks().plot_layers(self)


def rest_of(seconds: float, layers: Sequence[LayerCost], reason: str | None) -> LayerCost:
    """Return the time of a step in s that is in none of the layers of depth 1."""
    left = max(0.0, seconds - sum(layer.seconds for layer in layers if layer.depth == 1))
    share = ratio(left, seconds) or 0.0
    return LayerCost(name="rest", kind="", depth=1, calls=1, seconds=left, time_share=share, reason=reason)


def _in_notebooks() -> ModuleType:
    """Return the module that shows results, which uses this one; importing a result imports none of it."""
    from ml_energy_callbacks.inference.layers import notebook  # noqa: PLC0415 - see above

    return notebook
