"""The energy panels: a layout for TensorBoard's tab Custom Scalars.

A run has one layout, and the last one written is used. The energy layout is therefore written to a run of its own, below the
user's run: TensorBoard shows the categories of all layouts.
"""

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2, metadata

from ml_energy_callbacks.metrics import STEP_SUFFIX
from ml_energy_callbacks.tensorboard.event_file import EventFile

# Stages in the order of their charts. The charts of a stage that did not run are empty, so that only the common ones have any.
_STAGES = {"train": "Training", "validate": "Validation", "test": "Test", "predict": "Prediction"}


def _charts() -> list[layout_pb2.Chart]:
    """Return one chart a stage of power and of energy per sample, and the totals."""
    charts = [
        _lines(f"{title}: {what}", f"energy/{stage}/{quantity}$", f"energy/{stage}/{quantity}{STEP_SUFFIX}$")
        for quantity, what in (("joules_per_sample", "energy per sample (J)"), ("watts", "mean power (W)"))
        for stage, title in _STAGES.items()
    ]
    margin = layout_pb2.MarginChartContent.Series(
        value="energy/forecast/kwh", lower="energy/forecast/kwh_low", upper="energy/forecast/kwh_high"
    )
    forecast = layout_pb2.Chart(
        title="Expected energy of the training, with its 95 % interval (kWh)",
        margin=layout_pb2.MarginChartContent(series=[margin]),
    )
    return [
        _lines("Energy so far (kWh)", "energy/total/kwh$"),
        forecast,
        *charts,
        _lines("CO2e so far (g)", "energy/total/co2e_grams$"),
    ]


def _lines(title: str, *tags: str) -> layout_pb2.Chart:
    """Return a chart of the tags that match regular expressions."""
    return layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=tags))


def add_panels(file: EventFile) -> None:
    """Append the layout.

    Raises:
        OSError: The file cannot be written.
    """
    layout = layout_pb2.Layout(category=[layout_pb2.Category(title="Energy", chart=_charts())])
    value = Summary.Value(
        tag=metadata.CONFIG_SUMMARY_TAG,
        metadata=SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=metadata.PLUGIN_NAME)),
        tensor=TensorProto(dtype=DT_STRING, string_val=[layout.SerializeToString()], tensor_shape=TensorShapeProto()),
    )
    file.add_event(Event(summary=Summary(value=[value])))
