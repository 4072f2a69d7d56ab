"""The warnings of a run; pure."""

from ml_energy_callbacks import safe_text

_MOST = 200


class Warnings:
    """The messages of a run, each once; of too many, the first ones and the number of the others."""

    def __init__(self) -> None:
        """Start without any."""
        self._messages: dict[str, None] = {}
        self._others = 0

    def add(self, text: str) -> str | None:
        """Add a warning, and return what to tell the user; None if that is known already.

        Args:
            text: The message, which may quote what a user, a device or another library said.
        """
        shown = safe_text.message(text)
        if shown in self._messages:
            return None
        if len(self._messages) < _MOST:
            self._messages[shown] = None
            return shown
        self._others += 1
        return f"There are more than {_MOST} warnings; further ones are only counted." if self._others == 1 else None

    @property
    def listed(self) -> list[str]:
        """The warnings for the record."""
        more = [f"Warnings beyond the first {_MOST}: {self._others:,}, repeated ones included."] if self._others else []
        return [*list(self._messages), *more]
