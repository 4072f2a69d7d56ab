"""The check of a limit that the user gave."""

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.metrics import is_positive
from ml_energy_callbacks.safe_text import describe


def check_limit(owner: str, name: str, limit: object, needed: str = "a limit above 0") -> None:
    """Check that a limit is a number above 0.

    Args:
        owner: Name for the error message.
        name: Name of the option.
        limit: Its value.
        needed: What the option has to be.

    Raises:
        ConfigurationError: It is not.
    """
    if not is_positive(limit):
        msg = f"{owner} has {name}={describe(limit)}; give {needed}."
        raise ConfigurationError(msg)
