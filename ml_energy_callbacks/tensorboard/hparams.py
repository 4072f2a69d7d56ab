"""A run of ours in TensorBoard's tab HParams, whose table has a row for each run that says its hyper-parameters.

Of what a run says more than once, the first is shown. So ours are those of our run below the user's, and never stand in the way
of what the user writes, now or later.
"""

import time
from collections.abc import Mapping

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo

from ml_energy_callbacks.tensorboard.event_file import EventFile


def add_hyperparameters(file: EventFile, hyperparameters: Mapping[str, float | str]) -> None:
    """Append the hyper-parameters of a run by their names.

    Raises:
        OSError: The file cannot be written.
    """
    session = SessionStartInfo(start_time_secs=time.time())
    for name, value in hyperparameters.items():
        if isinstance(value, str):
            session.hparams[name].string_value = value
        else:
            session.hparams[name].number_value = value
    about = metadata.create_summary_metadata(HParamsPluginData(session_start_info=session))
    file.add(Event(summary=Summary(value=[Summary.Value(tag=metadata.SESSION_START_INFO_TAG, metadata=about)])))
