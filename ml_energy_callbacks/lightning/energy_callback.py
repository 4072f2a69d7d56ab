"""The callback: Lightning's hooks -> meter calls, the meter's figures -> loggers and the record."""

import importlib
from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, default_collate

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.frameworks.batch_size import first_length, infer_batch_size
from ml_energy_callbacks.frameworks.callback import MeteredCallback
from ml_energy_callbacks.frameworks.torch import all_gather, cuda_event_recorder, gpu_uuids, joined, no_gpus
from ml_energy_callbacks.job.job import Gather
from ml_energy_callbacks.job.launcher import launched
from ml_energy_callbacks.lightning.base import Callback, Timer, rank_zero_info
from ml_energy_callbacks.lightning.loggers import Loggers
from ml_energy_callbacks.meter.ending import ending
from ml_energy_callbacks.meter.loop import LoopDescription
from ml_energy_callbacks.meter.points import Point
from ml_energy_callbacks.metrics import STEP_SUFFIX, Stage, summary_names
from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.report import quantity, summary

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer


class EnergyCallback(MeteredCallback, Callback):
    """Measure the energy, carbon and cost of training, validation, test and prediction.

    It logs ``energy/<stage>/<quantity>`` to the trainer's loggers, shows watts and J/sample in the progress bar, and
    writes the run's record ``energy.json`` into the trainer's log directory. Its keys can be monitored, as in
    ``EarlyStopping(monitor="energy/train/joules_per_sample")``. The trainer needs one such callback; its record spans all
    that trainers do with it.

    Args:
        log_every_n_steps: Steps between two logs of a training step's energy; None for the trainer's own setting, 0 for
            none.
        output_dir: Directory, or URL such as ``s3://bucket/run``, for ``energy.json`` in place of the trainer's log directory.

    Raises:
        ConfigurationError: An option cannot work; the message says what to do.
    """

    def _reset(self) -> None:
        super()._reset()
        self._restored: dict[str, Any] | None = None
        self._step_point: Point | None = None
        self._starts: dict[str, Point] = {}
        self._every = 0
        self._logged_step = -1
        self._began_at: dict[str, float] = {}
        self._batches_before = 0
        self._loggers = Loggers((), self._meter.warn)
        self._train_sizes = self._eval_sizes = _Sizes(None)
        self._samples_shared = False

    # ---------------------------------------------------------------------------------------------------- life

    def setup(self, trainer: "Trainer", pl_module: "LightningModule", stage: str) -> None:
        """Open the devices and start to measure."""
        if sum(isinstance(callback, EnergyCallback) for callback in trainer.callbacks) > 1:  # type: ignore[attr-defined]
            msg = "The trainer has two EnergyCallbacks, which would measure everything twice: leave one out."
            raise ConfigurationError(msg)
        launch = launched()
        if launch is not None and launch.launcher == "ray":
            # What reports to Ray at the end of an epoch reports what is logged by then: it has to come after this.
            trainer.callbacks = [self, *(other for other in trainer.callbacks if other is not self)]  # type: ignore[attr-defined]
        self._restored = None
        self._resume(None)
        self._starts.clear()
        directory = None if trainer.fast_dev_run else trainer.log_dir or trainer.default_root_dir  # type: ignore[attr-defined]
        self._gather = _gather(trainer)
        alone = trainer.world_size > 1 and self._gather is None
        if alone and not trainer.is_global_zero:
            return
        package = type(trainer).__module__.partition(".trainer")[0]
        version = importlib.import_module(package).__version__
        described = LoopDescription(
            framework=f"{package} {version}",
            model=type(pl_module).__name__,
            world_size=trainer.world_size,
            output_dir=directory,
            gpus=_gpus(trainer),
            record_event=cuda_event_recorder() if trainer.strategy.root_device.type == "cuda" else None,
            gather=self._gather,
        )
        self._meter.start(described)
        replicas = (trainer.distributed_sampler_kwargs or {}).get("num_replicas", trainer.world_size)
        self._samples_shared = replicas < trainer.world_size  # as with tensor parallelism
        if alone:
            name = type(trainer.strategy).__name__
            self._meter.warn(
                f"The processes of {name} cannot tell each other what they use: the energy in here is that of rank 0's devices "
                "and its host alone."
            )
        self._loggers = Loggers(trainer.loggers if trainer.is_global_zero else (), self._meter.warn)
        self._loggers.begin(self._hyperparameters, _saved_hyperparameters(trainer), summary_names(self._meter.cost_currency))

    def teardown(self, trainer: "Trainer", pl_module: "LightningModule", stage: str) -> None:
        """Stop measuring and write the record."""
        self._finish(trainer, None)

    def on_exception(self, trainer: "Trainer", pl_module: "LightningModule", exception: BaseException) -> None:
        """Stop measuring and write the record: no other hook comes."""
        self._finish(trainer, exception)

    def _finish(self, trainer: "Trainer", exception: BaseException | None) -> None:
        if not self._meter.running:
            return
        self._meter.stop(*ending(exception))
        self._loggers.end(self._meter.totals(), _step(trainer))
        if self.verbose and self._meter.leads:
            rank_zero_info(summary(self._meter.record))

    def state_dict(self) -> dict[str, Any]:
        """Return the record, in builtins, for the checkpoint: the job's, of which rank 0 alone goes on."""
        return {"record": msgspec.to_builtins(self._meter.record)} if self._meter.started and self._meter.leads else {}

    def on_save_checkpoint(self, trainer: "Trainer", pl_module: "LightningModule", checkpoint: dict[str, Any]) -> None:
        """Put what the job's other processes took so far into the checkpoint; all come here, unless after an exception."""
        if trainer.world_size > 1 and self._meter.running and not trainer.interrupted:
            self._meter.share()
            if self._meter.leads:
                checkpoint["callbacks"][self.state_key] = self.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until it is known that a fit resumes: test and predict load it as well."""
        self._restored = state_dict

    def on_fit_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Go on from the totals of the checkpoint that the fit resumes from."""
        if self._restored and self._meter.running:
            try:
                record = msgspec.convert(self._restored.get("record"), RunRecord)
            except msgspec.ValidationError:
                self._meter.warn("The checkpoint's energy totals are of an unknown form; totals start at zero.")
            else:
                self._resume(record)

    # ---------------------------------------------------------------------------------------------------- fit

    def on_sanity_check_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Enter the stage ``sanity_check``."""
        self._meter.begin_stage("sanity_check")

    def on_sanity_check_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Leave it."""
        self._meter.end_stage()

    def on_train_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Enter the stage ``train``."""
        self._meter.begin_stage("train", "other")
        every = self.log_every_n_steps
        self._every = (trainer.log_every_n_steps if every is None else every) if trainer.loggers else 0  # type: ignore[attr-defined]
        if trainer.world_size > 1:  # what the others use is known at the ends of epochs alone
            self._every = 0
            self._meter.share()
            if every:
                self._meter.warn(
                    "log_every_n_steps has no effect in a job of several processes: its energy is logged by epochs."
                )
        self._logged_step = -1
        self._step_point = self._meter.point()
        self._begin_training()
        self._begin_epoch(trainer)  # one that a checkpoint was taken in is not started again

    def on_train_epoch_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Begin to wait for the epoch's first batch."""
        self._begin_epoch(trainer)
        self._meter.enter("data_wait")

    def _begin_epoch(self, trainer: "Trainer") -> None:
        self._train_sizes = _Sizes(trainer.train_dataloader)
        self._began_at = _shares(trainer, trainer.current_epoch)
        self._batches_before = _batches(trainer)
        self._starts["train"] = self._meter.point()

    def on_train_batch_start(
        self,
        trainer: "Trainer",
        pl_module: "LightningModule",
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Begin to compute."""
        self._meter.batch_start()

    def on_train_batch_end(
        self,
        trainer: "Trainer",
        pl_module: "LightningModule",
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """End the computation, count the samples, and log every so many steps."""
        sizes = self._train_sizes
        if batch_idx < sizes.sure:
            self._meter.batch_end(sizes.expected)
        else:
            length = first_length(batch)
            if length is None or length != sizes.usual:
                length = self._samples(sizes, batch, batch_idx, trainer.num_training_batches)
            self._meter.batch_end(length)
        every = self._every
        if every:
            step = _step(trainer)
            if (step + 1) % every == 0 and step != self._logged_step:
                self._log_step(trainer, step)

    def on_train_epoch_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Log the epoch."""
        self._meter.enter("other")
        if _batches(trainer) > self._batches_before:  # the end alone comes again after a checkpoint that was taken at it
            self._log_epoch("train", trainer, pl_module)

    def on_train_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Leave the stage ``train``."""
        self._end_training(finished=_finished(trainer))
        self._meter.end_stage()

    # ---------------------------------------------------------------------------------------------------- evaluate

    def on_validation_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Enter the stage ``validate``."""
        self._begin("validate", trainer)

    def on_validation_epoch_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Log it."""
        if not trainer.sanity_checking:
            self._log_epoch("validate", trainer, pl_module)

    def on_validation_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Leave the stage; in a fit, what comes next is the wait for the next training batch."""
        if not trainer.sanity_checking:
            self._meter.end_stage()

    def on_test_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Enter the stage ``test``."""
        self._begin("test", trainer)

    def on_test_epoch_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Log it."""
        self._log_epoch("test", trainer, pl_module)

    def on_test_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Leave the stage."""
        self._meter.end_stage()

    def on_predict_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Enter the stage ``predict``."""
        self._begin("predict", trainer)

    def on_predict_epoch_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Log it."""
        self._log_epoch("predict", trainer, pl_module)

    def on_predict_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Leave the stage."""
        self._meter.end_stage()

    def _begin(self, stage: Stage, trainer: "Trainer") -> None:
        if not trainer.sanity_checking:
            self._meter.begin_stage(stage)
            self._starts[stage] = self._meter.point()

    def _eval_batch_start(self, *_: Any) -> None:  # noqa: ANN401 - Lightning's hooks pass what they like
        self._meter.batch_start()

    on_validation_batch_start = on_test_batch_start = on_predict_batch_start = _eval_batch_start  # type: ignore[assignment]

    def _eval_batch_end(
        self,
        trainer: "Trainer",
        pl_module: "LightningModule",
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx == 0:
            loaders = trainer.predict_dataloaders if trainer.predicting else _eval_loaders(trainer)
            loaders = loaders if isinstance(loaders, (list, tuple)) else [loaders]
            self._eval_sizes = _Sizes(loaders[dataloader_idx] if dataloader_idx < len(loaders) else None)
        sizes = self._eval_sizes
        if batch_idx < sizes.sure:
            self._meter.batch_end(sizes.expected)
        else:
            length = first_length(batch)
            if length is None or length != sizes.usual:
                counts = _eval_counts(trainer)
                length = self._samples(sizes, batch, batch_idx, counts[dataloader_idx] if dataloader_idx < len(counts) else 0)
            self._meter.batch_end(length)

    on_validation_batch_end = on_test_batch_end = on_predict_batch_end = _eval_batch_end

    # ---------------------------------------------------------------------------------------------------- figures

    def _samples(self, sizes: "_Sizes", batch: Any, index: int, count: float) -> int | None:  # noqa: ANN401
        """Return the number of samples in a batch of which there are so many in all."""
        if self._samples_shared:
            self._meter.warn("Several processes share a sample, so that energy per sample is unknown.")
            return None
        if self.batch_size_fn is not None:
            return self._ask(self.batch_size_fn, batch)
        samples = infer_batch_size(batch, sizes.expected, last=index == count - 1)
        # Batches like this one need no second look.
        sizes.usual = samples if samples == first_length(batch) else None
        if sizes.uniform and samples == sizes.expected and isfinite(count):
            sizes.sure = int(count) - 1
        if samples is None:
            self._meter.warn(
                "The number of samples in a batch is not plain from its shapes, so that energy per sample is unknown: "
                "give EnergyCallback a batch_size_fn."
            )
        return samples

    def _log_step(self, trainer: "Trainer", step: int) -> None:
        if not self._meter.running:
            return
        self._logged_step = step
        point = self._meter.point()
        metrics = self._meter.metrics("train", self._step_point, point, suffix=STEP_SUFFIX)
        self._step_point = point
        self._show(trainer, metrics, STEP_SUFFIX)
        self._loggers.log({**metrics, **self._meter.totals(point)}, step)

    @staticmethod
    def _show(trainer: "Trainer", metrics: dict[str, float], suffix: str = "") -> None:
        """Put watts, J/sample and what the training will take into the progress bar."""
        shown = {
            "W": f"energy/train/watts{suffix}",
            "J/sample": f"energy/train/joules_per_sample{suffix}",
            "kWh expected": "energy/forecast/kwh",
        }
        for short, name in shown.items():
            value = metrics.get(name)
            if value is not None:
                # As text: a bar would round a number to three decimals, and a sample may take less than that.
                trainer.progress_bar_metrics[short] = quantity(value)  # type: ignore[assignment]

    def _log_epoch(self, stage: Stage, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Log a stage since its start; every process of the job comes here, and none after an exception."""
        start = self._starts.pop(stage, None)
        if start is None:
            return
        metrics: dict[str, float] = {}
        if self._meter.running:
            metrics, point = self._meter.close_epoch(stage, trainer.current_epoch, start)
            if stage == "train":
                metrics |= self._expect(trainer, start, point)
        if not self._meter.reaches_all:  # to log is a collective, and would end what can go on without the others
            return
        several = trainer.world_size > 1
        if several:  # each name is a collective then: all processes have to log the same ones
            metrics = trainer.strategy.broadcast(metrics)
        if stage == "train":
            self._show(trainer, metrics)
        if stage != "predict":
            pl_module.log_dict(metrics, sync_dist=several)
            return
        # Lightning refuses `log` in prediction.
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})
        self._loggers.log(metrics, _step(trainer))

    def _expect(self, trainer: "Trainer", start: Point, point: Point) -> dict[str, float]:
        """Return what the training is expected to take; nothing after an epoch that was cut, or where no end is set."""
        epochs = trainer.current_epoch + 1
        shares = _shares(trainer, epochs)
        if trainer.should_stop or not shares:
            return {}
        by = max(shares, key=lambda name: shares[name])
        done = min(1.0, shares[by])
        began = self._began_at.get(by, 0.0)
        if by == "epochs":  # a checkpoint may have been taken in the middle of this one
            batches = trainer.num_training_batches
            ran = self._meter.counts("train", start, point).batches
            began = done - (ran / batches if isfinite(batches) and batches else 1.0) / (trainer.max_epochs or 1)
        every = trainer.check_val_every_n_epoch
        before, past, whole = 0, 0, 0
        if trainer.enable_validation and every is not None and every > 1:
            before, past, whole = (trainer.current_epoch // every, epochs // every, round(epochs / done) // every)
        return self._forecast((began, before, start), (done, past, point), whole - past)


def _shares(trainer: "Trainer", epochs: int) -> dict[str, float]:
    """Return the share of the training that has passed after so many epochs, by each of the ends that are set."""
    shares: dict[str, float] = {}
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        shares["epochs"] = epochs / trainer.max_epochs
    if trainer.max_steps > 0:
        shares["steps"] = trainer.global_step / trainer.max_steps
    for timer in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(timer, Timer) and (left := timer.time_remaining()) is not None:  # as max_time makes one
            passed = timer.time_elapsed()
            shares["time"] = passed / (passed + max(left, 0.0)) if passed else 0.0
    return shares


def _batches(trainer: "Trainer") -> int:
    """Return how many batches the training has begun, those before a resume among them."""
    return trainer.fit_loop.epoch_loop.batch_progress.total.ready


def _finished(trainer: "Trainer") -> bool:
    """Return whether the training came to an end that was set, and not to one before."""
    shares = _shares(trainer, trainer.current_epoch)
    if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
        shares.pop("epochs", None)
    return any(share >= 1 for share in shares.values())


def _step(trainer: "Trainer") -> int:
    """Return the step that the trainer's own metrics are logged at."""
    try:
        # Private, but what Lightning's own callbacks count steps by; without it, the optimiser's steps serve.
        return trainer.fit_loop.epoch_loop._batches_that_stepped  # noqa: SLF001
    except AttributeError:
        return trainer.global_step


def _saved_hyperparameters(trainer: "Trainer") -> dict[str, Any]:
    """Return the hyper-parameters of model and data that Lightning is about to log by itself."""
    if not getattr(trainer, "enable_autolog_hparams", True):
        return {}
    saved: dict[str, Any] = {}
    for owner in (trainer.lightning_module, trainer.datamodule):  # type: ignore[attr-defined]
        if getattr(owner, "_log_hyperparams", False):  # private, but what Lightning itself goes by
            saved |= owner.hparams_initial
    return {name: value for name, value in saved.items() if name != "_class_path"}


def _eval_loaders(trainer: "Trainer") -> Any:  # noqa: ANN401
    return trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders


def _eval_counts(trainer: "Trainer") -> Sequence[float]:
    """Return the number of batches of each data loader of the running stage."""
    if trainer.predicting:
        return trainer.num_predict_batches
    if trainer.testing:
        return trainer.num_test_batches
    counts: Any = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
    return counts if isinstance(counts, list) else [counts]


class _Sizes:
    """What is known of the sizes of a loader's batches.

    Attributes:
        expected: What the loader was set to; None where it does not tell.
        uniform: Whether torch's own sampling and collation give every batch but the last that size, whatever is in it.
        usual: The size of the batches whose first array is as long as that; None where that tells nothing.
        sure: The batches before this one have the expected size, and need not be looked at.
    """

    __slots__ = ("expected", "sure", "uniform", "usual")

    def __init__(self, loader: Any) -> None:  # noqa: ANN401
        size = getattr(loader, "batch_size", None)
        self.expected = size if isinstance(size, int) else None
        self.uniform = (
            self.expected is not None
            and type(loader) is DataLoader
            and type(loader.batch_sampler) is BatchSampler
            and type(loader.sampler).__module__.startswith("torch.utils.data.")
            and loader.collate_fn is default_collate
            and not isinstance(loader.dataset, IterableDataset)
            and not hasattr(loader.dataset, "__getitems__")
        )
        self.usual: int | None = None
        self.sure = 0


def _gather(trainer: "Trainer") -> Gather | None:
    """Return how the processes of the job tell each other things; None where there is one, or they cannot."""
    return all_gather if trainer.world_size > 1 and joined() else None


def _gpus(trainer: "Trainer") -> Sequence[str] | None:
    """Return the UUIDs of the GPUs that this process works on; None where torch does not tell."""
    device = trainer.strategy.root_device
    if device.type != "cuda":
        return no_gpus() if device.type == "cpu" else None
    return gpu_uuids(trainer.device_ids if trainer.world_size == 1 else [device.index])
