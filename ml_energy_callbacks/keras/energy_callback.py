"""The callback: translates Keras's hooks to calls of the meter, and the meter's metrics to logs, event files and the record."""

import contextlib
import sys
from collections.abc import Callable, Mapping
from math import nan
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any
from weakref import ref

import keras

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.frameworks.callback import MeteredCallback, monitored, refuse_second
from ml_energy_callbacks.frameworks.guard import guard_hooks, guarded, guards_itself, handle_error
from ml_energy_callbacks.frameworks.options import CallbackOptions
from ml_energy_callbacks.keras import internals, placement, traits
from ml_energy_callbacks.keras.batch_flops import BatchFlops
from ml_energy_callbacks.keras.batch_pass import BatchPass
from ml_energy_callbacks.keras.compiling import compilations
from ml_energy_callbacks.keras.files import Backup, energy_run
from ml_energy_callbacks.keras.gate import Gate
from ml_energy_callbacks.keras.loop import KerasLoop
from ml_energy_callbacks.keras.progress_line import shorten_progress_bar
from ml_energy_callbacks.keras.samples import length_of, output_length
from ml_energy_callbacks.keras.traits import unwrapped
from ml_energy_callbacks.keras.watch import watched
from ml_energy_callbacks.meter.loop import LoopDescription
from ml_energy_callbacks.meter.options import documents
from ml_energy_callbacks.meter.points import Point
from ml_energy_callbacks.meter.unforeseen import pass_users_error
from ml_energy_callbacks.metrics import Stage
from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.record.storage import Place, as_place

if TYPE_CHECKING:
    from ml_energy_callbacks.tensorboard.energy_run import EnergyRun

_VALIDATED = "val_"
"""What Keras puts before the names of metrics of a validation."""


@documents(CallbackOptions)
@guard_hooks
class EnergyCallback(MeteredCallback, keras.callbacks.Callback):
    """Measure the energy, carbon and cost of ``fit``, ``evaluate`` and ``predict``.

    It adds ``energy/<stage>/<quantity>`` to the epoch's logs, so that ``History``, the progress bar and the callbacks
    *after* it in the list have them, as in ``EarlyStopping(monitor="energy/train/joules_per_sample", mode="min")``. It writes
    scalars and panels into the directory of a ``keras.callbacks.TensorBoard`` in the same list, else into ``output_dir``,
    and the run record ``energy.json`` likewise. The record covers everything that is run with it, by one model or several.

    Args:
        batch_size_fn: Function that is given a batch of data passed through :meth:`watch`, and returns its number of samples;
            None to use Keras's own count.
        count_fn: The same for its number of tokens; None where tokens are not counted.
        log_every_n_steps: Number of batches between two scalars of the training steps' energy; None for the ``update_freq`` of
            the TensorBoard callback, 0 for no such scalars.
        output_dir: Directory, or URL such as ``s3://bucket/run``, for ``energy.json`` instead of the TensorBoard callback's.

    Raises:
        ConfigurationError: An option cannot work; the message says what to do.
    """

    def _reset(self) -> None:
        super()._reset()
        keras.callbacks.Callback.__init__(self)  # clears the model of an earlier run
        self.params: dict[str, Any] = {}
        self._watched: list[tuple[ref[Any], Gate]] = []
        self._loop: KerasLoop | None = None
        self._passes = [BatchPass(self._meter)]
        self._epoch = 0
        self._every = 0
        self._validated: dict[str, float] = {}
        self._keys: dict[str, tuple[str, ...]] = {}
        self._board: EnergyRun | None = None
        self._results: dict[str, float] = {}
        self._folder: Place | None = None
        self._backup: Backup | None = None
        self._listening = contextlib.ExitStack()
        self._flops = BatchFlops(self._meter) if self._options.count_flops else None

    def watch(self, data: Any) -> Any:
        """Return the data, to be passed to ``fit``, ``evaluate`` or ``predict``, wrapped so that waiting for them is measured.

        TensorFlow and JAX fetch data inside the step, where no hook is called: without this method, the energy of waiting is
        unknown there. With torch it is known without this method.

        Args:
            data: A PyDataset, tf.data.Dataset, DataLoader, generator or other iterable of batches.

        Raises:
            ConfigurationError: Data of this kind cannot be watched.
        """
        fn = self._options.batch_size_fn
        length = length_of if fn is None else lambda batch: self._call_batch_size_fn(fn, batch)
        gate = Gate(self._meter, lambda batch: (length(batch), self._count_tokens(batch)))
        data = watched(data, gate, fn, self._options.count_fn)
        self._watched.append((ref(data), gate))
        return data

    # ---------------------------------------------------------------------------------------------------- life

    @property
    def record(self) -> RunRecord:
        """The run's record as of now; raises ConfigurationError if nothing has been measured yet."""
        if self._loop is not None and not self._loop.running():
            self._leave()  # it ended by an exception
        return super().record

    def set_model(self, model: keras.Model) -> None:
        """Set the model of the loop that is about to begin.

        Raises:
            ConfigurationError: It is not a model of Keras 3.
        """
        if not isinstance(unwrapped(model), keras.Layer):
            msg = f"{type(model).__module__}.{type(model).__name__} is not a model of Keras 3, which this callback requires."
            raise ConfigurationError(msg)
        super().set_model(model)

    @property
    def _keras_model(self) -> Any:
        """The model itself; unlike ``self.model``, reading it does not write JAX's state back into it."""
        return unwrapped(internals.given_model(self))

    def _enter(self, hook: FrameType, stage: Stage) -> KerasLoop:
        """Start to measure, unless this loop runs inside one that is already measured."""
        loop = KerasLoop(hook, self._keras_model)
        if self._loop is not None and self._loop.running() and (self._loop.is_keras or stage != "train"):
            return loop
        self._leave()
        refuse_second(loop.callbacks)
        placement.check_processes(self._keras_model)
        board = next((c for c in loop.callbacks if isinstance(c, keras.callbacks.TensorBoard)), None)
        output_dir: Any = self._options.output_dir
        folder = None if output_dir is None else as_place(output_dir)
        # An evaluation or a prediction without a TensorBoard callback uses the folder of the fit before it.
        shown = self._folder = self._folder or folder if board is None else as_place(board.log_dir)
        if stage == "train":
            self._backup = Backup(loop)
            self._resume(self._backup.load(folder or shown))
        self._gather = placement.gather()
        described = LoopDescription(
            framework=f"keras {keras.version()} ({traits.name()})",
            model=self._keras_model.name,
            output_dir=shown,
            watched=loop if loop.is_keras else None,
            gpus=placement.gpus(self._keras_model),
            accelerator=placement.accelerator(self._keras_model),
            record_event=traits.event_recorder(),
            gather=self._gather,
            repeats=True,
        )
        self._meter.start(described)
        if self._flops is not None:
            self._flops.begin_run()
        self._loop = loop
        written = self._meter.leads and (board is not None or isinstance(shown, Path))
        self._board = energy_run(shown if written else None, self._meter.warn, self._hyperparameters)
        if self._board is not None:
            self._meter.follow(self._board.follow)
        self._every = self._steps_between_scalars(board)
        self._monitored = monitored(loop.callbacks)
        self._listening.enter_context(compilations(self._on_compiling))
        shorten_progress_bar(loop)
        _warn_of_order(loop, self._meter.warn)
        return loop

    def _steps_between_scalars(self, board: Any) -> int:
        frequency = "epoch" if board is None else board.update_freq
        own = frequency if isinstance(frequency, int) else int(frequency == "batch")
        return self._steps_between_logs(own, several=self.in_job) if self._board else 0

    def _leave(self) -> None:
        """Clear the loop, and stop measuring if that still goes on."""
        self._cancel_layers()
        # If the meter is stopping itself at this moment, in its own thread, this waits for it.
        gone = self._loop is not None and len(self._passes) > 1
        self._meter.stop(*(self._loop.ending() if gone and self._loop is not None else ("completed", None)))
        measured, self._loop = self._loop is not None, None
        for run in self._passes[1:]:
            run.release()
        del self._passes[1:]
        self._listening.close()
        if measured:
            self._add_scalars({**self._logged(self._meter.totals()), **self._results}, self._epoch)  # as they are in the record
            self._results = {}

    def _finish(self) -> None:
        """End the run, unless a loop around this one continues."""
        if len(self._passes) > 1:
            return
        self._leave()
        if self.params.get("verbose") != 0:
            # In a new line, because the progress bar of an evaluation or a prediction has not ended its line yet.
            self._meter.write_headline(lambda text: sys.stdout.write(f"\n{text}\n"))

    # ---------------------------------------------------------------------------------------------------- stages

    def on_train_begin(self, logs: Any = None) -> None:
        """Start to measure, and enter the stage ``train``."""
        loop = self._enter(sys._getframe(), "train")  # noqa: SLF001 - there is no other way to find the caller
        self._keys.clear()
        self._begin_training()
        self._time_layers(self._keras_model, traits.why_no_layers(self._keras_model))
        self._meter.share()
        self._begin(loop, "train")
        self._begin_steps()
        self.keep()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Begin an epoch of training."""
        self._epoch = epoch
        self._training().begin_epoch()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Log the epoch, and its validation."""
        own = dict(logs or {})
        validated = {name: own.pop(name) for name in list(own) if name.startswith(_VALIDATED)}
        metrics = self._end_epoch(self._training(), logs, own)
        self._meter.add_metrics("validate", validated)
        if logs is not None:
            self._add(logs, "train", metrics)
            if self._validated:  # Keras, too, has fewer values of it with validation_freq
                self._add(logs, "validate", self._validated)
            if self._hyperparameters:  # a row of the tab HParams shows them beside the energy
                self._results = {name: float(logs[name]) for name in self._monitored[:1] if name in logs}
        self._validated = {}
        self.keep()

    def on_train_end(self, logs: Any = None) -> None:
        """Leave the stage ``train``."""
        run = self._training()
        self._end_training(finished=not run.cut_short and self._epoch + 1 >= (self.params.get("epochs") or sys.maxsize))
        self._end()

    def on_test_begin(self, logs: Any = None) -> None:
        """Enter the stage ``validate`` in a fit, else ``test``."""
        loop = self._enter(sys._getframe(), "test")  # noqa: SLF001 - as above
        outer = self._passes[-1]
        # A fit validates with its own list of callbacks.
        inside = outer.stage == "train" and self._loop is not None and loop.owner is self._loop.owner
        if outer.stage == "train":
            outer.interrupt()
        self._begin(loop, "validate" if inside else "test")
        self._passes[-1].begin_epoch()

    def on_test_end(self, logs: Any = None) -> None:
        """Log the evaluation, and leave its stage."""
        run = self._passes[-1]
        # In a fit, they get their names at the end of the epoch.
        metrics = self._end_epoch(run, None, None if run.stage == "validate" else logs)
        if run.stage == "validate":
            self._validated = metrics
        self._end()

    def on_predict_begin(self, logs: Any = None) -> None:
        """Enter the stage ``predict``."""
        self._begin(self._enter(sys._getframe(), "predict"), "predict")  # noqa: SLF001 - as above
        self._passes[-1].begin_epoch()

    def on_predict_end(self, logs: Any = None) -> None:
        """Log the prediction, and leave its stage."""
        self._end_epoch(self._passes[-1], None)
        self._end()

    def _expect(self, run: BatchPass, point: Point) -> dict[str, float]:
        """Return the metrics of the forecast; empty after an epoch that was cut short, or without a planned end."""
        planned, epochs = self.params.get("epochs"), self._epoch + 1
        if not planned or self._keras_model.stop_training:
            return {}
        counts = [0, 0, 0]
        if self._loop is not None and self._loop.validates_at(epochs) != epochs:
            counts = [self._loop.validates_at(passed) for passed in (self._epoch, epochs, planned)]
        before, past, whole = counts
        return self._forecast((self._epoch / planned, before, run.since), (epochs / planned, past, point), whole - past)

    def keep(self) -> None:
        """Save the record beside a backup of the weights."""
        if self._backup is not None and self._meter.running and self._meter.leads:
            self._backup.save(self._meter.record, self._meter.warn)

    def _begin(self, loop: KerasLoop, stage: Stage) -> None:
        """Enter a stage."""
        given = loop.data
        source = next((gate for data, gate in self._watched if given is not None and data() is given), None)
        if stage == "train" and source is None and self._watched and loop.is_keras:
            self._meter.warn("fit() was not given the watched data: pass it the object that watch() returned, unchanged.")
        for option in ("batch_size_fn", "count_fn"):
            if getattr(self._options, option) is not None and source is None:
                self._meter.warn(
                    f"{option} is not used in {stage}, as Keras passes callbacks no batches: pass the data through watch()."
                )
        run = BatchPass(
            self._meter,
            stage,
            loop,
            model=internals.given_model(self),
            params=self.params,
            thread=loop.thread if self._loop is None else self._loop.thread,
            source=source,
            sized_by_user=self._options.batch_size_fn is not None,
            log_every=self._every if stage == "train" else 0,
        )
        run.begin()
        if stage == "train" and self._options.parts:
            run.mark_parts()
            loop.parts = run.parts
        self._passes.append(run)

    def _end_epoch(self, run: BatchPass, logs: Any, own: Any = None) -> dict[str, float]:
        """Add an epoch, with Keras's own metrics, to the record and write its scalars; return ours, none after an error."""
        return self._close_epoch(run, logs, own) or {}

    @guarded
    def _close_epoch(self, run: BatchPass, logs: Any, own: Any) -> dict[str, float]:
        run.end_epoch(logs)
        if not self._meter.running:
            return {}
        if run.stage not in self._keys:
            _ = self._meter.record  # building it finds which phases can be separated, and so the keys of all epochs
        metrics, point = self._meter.close_epoch(run.stage, self._epoch, run.since, own)
        if run.stage == "train":
            metrics |= self._expect(run, point)
        metrics = self._logged(metrics)
        self._add_scalars(metrics, self._epoch)
        if run.stage == "train":
            return metrics
        return {name: value for name, value in metrics.items() if not name.startswith("energy/total/")}

    def _end(self) -> None:
        self._pop()
        self._finish()

    def _pop(self) -> None:
        """Leave the innermost stage, and restore the model and the parameters of the stage around it."""
        self._passes.pop().end()
        outer = self._passes[-1]
        if outer.model is not None:
            super().set_model(outer.model)
            self.params = outer.params

    def _training(self) -> BatchPass:
        """Return the innermost stage of training, after leaving stages within it that ended by a handled exception."""
        if any(run.stage == "train" for run in self._passes):
            while self._passes[-1].stage != "train":
                self._pop()
        return self._passes[-1]

    def _add(self, logs: Any, group: str, metrics: Mapping[str, float]) -> None:
        """Add metrics to an epoch's logs, those of the first epoch, as all epochs of a history have the same keys.

        A value that is unknown in a later epoch is NaN, as in a data frame.
        """
        keys = self._keys.setdefault(group, tuple(metrics)) if metrics else self._keys.get(group, ())
        logs.update({name: metrics.get(name, nan) for name in keys})

    # ---------------------------------------------------------------------------------------------------- batches

    @guards_itself
    def _on_batch_begin(self, batch: int, logs: Any = None) -> None:
        try:
            run = self._passes[-1]
            if run.plain:
                self._meter.batch_start()
            else:
                run.begin_batch(batch)
            run.parts.open = True
            if self._flops is not None:
                self._flops.begin(run.stage, run.model)
            if self._layer_timer is not None and run.stage == "train":
                self._layer_timer.begin_step()
        except Exception as error:  # noqa: BLE001 - as in guarded()
            handle_error(self, error)

    on_train_batch_begin = on_test_batch_begin = on_predict_batch_begin = _on_batch_begin

    @guards_itself
    def _on_batch_end(self, batch: int, logs: Any = None) -> None:
        try:
            run = self._passes[-1]
            run.parts.open = False
            if self._layer_timer is not None and run.stage == "train":
                self._layer_timer.end_step()
            if run.plain:
                self._meter.batch_end()
            else:
                run.end_batch(batch)
            if batch >= run.mark:  # of a training alone
                self._on_mark(run, batch)
        except Exception as error:  # noqa: BLE001 - as in guarded()
            handle_error(self, error)

    on_train_batch_end = on_test_batch_end = _on_batch_end

    @guards_itself
    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        """End a batch of a prediction."""
        try:
            run = self._passes[-1]
            try:
                samples = logs["outputs"].shape[0]  # nearly always, and faster than another call
            except Exception as error:  # noqa: BLE001 - several arrays, none, or whatever an attribute of the user's raises
                pass_users_error(error)
                samples = output_length(logs)
            if run.plain:
                self._meter.batch_end(samples)
            else:
                run.end_batch(batch, samples)
        except Exception as error:  # noqa: BLE001 - as in guarded()
            handle_error(self, error)

    def _on_compiling(self) -> None:
        self._passes[-1].begin_compiling()

    def _on_mark(self, run: BatchPass, batch: int) -> None:
        """Count the samples of the batches so far, and write the scalars of a step if they are due."""
        step = run.reach_mark(batch)
        if step is not None:
            self._add_scalars(self._logged(self._close_steps()), step)

    def _add_scalars(self, scalars: Mapping[str, float], step: int) -> None:
        if self._board is not None:
            self._board.add_scalars(scalars, step)


def _warn_of_order(loop: KerasLoop, warn: Callable[[str], None]) -> None:
    """Warn of callbacks that monitor one of our metrics but come before this callback, so that they do not get it."""
    for callback in loop.callbacks:
        if isinstance(callback, EnergyCallback):
            return
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, str) and monitor.startswith("energy/"):
            name = type(callback).__name__
            warn(f"{name} monitors {monitor!r}, which it does not receive: put EnergyCallback before {name} in the list.")
