"""The entry point of the plug-in: TensorBoard starts without the tab where something is missing.

TensorBoard imports this module at its start, and an error here would end it; nothing but TensorBoard itself is imported.
"""

import logging
from typing import Any

from tensorboard.plugins import base_plugin

_log = logging.getLogger("ml_energy_callbacks")


class EnergyLoader(base_plugin.TBLoader):  # type: ignore[misc]
    """Loads the plug-in."""

    def load(self, context: Any) -> Any:  # noqa: ANN401 - TBContext to TBPlugin
        """Return the plug-in; None, with a warning, where it cannot be imported."""
        try:
            from ml_energy_callbacks.tensorboard.plugin import EnergyPlugin  # noqa: PLC0415 - see above

            return EnergyPlugin(context)
        except Exception as error:  # noqa: BLE001 - such as a package that is missing or broken
            _log.warning("TensorBoard shows no tab Energy: %s: %s", type(error).__name__, error)
            return None
