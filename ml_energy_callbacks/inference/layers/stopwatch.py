"""Times of the layers in single steps, forward and backward, by hooks that are there during these steps alone."""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from ml_energy_callbacks.clock import NS_PER_S, Clock, monotonic_clock
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.inference.layers.tree import Layer

_Stamp = Any
"""Reading of the clock in ns, or an event of CUDA."""


class Timing(Protocol):
    """Stamps of what a device has reached."""

    def stamp(self) -> _Stamp:
        """Return the present instant."""

    def seconds(self, start: _Stamp, end: _Stamp) -> float:
        """Return the time in s between two stamps that are both known."""

    def known(self, stamp: _Stamp) -> bool:
        """Return whether the device has reached it."""


class HostTiming:
    """Stamps by the clock, for work that is done when its call returns."""

    def __init__(self, clock: Clock = monotonic_clock) -> None:
        """Use this clock."""
        self.stamp = clock

    def seconds(self, start: int, end: int) -> float:
        """Return the time in s between two stamps."""
        return (end - start) / NS_PER_S

    def known(self, _: int) -> bool:
        """Return True."""
        return True


class CudaTiming:
    """Stamps by events of CUDA, which the device records when it gets there; nothing waits for them."""

    def __init__(self, device: Any) -> None:  # noqa: ANN401 - torch.device
        """Use this GPU."""
        self._cuda: Any = sys.modules["torch"].cuda
        self._device = device

    def stamp(self) -> _Stamp:
        """Record an event on the current stream."""
        event = self._cuda.Event(enable_timing=True)
        event.record(self._cuda.current_stream(self._device))
        return event

    def seconds(self, start: _Stamp, end: _Stamp) -> float:
        """Return the time in s between two events."""
        return float(start.elapsed_time(end)) / 1000

    def known(self, stamp: _Stamp) -> bool:
        """Return whether the device has reached an event."""
        return bool(stamp.query())


def timing_of(tensors: Iterable[Any], clock: Clock = monotonic_clock) -> Timing:
    """Return how work on these tensors is timed.

    Raises:
        ConfigurationError: They are on several devices, or on one that has no events.
    """
    devices = {tensor.device for tensor in tensors}
    if not devices or {device.type for device in devices} == {"cpu"}:
        return HostTiming(clock)
    if len(devices) == 1 and (device := devices.pop()).type == "cuda":
        return CudaTiming(device)
    names = ", ".join(sorted(map(str, devices))) or str(device)
    msg = f"The module and its inputs are on {names}; layers are timed on the processor or on one GPU of CUDA or ROCm."
    raise ConfigurationError(msg)


@dataclass(slots=True)
class LayerTimes:
    """Sums over the timed steps: calls, and the seconds of the forward and the backward pass; parts are included."""

    calls: int = 0
    forward: float = 0.0
    backward: float = 0.0


@dataclass(slots=True)
class _Step:
    """A step that is being timed: stamps of its ends and, by layer, of passes through it.

    The end of a backward pass is None until it gets there.
    """

    start: _Stamp
    end: _Stamp = None
    forward: list[tuple[int, _Stamp, _Stamp]] = field(default_factory=list)
    backward: list[list[Any]] = field(default_factory=list)


class Stopwatch:
    """Times steps.

    The backward pass of a layer begins with the node of its output in the graph of the gradients, and ends with the first node
    that its forward pass added. These nodes' own hooks go with the graph; unlike a module's backward hooks they change
    nothing in it, so that operations in place remain possible.

    Attributes:
        steps: Number of steps so far whose times are known.
        seconds: Their time in s.
        times: Sums over them by layer.
        error: What went wrong in a hook; the times of that step are left out. None if nothing did.
    """

    def __init__(self, layers: Sequence[Layer], timing: Timing) -> None:
        """Time these layers."""
        self.steps = 0
        self.seconds = 0.0
        self.times = [LayerTimes() for _ in layers]
        self.error: Exception | None = None
        self._layers = layers
        self._timing = timing
        self._handles: list[Any] = []
        self._within: list[tuple[int | None, _Stamp, int]] = []
        self._step: _Step | None = None
        self._pending: deque[_Step] = deque()

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what times nothing: a network that is copied or saved in a timed step takes its hooks along."""
        return Stopwatch, ((), HostTiming())

    def start(self) -> None:
        """Begin a step; one that has not ended is left out."""
        self.cancel()
        self._within = [(None, None, 0)]
        for i, layer in enumerate(self._layers):
            self._handles.append(layer.module.register_forward_pre_hook(partial(self._guarded, self._enter, i)))
            self._handles.append(layer.module.register_forward_hook(partial(self._guarded, self._leave, i)))
        self._step = _Step(self._timing.stamp())

    def stop(self) -> None:
        """End the step."""
        step = self._step
        if step is not None:
            step.end = self._timing.stamp()
            self._pending.append(step)
        self.cancel()
        self.resolve()

    def cancel(self) -> None:
        """Remove the hooks; a step that has not ended is left out."""
        self._step = None
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def resolve(self) -> None:
        """Add the steps that the device has completed."""
        while self._pending and self._timing.known(self._pending[0].end):
            self._add(self._pending.popleft())

    def _add(self, step: _Step) -> None:
        self.steps += 1
        self.seconds += self._timing.seconds(step.start, step.end)
        for i, start, end in step.forward:
            self.times[i].calls += 1
            self.times[i].forward += self._timing.seconds(start, end)
        for i, start, end in step.backward:
            self.times[i].backward += 0.0 if end is None else self._timing.seconds(start, end)

    def _guarded(self, hook: Callable[..., None], index: int, *args: Any) -> None:  # noqa: ANN401 - of torch
        """Call a hook; an error ends the timing of the step, and not the step."""
        if self._step is None:
            return
        try:
            hook(self._step, index, *args)
        except Exception as error:  # noqa: BLE001 - a module may return anything
            self.error, self._step = error, None

    def _enter(self, _step: _Step, index: int, *_: Any) -> None:  # noqa: ANN401 - the module, and its arguments
        # A call from elsewhere, such as that of a module in two places, is a part of the layer that makes it. So is one that
        # checkpointing repeats in the backward pass, whose time it is.
        if self._within[-1][0] == self._layers[index].parent and not _in_backward():
            self._within.append((index, self._timing.stamp(), next_node()))

    def _leave(self, step: _Step, index: int, _module: Any, _args: Any, output: Any) -> None:  # noqa: ANN401 - as above
        entered, start, first = self._within[-1]
        if entered != index:
            return
        self._within.pop()
        step.forward.append((index, start, self._timing.stamp()))
        last = {tensor.grad_fn for tensor in tensors_in(output)}
        own = {node: nodes for node in last if (nodes := list(_nodes_since(first, [node])))}
        self._watch_backward(step, index, own, {min(nodes, key=_number) for nodes in own.values()})

    def _watch_backward(self, step: _Step, index: int, last: Iterable[Any], first: Iterable[Any]) -> None:
        """Time the backward pass of a layer, from the nodes of its outputs to the first ones that its forward pass added.

        Each output has a first node of its own, as an output that nobody uses has no backward pass.
        """
        passes: list[list[Any]] = []

        def begin(running: _Step, *_: Any) -> None:  # noqa: ANN401 - gradients
            if running is step and (not passes or passes[-1][2] is not None):
                passes.append([index, self._timing.stamp(), None])
                step.backward.append(passes[-1])

        def end(running: _Step, *_: Any) -> None:  # noqa: ANN401 - gradients
            if running is step and passes:
                passes[-1][2] = self._timing.stamp()

        for node in last:
            node.register_prehook(partial(self._guarded, begin, index))
        for node in first:
            node.register_hook(partial(self._guarded, end, index))


def tensors_in(value: Any) -> list[Any]:  # noqa: ANN401 - arguments or outputs of a module
    """Return the tensors in a tensor, in nested tuples, lists and dictionaries, and in the outputs of Transformers."""
    torch: Any = sys.modules["torch"]
    return [leaf for leaf in torch.utils._pytree.tree_flatten(value)[0] if isinstance(leaf, torch.Tensor)]  # noqa: SLF001


def _in_backward() -> bool:
    """Return whether the backward pass calls this."""
    return bool(sys.modules["torch"]._C._current_graph_task_id() != -1)  # noqa: SLF001 - as checkpointing itself finds it


def next_node() -> int:
    """Return the number of the next node of this thread in the graph of the gradients."""
    return int(sys.modules["torch"].autograd._get_sequence_nr())  # noqa: SLF001 - there is no other way


def _number(node: Any) -> int:  # noqa: ANN401 - a node of torch
    return int(node._sequence_nr())  # noqa: SLF001 - as above


def _nodes_since(first: int, nodes: Iterable[Any]) -> Iterator[Any]:
    """Yield the nodes with these numbers and above that these depend on, without those that hold a parameter's gradient."""
    found, seen = [*nodes], set()
    while found:
        node = found.pop()
        if node is None or node in seen or _number(node) < first or not node.next_functions:
            continue
        seen.add(node)
        yield node
        found.extend(entry for entry, _ in node.next_functions)
