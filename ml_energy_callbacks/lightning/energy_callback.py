"""The callback: translates Lightning's hooks to calls of the meter, and the meter's metrics to calls of loggers."""

import importlib
import shutil
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any
from weakref import ref

import msgspec
import torch
from lightning_utilities.core.rank_zero import rank_zero_info

from ml_energy_callbacks.frameworks.batch_size import first_length
from ml_energy_callbacks.frameworks.callback import monitored, refuse_second
from ml_energy_callbacks.frameworks.checkpoint import latest_record
from ml_energy_callbacks.frameworks.guard import guard_hooks, guards_itself, handle_error
from ml_energy_callbacks.frameworks.options import CallbackOptions
from ml_energy_callbacks.frameworks.parts import Parts
from ml_energy_callbacks.frameworks.torch_callback import TorchCallback
from ml_energy_callbacks.job.launcher import launched
from ml_energy_callbacks.lightning.base import Callback, adopt_imported
from ml_energy_callbacks.lightning.batch_sizes import LoaderSizes
from ml_energy_callbacks.lightning.call import Call
from ml_energy_callbacks.lightning.internals import (
    autologged_hyperparameters,
    batches_begun,
    is_compiled,
    log_metrics,
    logged_step,
    package_of,
    set_callback_metrics,
    show_in_progress_bar,
)
from ml_energy_callbacks.lightning.loggers import Loggers
from ml_energy_callbacks.lightning.progress import is_finished, shares_done
from ml_energy_callbacks.meter.ending import ending
from ml_energy_callbacks.meter.options import documents
from ml_energy_callbacks.meter.points import Point
from ml_energy_callbacks.metrics import RESULTS, STEP_SUFFIX, Stage
from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.record.storage import folder_of

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer


_WIDER_THAN_USUAL, _WIDE = 100, 120
"""Columns of a terminal with room for two and for three of our figures behind Lightning's own."""

_UNSEEN = "Lightning ran no backward pass: with manual optimization, call self.manual_backward(loss)."
"""Why a training that marks its batches has no parts."""

_EVALUATIONS = ("validate", "test", "predict")
"""What the trainer calls the stages whose batches only run forward."""


@documents(CallbackOptions)
@guard_hooks
class EnergyCallback(TorchCallback, Callback):
    """Measure the energy, carbon and cost of training, validation, test and prediction.

    It logs ``energy/<stage>/<quantity>`` to the trainer's loggers, shows J/sample in the progress bar, and
    writes the run record ``energy.json`` into the trainer's log directory. The metrics can be monitored, as in
    ``EarlyStopping(monitor="energy/train/joules_per_sample")``. A trainer takes one such callback; the record covers
    everything that is run with it, by one trainer or several.

    Args:
        log_every_n_steps: Number of steps between two logs of the training steps' energy; None for the trainer's own setting,
            0 for no such logs.
        output_dir: Directory, or URL such as ``s3://bucket/run``, for ``energy.json`` instead of the trainer's log directory.

    Raises:
        ConfigurationError: An option cannot work; the message says what to do.
    """

    def _reset(self) -> None:
        adopt_imported()
        super()._reset()
        # The calls that are measured, the innermost last; the first one stands for none.
        self._calls = [Call(None, Loggers((), self._meter.warn), Parts(self._meter, _UNSEEN))]
        self._call = self._calls[-1]

    # ---------------------------------------------------------------------------------------------------- life

    def setup(self, trainer: "Trainer", pl_module: "LightningModule", stage: str) -> None:
        """Open the devices and start to measure."""
        refuse_second(trainer.callbacks)  # type: ignore[attr-defined]
        launch = launched()
        if launch is not None and launch.launcher == "ray":
            # Ray's own callback reports, at the end of an epoch, the metrics logged by then: it has to run after this one.
            trainer.callbacks = [self, *(other for other in trainer.callbacks if other is not self)]  # type: ignore[attr-defined]
        self._begin_call(trainer)
        if not self._call.inside and not self._start(trainer, pl_module):
            return
        replicas = (trainer.distributed_sampler_kwargs or {}).get("num_replicas", trainer.world_size)
        self._samples_shared = replicas < trainer.world_size  # as with tensor parallelism
        self._call.loggers = Loggers(trainer.loggers if trainer.is_global_zero else (), self._meter.warn)
        self._call.loggers.begin(
            self._hyperparameters, autologged_hyperparameters(trainer), [*RESULTS, *monitored(_callbacks(trainer))[:1]]
        )
        if not self._call.inside:
            for run in self._call.loggers.runs:
                self._meter.follow(run.follow)

    def teardown(self, trainer: "Trainer", pl_module: "LightningModule", stage: str) -> None:
        """Stop measuring and write the record."""
        self._finish(trainer, None)

    def on_exception(self, trainer: "Trainer", pl_module: "LightningModule", exception: BaseException) -> None:
        """Stop measuring and write the record: Lightning calls no other hook."""
        self._finish(trainer, exception)

    def _start(self, trainer: "Trainer", pl_module: "LightningModule") -> bool:
        """Start to measure; return whether this process measures."""
        self._resume(None)
        package, device = package_of(trainer), trainer.strategy.root_device
        return self._start_meter(
            framework=f"{package} {importlib.import_module(package).__version__}",
            model=type(pl_module).__name__,
            world_size=trainer.world_size,
            rank=trainer.global_rank,
            device=device,
            gpu_numbers=lambda: trainer.device_ids if trainer.world_size == 1 else [device.index],
            output_dir=None if trainer.fast_dev_run else trainer.log_dir or trainer.default_root_dir,  # type: ignore[attr-defined]
        )

    def _begin_call(self, trainer: "Trainer") -> None:
        """Begin a call of a trainer, inside those that still run."""
        calls = [(call, self._meter.running and call.running) for call in self._calls[1:]]
        self._calls[1:] = [call for call, running in calls if running]
        for call in [call for call, running in calls if not running]:
            call.parts.restore()
        self._call = Call(
            ref(trainer),
            Loggers((), self._meter.warn),
            Parts(self._meter, _UNSEEN),
            inside=len(self._calls) > 1,
            depth=self._meter.depth,
            phase=self._meter.phase,
        )
        self._calls.append(self._call)

    def _finish(self, trainer: "Trainer", exception: BaseException | None) -> None:
        """End a call of a trainer, and the measurement with the outermost one."""
        self._abandon_count()
        if not self._call.is_of(trainer):  # it failed before its setup
            return
        call = self._calls.pop()
        call.parts.restore()
        self._call = self._calls[-1]
        self._cancel_layers()
        if not self._meter.running:
            return
        if call.inside:
            while self._meter.depth > call.depth:  # stages that an exception ended
                self._meter.end_stage()
            self._meter.enter(call.phase or "other")
            return
        self._meter.stop(*ending(exception))
        totals = self._meter.totals()
        call.loggers.end(self._logged(totals), self._results_of(trainer, totals), logged_step(trainer))
        self._meter.write_headline(rank_zero_info)

    @staticmethod
    def _results_of(trainer: "Trainer", totals: Mapping[str, float]) -> dict[str, float]:
        """Return what a run came to: its energy, that of a sample, and the metric that another callback monitors."""
        values = {**{name: float(value) for name, value in trainer.callback_metrics.items()}, **totals}
        return {name: values[name] for name in [*RESULTS, *monitored(_callbacks(trainer))[:1]] if name in values}

    def state_dict(self) -> dict[str, Any]:
        """Return the job's record, as builtins, for the checkpoint; only rank 0 has it."""
        return {"record": msgspec.to_builtins(self._meter.record)} if self._meter.started and self._meter.leads else {}

    def on_save_checkpoint(self, trainer: "Trainer", pl_module: "LightningModule", checkpoint: dict[str, Any]) -> None:
        """Add the energy of the job's other processes to the checkpoint; all of them call this, except after an exception."""
        if trainer.world_size > 1 and self._meter.running and not trainer.interrupted:
            self._meter.share()
            if self._meter.leads:
                checkpoint["callbacks"][self.state_key] = self.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Store the state until it is known whether a fit resumes: test and predict load it as well."""
        self._call.restored = state_dict

    def on_fit_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Add to the totals of the checkpoint from which the fit resumes."""
        if self._call.restored and self._meter.running and not self._call.inside:
            try:
                record = msgspec.convert(self._call.restored.get("record"), RunRecord)
            except msgspec.ValidationError:
                self._meter.warn("The energy totals in the checkpoint cannot be read; totals start at zero.")
            else:
                path = self.record_path
                own = None if path is None else folder_of(path)
                self._resume(latest_record(record, own) if self._meter.leads else record)

    # ---------------------------------------------------------------------------------------------------- fit

    def on_sanity_check_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Enter the stage ``sanity_check``."""
        self._meter.begin_stage("sanity_check")

    def on_sanity_check_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Leave the stage ``sanity_check``."""
        self._meter.end_stage()

    def on_train_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Enter the stage ``train``."""
        self._meter.begin_stage("train", "other")
        several = trainer.world_size > 1
        own: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        self._call.log_every = self._steps_between_logs(own, several=several) if trainer.loggers else 0
        if several:
            self._meter.share()
            if self._options.log_every_n_steps:
                self._meter.warn(
                    "log_every_n_steps has no effect in a job of several processes, whose energy is logged once per epoch."
                )
        self._call.last_logged = -1
        self._begin_steps()
        if not self._call.inside:
            self._begin_training()
            self._time_layers(pl_module)
        if self._options.parts and self._meter.running:
            self._mark_parts(trainer, pl_module)
        self._begin_epoch(trainer)  # after a checkpoint within an epoch, that epoch's start hook is not called again

    def on_train_epoch_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Enter the phase ``data_wait``: the loop waits for the epoch's first batch."""
        self._record_metrics("train", trainer)
        self._begin_epoch(trainer)
        self._meter.enter("data_wait")

    def _begin_epoch(self, trainer: "Trainer") -> None:
        self._call.train_sizes = LoaderSizes(trainer.train_dataloader)
        self._call.done_before = shares_done(trainer, trainer.current_epoch)
        self._call.batches_before = batches_begun(trainer)
        self._call.starts["train"] = self._meter.point()
        self._call.before["train"] = dict(trainer.callback_metrics)

    def _mark_parts(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Mark the parts of the batches by what Lightning calls of its strategy, in automatic and in manual optimisation."""
        parts, strategy = self._call.parts, trainer.strategy
        if is_compiled(pl_module) and not pl_module.automatic_optimization:
            parts.refuse("torch.compile runs the whole training step, with its backward pass, as one.")
            return
        parts.begin(strategy, "batch_to_device", "transfer")  # up to the hook of the batch's start
        parts.around(strategy, "training_step", "forward")
        parts.around(strategy, "backward", "backward")
        # In automatic optimisation it runs the two above in a closure: once or, as LBFGS does, several times.
        parts.around(strategy, "optimizer_step", "optimizer", late=pl_module.automatic_optimization)
        parts.open = True

    @guards_itself
    def on_train_batch_start(
        self,
        trainer: "Trainer",
        pl_module: "LightningModule",
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Record the start of a batch."""
        try:
            self._meter.batch_start()
            if self._flops is not None:
                self._flops.begin("train", trainer.strategy.model)
            if self._layer_timer is not None and not self._call.inside:
                self._layer_timer.begin_step()
        except Exception as error:  # noqa: BLE001 - as in guarded()
            handle_error(self, error)

    @guards_itself
    def on_train_batch_end(
        self,
        trainer: "Trainer",
        pl_module: "LightningModule",
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Record the end of a batch with its samples, and log a step when it is due."""
        try:
            call = self._call
            if self._layer_timer is not None and not call.inside:
                self._layer_timer.end_step()
            sizes = call.train_sizes
            tokens = None if self._count_fn is None else self._count_tokens(batch)
            length = sizes.expected
            if batch_idx >= sizes.sure:
                length = first_length(batch)
                if length is None or length != sizes.usual:
                    length = self._examine_batch(sizes, batch, batch_idx, trainer.num_training_batches)
            if self._flops is not None:
                self._flops.end(length)
            self._meter.batch_end(length, tokens=tokens)
            every = call.log_every
            if every:
                step = logged_step(trainer)
                if (step + 1) % every == 0 and step != call.last_logged:
                    self._log_step(trainer, step)
        except Exception as error:  # noqa: BLE001 - as in guarded()
            handle_error(self, error)

    def on_train_epoch_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Log the epoch."""
        self._abandon_count()  # a hook of the module may have ended the epoch at the start of a batch
        self._meter.enter("other")
        self._call.parts.review()
        # A fit that resumes from a checkpoint taken at an epoch's end calls this hook again, without any batches.
        if batches_begun(trainer) > self._call.batches_before:
            self._log_epoch("train", trainer, pl_module)

    def on_train_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Leave the stage ``train``."""
        self._call.parts.close()
        self._record_metrics("train", trainer)
        if not self._call.inside:
            self._end_training(finished=is_finished(trainer))
        self._meter.end_stage()

    # ---------------------------------------------------------------------------------------------------- evaluate

    def on_validation_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Enter the stage ``validate``."""
        self._begin_stage("validate", trainer)

    def on_validation_epoch_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Log the validation."""
        if not trainer.sanity_checking:
            self._log_epoch("validate", trainer, pl_module)

    def on_validation_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Leave the stage ``validate``; in a fit, the loop then waits for the next training batch."""
        if not trainer.sanity_checking:
            self._record_metrics("validate", trainer)
            self._meter.end_stage()
            self._call.parts.open = True

    def on_test_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Enter the stage ``test``."""
        self._begin_stage("test", trainer)

    def on_test_epoch_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Log the test."""
        self._log_epoch("test", trainer, pl_module)

    def on_test_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Leave the stage ``test``."""
        self._record_metrics("test", trainer)
        self._meter.end_stage()

    def on_predict_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Enter the stage ``predict``."""
        self._begin_stage("predict", trainer)

    def on_predict_epoch_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Log the prediction."""
        self._log_epoch("predict", trainer, pl_module)

    def on_predict_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Leave the stage ``predict``."""
        self._meter.end_stage()

    def _abandon_count(self) -> None:
        """End a count of FLOPs whose batch has not ended."""
        if self._flops is not None:
            self._flops.abandon()

    def _begin_stage(self, stage: Stage, trainer: "Trainer") -> None:
        self._abandon_count()
        if not trainer.sanity_checking:
            self._call.parts.open = False
            self._meter.begin_stage(stage)
            self._call.starts[stage] = self._meter.point()
            self._call.before[stage] = dict(trainer.callback_metrics)

    @guards_itself
    def _eval_batch_start(self, trainer: "Trainer", *_: Any) -> None:  # noqa: ANN401 - arguments of three different hooks
        try:
            self._meter.batch_start()
            if self._flops is not None and trainer.state.stage in _EVALUATIONS:
                self._flops.begin(trainer.state.stage.value, trainer.strategy.model)
        except Exception as error:  # noqa: BLE001 - as in guarded()
            handle_error(self, error)

    on_validation_batch_start = on_test_batch_start = on_predict_batch_start = _eval_batch_start  # type: ignore[assignment]

    @guards_itself
    def _eval_batch_end(
        self,
        trainer: "Trainer",
        pl_module: "LightningModule",
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        try:
            if batch_idx == 0:
                loaders = trainer.predict_dataloaders if trainer.predicting else _eval_loaders(trainer)
                loaders = loaders if isinstance(loaders, (list, tuple)) else [loaders]
                self._call.eval_sizes = LoaderSizes(loaders[dataloader_idx] if dataloader_idx < len(loaders) else None)
            sizes = self._call.eval_sizes
            tokens = None if self._count_fn is None else self._count_tokens(batch)
            length = sizes.expected
            if batch_idx >= sizes.sure:
                length = first_length(batch)
                if length is None or length != sizes.usual:
                    counts = _eval_counts(trainer)
                    length = self._examine_batch(
                        sizes, batch, batch_idx, counts[dataloader_idx] if dataloader_idx < len(counts) else 0
                    )
            if self._flops is not None:
                self._flops.end(length)
            self._meter.batch_end(length, tokens=tokens)
        except Exception as error:  # noqa: BLE001 - as in guarded()
            handle_error(self, error)

    on_validation_batch_end = on_test_batch_end = on_predict_batch_end = _eval_batch_end

    # ---------------------------------------------------------------------------------------------------- metrics

    def _examine_batch(self, sizes: LoaderSizes, batch: Any, index: int, count: float) -> int | None:  # noqa: ANN401
        """Return the number of samples in a batch of which the loader does not show it; None, with a warning, if unknown.

        Args:
            sizes: What is known of the loader's batches.
            batch: The batch.
            index: Its index.
            count: Number of batches of the loader; infinite if it is unknown.
        """
        samples = self._count_samples(batch, sizes.expected, last=index == count - 1)
        if self._options.batch_size_fn is None:  # which is called for each batch
            sizes.learn(batch, samples, count)
        return samples

    def _log_step(self, trainer: "Trainer", step: int) -> None:
        if not self._meter.running:
            return
        self._call.last_logged = step
        metrics = self._close_steps()
        self._update_progress_bar(trainer, metrics, STEP_SUFFIX)
        self._call.loggers.log(self._logged(metrics), step)

    @staticmethod
    def _update_progress_bar(trainer: "Trainer", metrics: dict[str, float], suffix: str = "") -> None:
        """Show J/sample in the progress bar, and in a wider one J/token, watts and the energy expected of the training."""
        names = {
            "J/sample": f"energy/train/joules_per_sample{suffix}",
            "J/token": f"energy/train/joules_per_token{suffix}",
            "W": f"energy/train/watts{suffix}",
            "kWh expected": "energy/forecast/kwh",
        }
        columns = shutil.get_terminal_size().columns
        room = 3 if columns >= _WIDE else 2 if columns >= _WIDER_THAN_USUAL else 1
        shown = dict([(label, metrics[name]) for label, name in names.items() if name in metrics][:room])
        if shown:
            show_in_progress_bar(trainer, shown)

    def _log_epoch(self, stage: Stage, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Log an epoch, or an evaluation; all processes of a job call this, and none does after an exception."""
        start = self._call.starts.pop(stage, None)
        if start is None:
            return
        metrics: dict[str, float] = {}
        if self._meter.running:
            metrics, point = self._meter.close_epoch(stage, trainer.current_epoch, start)
            if stage == "train":
                metrics |= self._forecast_training(trainer, start, point)
        if not self._meter.reaches_all:  # logging is a collective: it would fail, and with it a training that can continue
            return
        several = trainer.world_size > 1
        if several:  # logging each name is a collective: all processes have to log the same names
            metrics = trainer.strategy.broadcast(metrics)
        if stage == "train":
            self._update_progress_bar(trainer, metrics)
        if stage != "predict":
            log_metrics(trainer, metrics, self._logged(metrics), several=several)
            return
        # Lightning refuses `log` in prediction.
        set_callback_metrics(trainer, {name: torch.tensor(value) for name, value in metrics.items()})
        self._call.loggers.log(self._logged(metrics), logged_step(trainer))

    def _record_metrics(self, stage: Stage, trainer: "Trainer") -> None:
        """Add what the trainer logged in an epoch or an evaluation to the record, once it has the final values."""
        before = self._call.before.pop(stage, None)
        if before is None or stage in self._call.starts:  # nothing has ended
            return
        logged = {name: value for name, value in trainer.callback_metrics.items() if value is not before.get(name)}
        if stage == "train":  # which the validations are part of
            logged = {name: value for name, value in logged.items() if name not in self._call.evaluated}
        else:
            self._call.evaluated.update(logged)
        self._meter.add_metrics(stage, logged)

    def _forecast_training(self, trainer: "Trainer", start: Point, point: Point) -> dict[str, float]:
        """Return the metrics of the forecast; empty inside another call, after a cut epoch, or without a planned end."""
        epochs = trainer.current_epoch + 1
        shares = shares_done(trainer, epochs)
        if trainer.should_stop or not shares or self._call.inside:
            return {}
        by = max(shares, key=lambda name: shares[name])
        done = min(1.0, shares[by])
        began = self._call.done_before.get(by, 0.0)
        if by == "epochs":  # the fit may have resumed within this epoch
            batches = trainer.num_training_batches
            ran = self._meter.counts("train", start, point).batches
            began = done - (ran / batches if isfinite(batches) and batches else 1.0) / (trainer.max_epochs or 1)
        every = trainer.check_val_every_n_epoch
        before, past, whole = 0, 0, 0
        if trainer.enable_validation and every is not None and every > 1:
            before, past, whole = (trainer.current_epoch // every, epochs // every, round(epochs / done) // every)
        return self._forecast((began, before, start), (done, past, point), whole - past)


def _callbacks(trainer: "Trainer") -> Sequence[object]:
    found: Sequence[object] = trainer.callbacks  # type: ignore[attr-defined]
    return found


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
