"""Energy of the trials of Ray Tune: what stops a trial, or all of them, by its energy."""

import math
import warnings
from numbers import Real
from typing import Any

from ray.tune import Stopper

from ml_energy_callbacks.control.limits import check_limit
from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.metrics import JOULES_PER_KWH


class EnergyStopper(Stopper):
    """Stop a trial that has used a given energy, and all of them once their sum has reached one; ``stop=`` of ``RunConfig``.

    It reads ``energy/total/joules``, or else ``energy/total/kwh``, from the metrics that trials report. A trial that reports
    neither is not stopped for its energy and not included in the sum, and there is a warning.

    Attributes:
        joules: Energy of all trials so far in J, by their reports, failed and stopped ones included; None if none is known.
    """

    def __init__(self, *, trial_joules: float | None = None, total_joules: float | None = None) -> None:
        """Set the limits.

        Args:
            trial_joules: Energy of one trial in J.
            total_joules: Energy of all trials in J.

        Raises:
            ConfigurationError: No limit is set, or one is not above zero.
        """
        limits = {"trial_joules": trial_joules, "total_joules": total_joules}
        given = {name: limit for name, limit in limits.items() if limit is not None}
        if not given:
            msg = "EnergyStopper has no limit: give trial_joules or total_joules, such as EnergyStopper(total_joules=5000)."
            raise ConfigurationError(msg)
        for name, limit in given.items():
            check_limit("EnergyStopper", name, limit, "an energy above 0 in J")
        self._trial_limit, self._total_limit = trial_joules, total_joules
        self._runs: dict[str, list[float]] = {}  # a trial that begins again after a failure has another run

    @property
    def joules(self) -> float | None:  # noqa: D102 - the class says it
        return sum(map(sum, self._runs.values())) if self._runs else None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Take a trial's report; return whether it has used its energy."""
        joules = _joules_of(result)
        if joules is None:
            warnings.warn(
                f"EnergyStopper cannot check trial {trial_id}, because its energy is unknown: report energy/total/joules "
                "among the metrics; see docs/sweeps.md.",
                stacklevel=2,
            )
            return False
        runs = self._runs.setdefault(trial_id, [])
        if runs and joules >= runs[-1]:
            runs[-1] = joules
        else:
            runs.append(joules)
        return self._trial_limit is not None and sum(runs) >= self._trial_limit

    def stop_all(self) -> bool:
        """Return whether all trials together have used theirs."""
        joules = self.joules
        return self._total_limit is not None and joules is not None and joules >= self._total_limit


def _joules_of(result: dict[str, Any]) -> float | None:
    for name, factor in (("energy/total/joules", 1.0), ("energy/total/kwh", JOULES_PER_KWH)):
        value = result.get(name)
        if isinstance(value, Real) and math.isfinite(value):
            return float(value) * factor
    return None
