"""The tab Energy of TensorBoard: its routes."""

import json
import time
from collections.abc import Callable
from importlib.resources import files
from typing import Any, Final

from tensorboard import plugin_util
from tensorboard.backend import http_util
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from werkzeug import wrappers

from ml_energy_callbacks.report.drawing import to_html
from ml_energy_callbacks.report.page.document import part_style
from ml_energy_callbacks.tensorboard.runs import Runs
from ml_energy_callbacks.tensorboard.snapshots import PLUGIN
from ml_energy_callbacks.tensorboard.tab import Wanted, tab

_ASSETS: Final = {"tab.js": "text/javascript", "tab.css": "text/css"}


class EnergyPlugin(base_plugin.TBPlugin):  # type: ignore[misc]
    """Shows the runs that have energy, whatever log directory TensorBoard reads them from.

    A small script of ours fetches what is shown, which is drawn here, anew every few seconds.
    """

    plugin_name = PLUGIN

    def __init__(self, context: Any) -> None:  # noqa: ANN401 - a TBContext
        self._runs = Runs(context.data_provider)
        self._old_logs = False

    def get_plugin_apps(self) -> dict[str, Callable[..., Any]]:
        """Return the routes below ``/data/plugin/ml_energy``."""
        return {"/view": self._view, **{f"/{name}": self._asset(name, kind) for name, kind in _ASSETS.items()}}

    def is_active(self) -> bool:
        """Return whether there are scalars of energy; TensorBoard itself finds whether there are snapshots."""
        self._old_logs = self._old_logs or self._runs.has_any(RequestContext(), "")
        return self._old_logs

    def frontend_metadata(self) -> Any:  # noqa: ANN401 - as above
        """Return the tab's name and script; the script itself reloads what is shown."""
        return base_plugin.FrontendMetadata(es_module_path="/tab.js", tab_name="Energy", disable_reload=True)

    def _asset(self, name: str, kind: str) -> Callable[..., Any]:
        text = files("ml_energy_callbacks.tensorboard").joinpath(name).read_text(encoding="utf-8")
        content = part_style() + text if kind == "text/css" else text

        @wrappers.Request.application
        def respond(request: Any) -> Any:  # noqa: ANN401 - as above
            return http_util.Respond(request, content, kind)

        return respond

    @wrappers.Request.application  # type: ignore[arg-type]
    def _view(self, request: Any) -> Any:  # noqa: ANN401 - as above
        """Return what is shown, as HTML in JSON."""
        context, experiment = plugin_util.context(request.environ), plugin_util.experiment_id(request.environ)
        runs, notes = self._runs.read(context, experiment)
        wanted = Wanted.from_query({name: request.args.getlist(name) for name in request.args})
        shown = to_html(tab(runs, wanted, notes, time.time()))
        return http_util.Respond(request, json.dumps({"html": shown}), "application/json")
