"""Everything that is read from, or written to, private parts of Lightning, as they are in Lightning 2.6.6 (and torch 2.13).

None of it is documented, and any release may change it. Each function names what it uses. ``pytorch_lightning`` and
``lightning.pytorch`` are the same code; paths are those of the former.
"""

import importlib
import sys
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer
    from pytorch_lightning.loggers import Logger


_TRAINER = ".trainer.trainer"


def package_of(trainer: "Trainer") -> str:
    """Return the package of a trainer: ``pytorch_lightning`` or ``lightning.pytorch``.

    Reads the path of the module ``<package>.trainer.trainer``, which has the trainer's class, or one that it extends.
    """
    homes = (kind.__module__ for kind in type(trainer).__mro__)
    return next(home.removesuffix(_TRAINER) for home in homes if home.endswith(_TRAINER))


# -------------------------------------------------------------------------------------------------------- the loop of a fit


def logged_step(trainer: "Trainer") -> int:
    """Return the step at which the trainer logs its own metrics.

    Reads ``_batches_that_stepped`` (loops/training_epoch_loop.py), as Lightning's ``LearningRateMonitor`` does; if it is
    missing, the optimiser's steps are used.
    """
    try:
        return trainer.fit_loop.epoch_loop._batches_that_stepped  # noqa: SLF001 - see above
    except AttributeError:
        return trainer.global_step


def batches_begun(trainer: "Trainer") -> int:
    """Return the number of training batches begun so far, those before a resume included.

    Reads ``batch_progress`` of the epoch's loop (loops/progress.py).
    """
    return trainer.fit_loop.epoch_loop.batch_progress.total.ready


def ended_with_last_batch(trainer: "Trainer") -> bool:
    """Return whether the latest training batch was the last one of its epoch.

    Reads ``batch_progress`` of the epoch's loop (loops/progress.py).
    """
    return trainer.fit_loop.epoch_loop.batch_progress.is_last_batch


def is_compiled(module: "LightningModule") -> bool:
    """Return whether ``torch.compile`` has compiled a module's steps.

    Reads ``_compiler_ctx`` (utilities/compile.py); False if it is missing.
    """
    return getattr(module, "_compiler_ctx", None) is not None


def was_saved_at(checkpoint_callback: object, step: int) -> bool:
    """Return whether a checkpoint callback has saved a checkpoint at this step of the optimiser.

    Reads ``_last_global_step_saved`` of ``ModelCheckpoint`` (callbacks/model_checkpoint.py), which is 0 before the first one;
    False if it is missing.
    """
    return getattr(checkpoint_callback, "_last_global_step_saved", 0) == step > 0


# -------------------------------------------------------------------------------------------------------- the trainer's metrics


def log_metrics(trainer: "Trainer", metrics: Mapping[str, float], logged: Container[str], *, several: bool) -> None:
    """Log metrics in the running hook as the module's own ``log`` does, whatever the user's class makes of that method.

    Calls ``LightningModule.log`` (core/module.py), with the batch size that it asks for where the training step takes the
    iterator of the data. A ``barebones`` trainer logs nothing.

    Args:
        trainer: The trainer.
        metrics: The metrics, each of which can then be monitored.
        logged: Names of those that the loggers receive, too.
        several: Whether the job has several processes; all of them have to call this, with the same names.
    """
    if getattr(trainer, "barebones", False):
        return
    module = importlib.import_module(package_of(trainer)).LightningModule
    for name, value in metrics.items():
        heard = None if name in logged else False
        module.log(trainer.lightning_module, name, value, logger=heard, batch_size=1, sync_dist=several)


def show_in_progress_bar(trainer: "Trainer", values: Mapping[str, float]) -> None:
    """Add values to the progress bar.

    Writes into ``progress_bar_metrics``, which is the trainer's own dictionary of numbers
    (trainer/connectors/logger_connector/logger_connector.py).
    """
    shown: Any = trainer.progress_bar_metrics  # declared to be for reading
    shown.update(values)


def set_callback_metrics(trainer: "Trainer", metrics: Mapping[str, Any]) -> None:
    """Add metrics to ``trainer.callback_metrics`` in a prediction, in which Lightning refuses ``log``.

    Writes into that dictionary, which is the trainer's own (trainer/connectors/logger_connector/logger_connector.py).
    """
    trainer.callback_metrics.update(metrics)


# -------------------------------------------------------------------------------------------------------- hyper-parameters


def autologged_hyperparameters(trainer: "Trainer") -> dict[str, Any]:
    """Return the hyper-parameters of the model and the data module that Lightning will log by itself.

    Reads ``_log_hyperparams``, as Lightning does (loggers/utilities.py), and leaves out ``_class_path``, as it does; nothing if
    the attribute is missing.
    """
    if not getattr(trainer, "enable_autolog_hparams", True):
        return {}
    saved: dict[str, Any] = {}
    for owner in (trainer.lightning_module, trainer.datamodule):  # type: ignore[attr-defined]
        if getattr(owner, "_log_hyperparams", False):
            saved |= owner.hparams_initial
    return {name: value for name, value in saved.items() if name != "_class_path"}


def tensorboard_base(logger: "Logger") -> type | None:
    """Return the class of ``lightning_fabric`` from which a TensorBoard logger is derived; None for any other logger.

    Finds it by its name, ``TensorBoardLogger`` (fabric's loggers/tensorboard.py).
    """
    return next((kind for kind in reversed(type(logger).__mro__) if kind.__name__ == "TensorBoardLogger"), None)


def writes_hp_metric(logger: Any) -> bool:  # noqa: ANN401 - of either package
    """Return whether a TensorBoard logger writes the user's hyper-parameters with a metric ``hp_metric``.

    Reads ``_default_hp_metric`` (fabric's loggers/tensorboard.py); False if it is missing.
    """
    return bool(getattr(logger, "_default_hp_metric", False))


def write_tensorboard_hparams(
    logger: Any,  # noqa: ANN401 - of either package
    saved: Mapping[str, Any],
    own: Mapping[str, float | str],
    metrics: Sequence[str],
) -> None:
    """Write the hyper-parameters of a run as the TensorBoard logger itself would, with ours and our metrics among them.

    Uses ``_flatten_dict`` and ``_sanitize_params`` (fabric's loggers/tensorboard.py), so that they look as Lightning writes
    them, and ``_get_file_writer`` of torch's ``SummaryWriter`` (torch/utils/tensorboard/writer.py), as Lightning does.

    Args:
        logger: The TensorBoard logger.
        saved: The user's hyper-parameters.
        own: The callback's.
        metrics: Names of the metrics that TensorBoard shows beside them.
    """
    from torch.utils.tensorboard.summary import hparams  # noqa: PLC0415 - needs the optional extra tensorboard

    flat = sys.modules[tensorboard_base(logger).__module__]._flatten_dict(saved)  # noqa: SLF001 - see above
    shown = {**logger._sanitize_params(flat), **own}  # noqa: SLF001 - see above
    writer = logger.experiment._get_file_writer()  # noqa: SLF001 - see above
    values = dict.fromkeys(["hp_metric", *metrics], 0.0)  # TensorBoard uses only the names
    for part in hparams(shown, values):  # type: ignore[no-untyped-call]
        writer.add_summary(part)
