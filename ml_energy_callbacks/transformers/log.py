"""The Trainer's log: energy goes into the Trainer's own entry of a step, where there is one."""

from collections.abc import Callable
from typing import Any

from transformers import Trainer, TrainerState

from ml_energy_callbacks.meter.unforeseen import in_words, pass_users_error

_Entry = dict[str, Any]


class EnergyLog:
    """Logs metrics with ``Trainer.log``, which tells each tracker and adds an entry to ``log_history``.

    Programs that read that history expect a loss in each entry of a training: an entry of energy alone is merged into the
    Trainer's own of that step, written before it or after it.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        """Log nothing yet.

        Args:
            warn: Warns the user, once per text.
        """
        self._warn = warn
        self._alone: _Entry | None = None
        self._logging = False

    def write(self, trainer: Trainer, metrics: dict[str, float], *, merge: bool = True, newest: bool = False) -> None:
        """Log metrics.

        Args:
            trainer: The Trainer.
            metrics: The metrics.
            merge: Whether the Trainer has an entry of its own for what they are of.
            newest: Whether that is the last entry of the step, not the first.
        """
        history = trainer.state.log_history
        before = len(history)
        due = trainer.control.should_log  # Trainer.log clears this flag, which says that the Trainer's own log is due
        self._logging = True
        try:
            trainer.log(metrics)
        except Exception as error:  # noqa: BLE001 - any error of a tracker or a callback: training continues
            pass_users_error(error)
            self._warn(f"A callback or a tracker of the Trainer failed when EnergyCallback logged to it ({in_words(error)}).")
        finally:
            self._logging = False
            trainer.control.should_log = due
        if not merge or len(history) != before + 1:
            return
        own = history[-1]
        same = before
        while same and history[same - 1].get("step") == own.get("step"):
            same -= 1
        if same < before:
            history[before - 1 if newest else same].update(history.pop())
        else:
            self._alone = own

    def merge_into_last(self, state: TrainerState) -> None:
        """Merge an entry of energy alone into the one that the Trainer has just written, if it is of the same step."""
        own = self._alone
        if self._logging or own is None:
            return
        self._alone = None
        history = state.log_history
        places = [place for place, entry in enumerate(history) if entry is own]
        if places and history[-1] is not own and history[-1].get("step") == own.get("step"):
            del history[places[0]]
            history[-1].update({name: value for name, value in own.items() if name not in history[-1]})
