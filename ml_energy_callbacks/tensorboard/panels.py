"""The energy panels: a layout for TensorBoard's tab Custom Scalars.

A run has one layout, and the last one written is used. The energy layout is therefore written to a run of its own, below the
user's run: TensorBoard shows the categories of all layouts.
"""

from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2, metadata

from ml_energy_callbacks.tensorboard.event_file import EventFile, sub_run

# Title -> regular expressions of the tags in the chart.
_CHARTS = {
    "Power (W)": ["energy/[a-z_]+/watts$", "energy/[a-z_]+/watts_step$"],
    "Energy per sample, by stage (J)": ["energy/[a-z_]+/joules_per_sample$", "energy/[a-z_]+/joules_per_sample_step$"],
    "Compute against data wait (J)": ["energy/[a-z_]+/compute_joules$", "energy/[a-z_]+/data_wait_joules$"],
    "Waiting for data, with its 95 % interval (J)": [f"energy/[a-z_]+/data_wait_joules{end}$" for end in ("", "_low", "_high")],
    "Cumulative energy (J)": ["energy/total/joules$"],
    "Expected energy of the training (kWh)": [f"energy/forecast/{name}$" for name in ("kwh", "kwh_low", "kwh_high")],
    "Cumulative CO2e (g)": ["energy/total/co2e_grams$"],
}


def write_panels(log_dir: Path) -> None:
    """Write the layout into ``<log_dir>/energy``, unless it already exists.

    Raises:
        OSError: The directory cannot be written.
    """
    folder = sub_run(log_dir)
    if folder.is_dir() and any(folder.glob("events.out.tfevents.*")):
        return
    layout = layout_pb2.Layout(
        category=[
            layout_pb2.Category(
                title="Energy",
                chart=[
                    layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=tags))
                    for title, tags in _CHARTS.items()
                ],
            )
        ]
    )
    value = Summary.Value(
        tag=metadata.CONFIG_SUMMARY_TAG,
        metadata=SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=metadata.PLUGIN_NAME)),
        tensor=TensorProto(dtype=DT_STRING, string_val=[layout.SerializeToString()], tensor_shape=TensorShapeProto()),
    )
    EventFile(folder).add_event(Event(summary=Summary(value=[value])))
