"""The parts of a batch, marked by the calls that a framework makes to methods of its own objects.

Until the training ends, an object has such a method as an attribute of its own, which marks the part and calls the method. What
the method returns and raises stays the same, and so does the class, and with it every other object.
"""

import functools
from collections.abc import Callable
from typing import Any
from weakref import ref

from ml_energy_callbacks.meter.meter import EnergyMeter
from ml_energy_callbacks.meter.unforeseen import in_words, pass_users_error
from ml_energy_callbacks.metrics import Part

_ABSENT: Any = object()

_Method = Callable[..., Any]


class Parts:
    """Marks the parts of the batches of one training.

    Attributes:
        open: Whether a batch of the training runs: nothing else is marked, such as a validation inside of the training.

    Args:
        meter: The meter.
        unseen: Why there are no parts where a training shows no forward or no backward pass.
    """

    def __init__(self, meter: EnergyMeter, unseen: str) -> None:
        self.open = False
        self._meter = meter
        self._unseen = unseen
        self._around: Part | None = None
        # Of each method: the object, its name, what replaced it, and what the object had of its own before.
        self._replaced: list[tuple[ref[Any], str, ref[Any], Any]] = []

    def enter(self, part: Part | None) -> None:
        """Begin a part, or what is left of the batch, in a hook; it ends with the next one, or with the batch."""
        if self.open and self._replaced:
            try:
                self._meter.enter_part(part)
            except Exception as error:  # noqa: BLE001 - see _fail()
                self._fail(error)

    # Each batch calls the functions below, which therefore call nothing but the meter.

    def around(self, owner: Any, name: str, part: Part, *, late: bool = False) -> None:  # noqa: ANN401 - of any framework
        """Let each call of an object's method be this part, inside of the part that runs around it.

        Args:
            owner: The object.
            name: The method.
            part: The part.
            late: Whether it begins only when a part inside of it ends, since nothing of note comes before that.
        """
        enter, begins = self._meter.enter_part, not late

        def wrap(method: _Method) -> _Method:
            def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - of the method
                outer, self._around = self._around, part
                try:
                    if begins and self.open:
                        try:
                            enter(part)
                        except Exception as error:  # noqa: BLE001 - see _fail()
                            self._fail(error)
                    return method(*args, **kwargs)
                finally:
                    self._around = outer
                    if self.open:
                        try:
                            enter(outer)
                        except Exception as error:  # noqa: BLE001 - as above
                            self._fail(error)

            return call

        self._replace(owner, name, wrap)

    def begin(self, owner: Any, name: str, part: Part, *, after: bool = False) -> None:  # noqa: ANN401 - as above
        """Let a part begin with each call of an object's method, or ``after`` it, and end with the next one."""
        enter = self._meter.enter_part

        def wrap(method: _Method) -> _Method:
            def begin_before(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as above
                if self.open:
                    try:
                        enter(part)
                    except Exception as error:  # noqa: BLE001 - as above
                        self._fail(error)
                return method(*args, **kwargs)

            def begin_after(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as above
                result = method(*args, **kwargs)
                if self.open:
                    try:
                        enter(part)
                    except Exception as error:  # noqa: BLE001 - as above
                        self._fail(error)
                return result

            return begin_after if after else begin_before

        self._replace(owner, name, wrap)

    def _replace(self, owner: Any, name: str, wrap: Callable[[_Method], _Method]) -> None:  # noqa: ANN401 - as above
        """Give an object a method of its own; past its ``__setattr__``, which may do more than that."""
        own, method = vars(owner), getattr(owner, name)
        before, own[name] = own.get(name, _ABSENT), functools.wraps(method)(wrap(method))
        self._replaced.append((ref(owner), name, ref(own[name]), before))

    def _fail(self, error: Exception) -> None:
        """Mark nothing more after an unforeseen error: training continues without parts."""
        pass_users_error(error)
        self._meter.warn_of_error(error)
        self.refuse(f"The parts could not be marked: {in_words(error)}.")

    def refuse(self, reason: str) -> None:
        """Mark nothing more; the record has no parts, for this reason."""
        self.restore()
        self._meter.explain_parts(reason)

    def review(self) -> None:
        """Refuse the parts of a training that has shown no forward or no backward pass in its batches."""
        seen = {"forward", "backward"} <= set(self._meter.parts_of("train"))
        if self._replaced and not seen and self._meter.counts("train").batches:
            self.refuse(self._unseen)

    def close(self) -> None:
        """End the training."""
        self.review()
        self.restore()

    def restore(self) -> None:
        """Mark nothing more, and leave the objects as they were; what somebody else has put over ours stays."""
        self.open = False
        while self._replaced:
            owner, name, method, before = self._replaced.pop()
            own = vars(owner()) if owner() is not None else {}
            if name in own and own[name] is method():
                if before is _ABSENT:
                    del own[name]
                else:
                    own[name] = before
