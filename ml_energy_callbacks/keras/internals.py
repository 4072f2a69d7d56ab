"""Everything that is read from Keras's private parts, as they are in Keras 3.15.0 (and JAX 0.10.2).

None of it is documented, and any release may change it. Each function names what it reads, and returns None or another neutral
value if that no longer exists: the number is then unknown, and training continues.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import keras

from ml_energy_callbacks.control import Mode
from ml_energy_callbacks.frameworks import guard
from ml_energy_callbacks.meter.unforeseen import pass_users_error

JAX_TRACE_EVENT = "/jax/core/compile/jaxpr_trace_duration"
"""The event that JAX 0.10.2 reports when it has traced a function, which it compiles next.

It is ``JAXPR_TRACE_EVENT`` of ``jax/_src/dispatch.py``. If JAX renames it, no event is recognised.
"""

_DIRECTIONS: dict[str | None, Mode] = {"up": "max", "down": "min"}


@dataclass(frozen=True)
class LoopFacts:
    """Facts about a call of ``fit``, ``evaluate`` or ``predict``; None for those that could not be read.

    Attributes:
        model: The model whose method it is.
        data: Its argument ``x``.
        steps: Number of its batches (in training, of an epoch); None also if Keras does not know it.
        has_partial_batch: Whether its last batch is smaller than the others; None also if Keras does not know it.
        validation_freq: Its argument of that name; None also if it has no validation data.
    """

    model: Any = None
    data: Any = None
    steps: int | None = None
    has_partial_batch: bool | None = None
    validation_freq: Any = None


def given_model(callback: keras.callbacks.Callback) -> Any:
    """Return the model that Keras gave to a callback, which torch's DistributedDataParallel may wrap.

    Reads ``Callback._model`` (keras/src/callbacks/callback.py, 3.15.0). The public ``model`` is the same, but with JAX it first
    writes the state of the running loop back into the model.
    """
    try:
        return callback._model  # noqa: SLF001 - see above
    except AttributeError:
        return callback.model


def caller_of(hook: FrameType) -> tuple[keras.callbacks.CallbackList | None, FrameType | None]:
    """Return the list of callbacks that called a hook, and the frame that called the list; None if no list did.

    Reads the local ``self`` of the frame that called the hook, which is that of a method of ``CallbackList``
    (keras/src/callbacks/callback_list.py, 3.15.0): Keras gives a callback no access to the other callbacks.
    """
    caller = guard.caller_of(hook)
    owner = _locals_of(caller).get("self")
    if caller is None or not isinstance(owner, keras.callbacks.CallbackList):
        return None, None
    return owner, caller.f_back


def _locals_of(frame: FrameType | None) -> Mapping[str, Any]:
    """Return the variables of one of Keras's own frames; none of any other.

    Before Python 3.13, reading a frame's variables keeps them alive for as long as it runs.
    """
    own = frame is not None and frame.f_globals.get("__name__", "").startswith("keras.")
    return frame.f_locals if frame is not None and own else {}


def loop_facts(frame: FrameType | None) -> LoopFacts:
    """Return the facts about the loop in a frame.

    Reads the locals ``self``, ``x``, ``epoch_iterator``, ``validation_data`` and ``validation_freq`` of ``fit``, ``evaluate``
    or ``predict`` (keras/src/backend/<backend>/trainer.py, 3.15.0), and ``num_batches`` and ``data_adapter`` of the iterator
    (keras/src/trainers/epoch_iterator.py).
    """
    own = _locals_of(frame)
    iterator = own.get("epoch_iterator")
    return LoopFacts(
        model=own.get("self"),
        data=own.get("x"),
        steps=_attribute(iterator, "num_batches"),
        has_partial_batch=_attribute(_attribute(iterator, "data_adapter"), "has_partial_batch"),
        validation_freq=None if own.get("validation_data") is None else own.get("validation_freq", 1),
    )


def _attribute(source: Any, name: str) -> Any:
    """Return an attribute of an object of Keras, or None if it is unknown: some attributes then raise an error."""
    try:
        return getattr(source, name, None)
    except Exception as error:  # noqa: BLE001 - another release of Keras may raise anything: it is unknown, training continues
        pass_users_error(error)
        return None


def jitted_step(function: Any) -> Any:
    """Return the step that JAX compiles inside of a model's function for a batch; None if it compiles none.

    Reads the closures of ``train_function`` and the like (``make_train_function`` and ``_make_function`` of
    keras/src/backend/jax/trainer.py, 3.15.0), for the one object that has a method ``lower``, as what ``jax.jit`` returns does.
    """
    for cell in getattr(function, "__closure__", None) or ():
        inner = cell.cell_contents
        found = inner if callable(inner) and hasattr(inner, "lower") else jitted_step(inner)
        if found is not None:
            return found
    return None


def weight_of_loss(model: keras.Model) -> float | None:
    """Return the sum of the weights in the model's running mean of the loss, which are the batches' numbers of samples.

    Reads ``Trainer._loss_tracker.count`` (keras/src/trainers/trainer.py, 3.15.0), the only place where Keras counts samples.
    """
    try:
        return _current_value(model, model._loss_tracker.count)  # noqa: SLF001 - see above
    except Exception as error:  # noqa: BLE001 - another release of Keras may raise anything: it is unknown, training continues
        pass_users_error(error)
        return None


def mean_loss(model: keras.Model) -> float | None:
    """Return the model's running mean of the loss.

    Reads ``Trainer._loss_tracker`` (keras/src/trainers/trainer.py, 3.15.0).
    """
    try:
        return float(model._loss_tracker.result())  # noqa: SLF001 - see above
    except Exception as error:  # noqa: BLE001 - as above
        pass_users_error(error)
        return None


def _current_value(model: Any, variable: keras.Variable) -> float:
    """Return the value of one of a model's metrics' variables.

    Reads ``_jax_state`` of the trainer (keras/src/backend/jax/trainer.py, 3.15.0): within a loop of the JAX backend the
    variables themselves are not up to date. Other backends have no such attribute.
    """
    state = getattr(model, "_jax_state", None)
    if not state:
        try:
            return float(variable.value)
        except TypeError:  # a variable of tf.distribute
            return float(variable.value.numpy())
    place = [id(candidate) for candidate in model.metrics_variables].index(id(variable))
    return float(state["metrics_variables"][place])


def single_metrics(model: keras.Model) -> Sequence[Any]:
    """Return the model's metrics one by one.

    Reads ``metrics`` of those that hold others, such as ``CompileMetrics`` (keras/src/trainers/compile_utils.py, 3.15.0).
    """
    return [inner for metric in model.metrics for inner in (getattr(metric, "metrics", None) or [metric])]


def better_direction(metric: Any) -> Mode | None:
    """Return whether lower or higher values of a metric are better; None if Keras does not know.

    Reads ``_direction``, as Keras's own ``EarlyStopping`` does (keras/src/callbacks/monitor_callback.py, 3.15.0).
    """
    return _DIRECTIONS.get(getattr(metric, "_direction", None))
