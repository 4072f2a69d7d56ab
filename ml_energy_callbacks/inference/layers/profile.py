"""Energy, time and operations of the layers of a network."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.inference.layers.calls import Call, record_calls, split_inputs
from ml_energy_callbacks.inference.layers.costs import layer_fields
from ml_energy_callbacks.inference.layers.measure import Measured, measure_layers
from ml_energy_callbacks.inference.layers.results import LayerProfile
from ml_energy_callbacks.inference.layers.state import kept_state
from ml_energy_callbacks.inference.layers.stopwatch import tensors_in, timing_of
from ml_energy_callbacks.inference.layers.tree import Layer, find_layers
from ml_energy_callbacks.inference.options import bench_of, check_measurement, quiet_meter
from ml_energy_callbacks.meter.options import is_flag
from ml_energy_callbacks.meter.unforeseen import pass_users_error
from ml_energy_callbacks.readings import Backend
from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.safe_text import describe


def profile_layers(
    module: Any,  # noqa: ANN401 - a torch module
    example_inputs: Any,  # noqa: ANN401 - what it takes
    *,
    depth: int = 2,
    backward: bool = True,
    relative_width: float = 0.05,
    max_seconds: float = 120.0,
    devices: Literal["auto"] | Sequence[str] = "auto",
    backends: Sequence[Backend] | None = None,
    seed: int = 0,
    progress: Callable[[LayerProfile], None] | None = None,
) -> LayerProfile:
    """Measure the energy, time and operations of the layers of a torch module in a step.

    Shuffled rounds measure blocks of steps. In most of them, one of the layers is run again on its own recorded inputs, a
    varied number of times, from which least squares find the energy of each. The module runs in the mode in which it is; it,
    its gradients, the inputs and the random numbers are left as they were.

    Args:
        module: The network, on the processor or on one GPU of CUDA or ROCm.
        example_inputs: A typical batch: a tuple of the inputs, a dictionary of them by name, or the only one.
        depth: 1 for the parts of the network, 2 for the parts of these, too, and so on.
        backward: Whether a step computes the gradients as well: of the output ``loss`` if there is one, and else of the sum of
            the outputs.
        relative_width: Requested half-width of the 95 % interval of a layer's energy, as a fraction.
        max_seconds: No block starts after this time in s.
        devices: ``"auto"`` or ids and globs, as in :class:`EnergyMeter`.
        backends: Where to look for hardware; None for all known backends.
        seed: Seed of the order within the rounds and of the repeats.
        progress: Called with the results so far after each block.

    Raises:
        ConfigurationError: An option is invalid, the module has no layers that can be measured, or it fails on the inputs; the
            message says what to do.
        EnergyError: The layers cannot be timed.
    """
    layers = find_layers(module, depth)
    check_measurement(relative_width, max_seconds, progress)
    step = _checked_step(module, example_inputs, backward)
    timing = timing_of(_tensors(step))

    def summarize(measured: Measured, record: RunRecord) -> LayerProfile:
        return _make_profile(module, measured, record)

    def report_progress(measured: Measured) -> None:
        if progress is not None:
            progress(summarize(measured, meter.record))

    with kept_state(module):
        measured = Measured(layers, _try_step(step, layers))
        with quiet_meter(devices, backends) as meter:
            measure_layers(
                step,
                measured,
                timing,
                bench_of(meter),
                relative_width=relative_width,
                max_seconds=max_seconds,
                seed=seed,
                progress=report_progress,
            )
        return summarize(measured, meter.record)


def _checked_step(module: Any, example_inputs: Any, backward: object) -> Call:  # noqa: ANN401 - as above
    if not is_flag(backward):
        msg = f"backward is {describe(backward)}; give True to measure the gradients as well, or False."
        raise ConfigurationError(msg)
    if type(module).__name__ in {"DataParallel", "DistributedDataParallel"}:
        msg = f"The module is a {type(module).__name__}; pass the module inside of it, its attribute module."
        raise ConfigurationError(msg)
    if backward and not any(parameter.requires_grad for parameter in module.parameters()):
        msg = "No parameter of the module requires gradients; set backward=False to measure the forward pass alone."
        raise ConfigurationError(msg)
    return Call(module, *split_inputs(example_inputs), backward=bool(backward)).with_copies()


def _tensors(step: Call) -> list[Any]:
    return [*step.module.parameters(), *step.module.buffers(), *tensors_in((step.args, step.kwargs))]


def _try_step(step: Call, layers: Sequence[Layer]) -> list[list[Call]]:
    """Run a step for the first time, and return the calls of its layers.

    Raises:
        ConfigurationError: It fails, or calls none of the layers.
    """
    try:
        calls = record_calls(layers, step)
        step()
    except Exception as error:
        pass_users_error(error)
        name, kind = type(step.module).__name__, type(error).__name__
        msg = f"{name} failed on example_inputs ({kind}: {error}); pass a tuple of its inputs, or a dictionary of them by name."
        raise ConfigurationError(msg) from error
    if not any(calls):
        msg = f"{type(step.module).__name__} calls none of its layers on example_inputs; pass inputs of a usual step."
        raise ConfigurationError(msg)
    return calls


def _make_profile(module: Any, measured: Measured, record: RunRecord) -> LayerProfile:  # noqa: ANN401 - as above
    fields = layer_fields(measured)
    fields["notes"] += record.warnings
    return LayerProfile(
        module=type(module).__name__,
        method="repetition",
        provenance=record.total.provenance,
        relative_uncertainty=record.total.relative_uncertainty,
        devices=[device.id for device in record.devices],
        **fields,
    )
