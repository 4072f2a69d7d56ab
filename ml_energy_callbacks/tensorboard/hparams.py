"""The row of the energy run in TensorBoard's tab HParams, which has a row for each run with hyper-parameters.

If a run logs hyper-parameters more than once, the first are shown. These are therefore logged in a run of their own, below the
user's run, so that they never replace what the user logs.
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
    file.add_event(Event(summary=Summary(value=[Summary.Value(tag=metadata.SESSION_START_INFO_TAG, metadata=about)])))
