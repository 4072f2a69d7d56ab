"""Where a model runs: on which devices of this process, and in how many processes."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.job.job import Gather
from ml_energy_callbacks.readings import Kind


def gather() -> Gather | None:
    """Return the function that gathers objects from all processes of a torch process group; None if there is no group."""
    if keras.backend.backend() != "torch":
        return None
    from ml_energy_callbacks.frameworks.torch import all_gather, joined  # noqa: PLC0415 - another backend needs no torch

    return all_gather if joined() else None


def check_processes(model: keras.Model) -> None:
    """Refuse a model that TensorFlow or JAX runs in several processes: Keras's counts are then not those of one process.

    Raises:
        ConfigurationError: The model runs in several processes.
    """
    count = _PROCESSES.get(keras.backend.backend())
    processes = 1 if count is None else count(model)
    if processes > 1:
        msg = (
            f"With TensorFlow and JAX, EnergyCallback supports only one process, and this job has {processes}: use all GPUs of "
            "a machine in one (tf.distribute.MirroredStrategy, or keras.distribution with JAX), or remove EnergyCallback."
        )
        raise ConfigurationError(msg)


def gpus(model: keras.Model) -> Sequence[str] | None:
    """Return the GPUs that hold the model's variables, as ``"cuda:<n>"`` by CUDA's numbers; None if they are unknown."""
    return [f"cuda:{number}" for number in sorted(numbers(model, "gpu"))] or None


def accelerator(model: keras.Model) -> Kind | None:
    """Return the kind of accelerator that holds the model's variables; None for the processor, and where it is not known."""
    if keras.backend.backend() != "torch":
        return next((kind for kind in _ACCELERATORS if numbers(model, kind)), None)
    from ml_energy_callbacks.frameworks.torch import accelerator_of  # noqa: PLC0415 - another backend needs no torch

    kinds = (accelerator_of(variable.value.device) for variable in model.variables)
    return next((kind for kind in kinds if kind is not None), None)


def numbers(model: keras.Model, kind: str) -> set[int]:
    """Return the numbers, in the driver's order, of the devices of this process that hold the model's variables.

    Args:
        model: The model.
        kind: ``"gpu"``, ``"tpu"`` or ``"cpu"``.

    Returns:
        The numbers; an empty set if the framework does not report them.
    """
    find = _NUMBERS.get(keras.backend.backend())
    try:
        return set() if find is None else set(find([variable.value for variable in model.variables], kind))
    except Exception:  # noqa: BLE001 - another release may raise anything: the numbers are unknown, training continues
        return set()


def _tensorflow_processes(model: Any) -> int:
    resolver = model.distribute_strategy.cluster_resolver
    cluster = None if resolver is None else resolver.cluster_spec()
    return sum(cluster.num_tasks(job) for job in cluster.jobs) if cluster else 1


def _jax_processes(_: Any) -> int:
    import jax  # noqa: PLC0415 - another backend needs no JAX

    return int(jax.process_count())


def _tensorflow_numbers(values: Iterable[Any], kind: str) -> Iterator[int]:
    import tensorflow as tf  # noqa: PLC0415 - another backend needs no TensorFlow

    visible, physical = tf.config.get_visible_devices(kind.upper()), []
    for number, device in enumerate(tf.config.list_physical_devices(kind.upper())):
        if device in visible:  # by one logical device, or as many as it was split into
            physical += [number] * len(tf.config.get_logical_device_configuration(device) or [device])
    if len(physical) != len(tf.config.list_logical_devices(kind.upper())):
        return
    for value in values:
        for copy in getattr(value, "values", (value,)):  # a variable of a strategy has one on each device
            device = tf.DeviceSpec.from_string(copy.device)
            if device.device_type == kind.upper():
                yield physical[device.device_index]


def _jax_numbers(values: Iterable[Any], kind: str) -> Iterator[int]:
    for value in values:
        yield from (device.local_hardware_id for device in value.devices() if device.platform == kind)


def _torch_numbers(values: Iterable[Any], kind: str) -> Iterator[int]:
    own = {"gpu": "cuda"}.get(kind, kind)
    yield from (value.device.index or 0 for value in values if value.device.type == own)


_ACCELERATORS: tuple[Kind, ...] = ("gpu", "tpu")
_PROCESSES = {"tensorflow": _tensorflow_processes, "jax": _jax_processes}
_NUMBERS = {"tensorflow": _tensorflow_numbers, "jax": _jax_numbers, "torch": _torch_numbers}
