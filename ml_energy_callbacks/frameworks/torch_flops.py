"""Floating-point operations (FLOPs) of a batch, counted from the operators that torch runs in it.

The formulas are those of torch's own counter (torch/utils/flop_counter.py): two FLOPs for each multiplication and addition of
matrix products, convolutions and attention, forward and backward. Its ``FlopCounterMode`` itself is not used in a training: an
error in a formula would end it, some operators would run in a different way (dropout with other random numbers), and operators
without a formula would count as nothing.
"""

import contextlib
import gc
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Final, NamedTuple

import torch
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode

from ml_energy_callbacks.frameworks.guard import guarded
from ml_energy_callbacks.meter.meter import EnergyMeter
from ml_energy_callbacks.meter.unforeseen import pass_users_error

METHOD: Final = "torch operators"
"""How the FLOPs of a sample are known, for the record."""

_COMPOSITE: Final = torch._C.DispatchKey.CompositeImplicitAutograd  # noqa: SLF001 - torch has no public name for it
_BACKENDS: Final = ("CPU", "CUDA", "MPS", "XPU", "HPU", "XLA", "MTIA", "PrivateUse1")

_WITHOUT_FLOPS: Final = frozenset(
    {"aten", "prim", "prims", "profiler", "c10d", "_c10d_functional", "_c10d_functional_autograd", "fsdp"}
)
"""Libraries of operators: torch's own, and those of communication. Those of others may do anything."""

_HEAVY: Final = re.compile(
    r"(?!_thnn_|linalg_vector_norm|linalg_cross)(.*_)?"
    r"(mm|bmm|addmm|addbmm|baddbmm|hspmm|sspaddmm|mv|addmv|matmul|linear|conv\w*|attention|encoder|rnn|lstm|gru|trilinear|fft|"
    r"linalg|cholesky)(_.*)?"
)
"""Names of torch's operators whose FLOPs count; those of others, such as elementwise operators, are few beside them."""

_LEAVES_TRAINING_ALONE: Final = hasattr(flop_counter, "flop_registry") and all(
    hasattr(TorchDispatchMode, name) for name in ("ignore_compile_internals", "supports_higher_order_operators")
)
"""Whether this torch, as those from 2.9 on, lets a mode be entered without an effect on what is compiled, or an error."""


class _Operator(NamedTuple):
    """What is known of an operator.

    Attributes:
        formula: Returns its FLOPs from its arguments and its result; None if it has none.
        composite: Whether it consists of other operators, on all devices.
        reason: Why its FLOPs are not known; None if they are.
    """

    formula: Callable[..., int] | None
    composite: bool
    reason: str | None


def _known_of(operator: object) -> _Operator:
    """Return what is known of an operator; nothing of one that is not like the others."""
    try:
        return _examined(operator)
    except Exception as error:  # noqa: BLE001 - other releases of torch may raise anything, and the operator has to run
        pass_users_error(error)
        return _Operator(None, composite=False, reason=f"nothing is known of the operator {operator}")


def _examined(operator: object) -> _Operator:
    formulas = flop_counter.flop_registry
    if not isinstance(operator, torch._ops.OpOverload):  # noqa: SLF001 - what torch passes to a dispatch mode
        formula = formulas.get(operator)
        hidden = None if formula is not None else f"the operator {operator} runs others out of sight"
        return _Operator(formula, composite=False, reason=hidden)
    name = operator._schema.name  # noqa: SLF001 - its name with that of its library
    library, _, own = name.partition("::")
    alike = getattr(torch.ops.aten, own.rstrip("_").replace("_for_cpu", ""), None) if library == "aten" else None
    formula = formulas.get(operator._overloadpacket) or formulas.get(alike)  # noqa: SLF001 - the key of a formula
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key  # noqa: SLF001 - as torch's own counter asks
    key: str = operator.name()  # type: ignore[no-untyped-call]
    composite = has_kernel(key, "CompositeImplicitAutograd") and not any(has_kernel(key, backend) for backend in _BACKENDS)
    unknown = formula is None and (library not in _WITHOUT_FLOPS or (library == "aten" and _HEAVY.fullmatch(own) is not None))
    return _Operator(formula, composite, f"there is no formula for the operator {name}" if unknown else None)


class OperatorCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the FLOPs of the operators that run while it is entered; what they return stays the same.

    Attributes:
        flops: FLOPs so far.
        reason: Why they are not known, or None.
        idle: Whether it passes on all operators without a look at them.
    """

    supports_higher_order_operators = True  # else torch raises an error when one runs

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0
        self.reason: str | None = None
        self.idle = False
        self._known_of = cache(_known_of)  # a formula may be registered before the next count

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Return that what is compiled stays compiled while this is entered."""
        return True

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Run an operator, and count it."""
        kwargs = kwargs or {}
        if self.idle:
            return func(*args, **kwargs)
        known = self._known_of(func)
        if known.formula is None and known.composite and not types and torch.is_inference_mode_enabled():
            # Else autograd has divided it before. This is the function that torch would call for it now.
            with self:
                return func._op_dk(_COMPOSITE, *args, **kwargs)  # type: ignore[attr-defined] # noqa: SLF001 - see above
        result = func(*args, **kwargs)
        try:
            self._count(known, types, args, kwargs, result)
        except Exception as error:  # noqa: BLE001 - of a formula, which may be the user's
            pass_users_error(error)
            self.reason = self.reason or f"the formula for the operator {func} failed ({error!r})"
        return result

    def _count(
        self, known: _Operator, types: Sequence[type], args: Sequence[object], kwargs: Mapping[str, object], result: object
    ) -> None:
        hidden = types and (known.formula is not None or known.composite)
        reason = f"{types[0].__name__} runs operators out of sight" if hidden else known.reason
        if reason is not None:
            self.reason = self.reason or reason
        elif known.formula is not None:
            self.flops += known.formula(*args, **kwargs, out_val=result)


class StepFlops:
    """Counts the FLOPs of one batch of each stage, and tells the meter those of a sample.

    In training it is the second batch, as the first one may still set up layers.

    Args:
        meter: The meter.
    """

    def __init__(self, meter: EnergyMeter) -> None:
        self._meter = meter
        self._begun: Counter[str] = Counter()
        self._done: set[str] = set()
        self._stage: str | None = None
        self._entered: OperatorCounter | None = None

    def begin_run(self) -> None:
        """Count once more in each stage: another start of the meter may have another model."""
        self.abandon()
        self._begun.clear()
        self._done.clear()

    def due(self, stage: str) -> bool:
        """Return whether a batch of the stage is still to be counted."""
        return stage not in self._done

    @guarded
    def begin(self, stage: str, model: object) -> None:
        """Begin a batch.

        Args:
            stage: The stage.
            model: The module that runs, as the framework has wrapped it.
        """
        if self._entered is not None:
            self.abandon()
        if stage in self._done or self._entered is not None:
            return
        self._begun[stage] += 1
        if stage == "train" and self._begun[stage] == 1:
            return
        self._done.add(stage)
        if self._meter.knows_flops(stage):  # the user gave them
            return
        reason = _hiding(model)
        if reason is not None:
            self._warn(stage, reason)
            return
        self._stage, self._entered = stage, OperatorCounter()
        self._entered.__enter__()  # type: ignore[no-untyped-call]

    @guarded
    def end(self, samples: int | None) -> None:
        """End a batch with so many samples; None if their number is not known."""
        counter, stage = self._entered, self._stage
        if counter is None or stage is None:
            return
        self.abandon()
        reason = counter.reason or (_COMPILED if _compiled_any() else None)
        if reason is None and not counter.flops:
            reason = "none of the operators of the batch has a formula"
        if reason is None and not samples:
            reason = "the number of samples of the batch is unknown"
        if reason is not None or not samples:
            self._warn(stage, str(reason))
        else:
            self._meter.set_flops_per_sample(stage, counter.flops / samples, METHOD)

    @guarded
    def abandon(self) -> None:
        """End what is being counted without a result."""
        counter, self._stage = self._entered, None
        if counter is None:
            return
        counter.idle = True
        if _get_current_dispatch_mode() is counter:  # else another one was entered since, which has to be left first
            self._entered = None
            counter.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    def batch(self, stage: str, model: object, samples: int | None) -> Iterator[None]:
        """Run the body as a batch of a stage with so many samples, unless it is inside of one; an exception ends the count."""
        if self._stage is not None:
            yield
            return
        self.begin(stage, model)
        try:
            yield
        except BaseException:
            self.abandon()
            raise
        self.end(samples)

    def _warn(self, stage: str, reason: str) -> None:
        self._meter.warn(f"FLOPs of {stage} are unknown, as {reason}: give flops_per_sample.")


_COMPILED: Final = "torch.compile runs operators out of sight"


def _hiding(model: object) -> str | None:
    """Return why operators of a model cannot be seen; None if all can, as far as is known."""
    if not _LEAVES_TRAINING_ALONE:
        return f"torch {torch.__version__} cannot count without an effect on compiled functions"
    modules = list(model.modules()) if isinstance(model, torch.nn.Module) else []
    compiled = any(
        type(module).__name__ == "OptimizedModule"
        or getattr(module, "_compiled_call_impl", None) is not None  # of module.compile()
        or getattr(module, "_compiler_ctx", None) is not None  # of Lightning
        or (getattr(module, "jit_compile", None) is True and not getattr(module, "run_eagerly", False))  # of Keras
        for module in modules
    )
    if compiled or _compiled_any():
        return _COMPILED
    if any(isinstance(module, torch.jit.ScriptModule) for module in modules):
        return "TorchScript runs operators out of sight"
    if any(isinstance(module, torch.nn.DataParallel) for module in modules):
        return "DataParallel runs operators in other threads"
    if torch.cuda.is_available() and any(type(each) is torch.cuda.CUDAGraph for each in gc.get_objects()):
        return "a CUDA graph runs operators out of sight"
    return None


def _compiled_any() -> bool:
    """Return whether torch.compile has compiled anything in this process."""
    utils = sys.modules.get("torch._dynamo.utils")
    counters = getattr(utils, "counters", {})
    return bool(counters.get("frames"))
