"""The callback: the Trainer's hooks -> meter calls, the meter's figures -> the Trainer's log and the record."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakSet

import transformers
from tqdm.auto import tqdm
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.frameworks.batch_size import infer_batch_size
from ml_energy_callbacks.frameworks.callback import MeteredCallback
from ml_energy_callbacks.frameworks.checkpoint import keep_record, kept_record
from ml_energy_callbacks.frameworks.stack_loop import StackLoop
from ml_energy_callbacks.frameworks.torch import all_gather, cuda_event_recorder, gpu_uuids, joined, no_gpus
from ml_energy_callbacks.meter.ending import ending
from ml_energy_callbacks.meter.loop import LoopDescription
from ml_energy_callbacks.meter.points import Point
from ml_energy_callbacks.metrics import STEP_SUFFIX, Stage
from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.record.storage import Place, as_place
from ml_energy_callbacks.report import summary
from ml_energy_callbacks.transformers.trainer import caller_of, precede


@dataclass(slots=True)
class _Pass:
    """An epoch of training, or one evaluation or prediction.

    Attributes:
        trainer: The Trainer.
        stage: The stage.
        start: Where it began.
        batch_size: Samples of a batch that is no smaller last one.
        sizes: Numbers of samples of the batches that are about to run; None where one is not known.
        last: Whether the last of these is the last of the data.
    """

    trainer: Trainer
    stage: Stage
    start: Point
    batch_size: int
    sizes: list[int | None] = field(default_factory=list)
    last: bool = False


class EnergyCallback(MeteredCallback, TrainerCallback):
    """Measure the energy, carbon and cost of ``train`` with its evaluations, ``evaluate`` and ``predict``.

    It logs ``energy/<stage>/<quantity>`` by ``Trainer.log``, so that ``trainer.state.log_history`` and every tracker of
    ``report_to`` have them, and writes the run's record ``energy.json`` into the Trainer's ``output_dir``. Give it in
    ``Trainer(callbacks=[EnergyCallback()])``: one that is added later sees nothing before the next training begins. Its record
    spans all that Trainers do with it.

    Args:
        log_every_n_steps: Steps of the optimiser between two logs of their energy; None for the Trainer's ``logging_steps``,
            0 for none.
        output_dir: Directory, or URL such as ``s3://bucket/run``, for ``energy.json`` in place of the Trainer's.

    Raises:
        ConfigurationError: An option cannot work; the message says what to do.
    """

    def _reset(self) -> None:
        super()._reset()
        self._trainers: WeakSet[Trainer] = WeakSet()
        self._loop: StackLoop | None = None
        self._epoch: _Pass | None = None
        self._evaluation: _Pass | None = None
        self._index = self._next_index = 0
        self._every = 0
        self._due = False
        self._began_at: float | None = None
        self._step_point: Point | None = None

    # ---------------------------------------------------------------------------------------------------- life

    @property
    def record(self) -> RunRecord:
        """The run's record as of now.

        Raises:
            ConfigurationError: Nothing was measured yet.
        """
        self._leave_broken()
        return super().record

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Join the Trainer that was made."""
        self._join(caller_of(sys._getframe()).trainer)  # noqa: SLF001 - the caller is not to be had in another way

    def _join(self, trainer: Trainer) -> None:
        """See what the Trainer's hooks do not show.

        Raises:
            ConfigurationError: It has two such callbacks.
        """
        if sum(isinstance(callback, EnergyCallback) for callback in trainer.callback_handler.callbacks) > 1:
            msg = "The trainer has two EnergyCallbacks, which would measure everything twice: leave one out."
            raise ConfigurationError(msg)
        if trainer in self._trainers:
            return
        self._trainers.add(trainer)
        precede(trainer, "get_batch_samples", self._fetch)
        precede(trainer, "prediction_step", self._predict_batch)
        precede(trainer, "train", self._train)
        precede(trainer, "evaluate", self._evaluate)
        precede(trainer, "predict", self._predict)

    def _start(self, trainer: Trainer, loop: StackLoop | None = None) -> None:
        """Start to measure; in a job of several processes, all of them come here."""
        args = trainer.args
        gather = all_gather if args.world_size > 1 and joined() else None
        alone = args.world_size > 1 and gather is None
        if alone and args.process_index:
            return
        described = LoopDescription(
            framework=f"transformers {transformers.__version__}",
            world_size=args.world_size,
            output_dir=args.output_dir,
            model=type(trainer.model).__name__,
            watched=loop,
            gpus=_gpus(trainer),
            record_event=cuda_event_recorder() if args.device.type == "cuda" else None,
            gather=gather,
        )
        self._meter.start(described)
        if alone:
            self._meter.warn(
                f"The {args.world_size} processes of the job cannot tell each other what they use: the energy in here is that "
                "of rank 0's devices and its host alone."
            )

    def _finish(self, error: BaseException | None = None) -> None:
        """Stop measuring and write the record."""
        if not self._meter.running:
            return
        self._meter.stop(*ending(error))
        if self.verbose and self._meter.leads:
            tqdm.write(summary(self._meter.record))

    def _leave_broken(self) -> None:
        """End a training that ended by an exception, of which no hook told."""
        if self._loop is None or self._loop.running():
            return
        # The meter may be stopping itself just now, in its own thread: then this waits for it.
        self._meter.stop(*self._loop.ending())
        self._loop = self._epoch = None

    # ---------------------------------------------------------------------------------------------------- train

    def _train(self, _: Trainer, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Train; here an exception, of which no hook tells, can still be seen."""
        try:
            return method(*args, **kwargs)
        except BaseException:
            self._leave_broken()
            raise

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start to measure, and enter the stage ``train``."""
        caller = caller_of(sys._getframe())  # noqa: SLF001 - as above
        self._join(caller.trainer)
        self._leave_broken()
        if self._loop is not None:  # the Trainer begins anew with smaller batches (auto_find_batch_size)
            self._meter.end_stage()
        checkpoint = caller.inner.f_locals.get("resume_from_checkpoint")
        if isinstance(checkpoint, (str, os.PathLike)):
            self._resume(kept_record(Path(checkpoint), self._folder(args)))
        self._loop = self._loop or StackLoop(caller.outer)
        self._start(caller.trainer, self._loop)
        self._meter.begin_stage("train", "other", between="other")
        every = self.log_every_n_steps
        self._every = (state.logging_steps if args.logging_strategy == "steps" else 0) if every is None else every
        if args.world_size > 1:  # what the others use is known at the ends of epochs alone
            self._every = 0
            self._meter.share()
        self._due = False
        self._index = self._next_index = int(state.epoch or 0)
        self._step_point = self._meter.point()
        self._begin_training()
        self._began_at = _done(state)
        self._epoch = _Pass(caller.trainer, "train", self._step_point, _batch_size(args, state))

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Begin an epoch of training."""
        self._began_at = _done(state)
        self._index, self._next_index = self._next_index, self._next_index + 1  # an evaluation after an epoch belongs to it
        if self._epoch is not None:
            self._epoch = _Pass(self._epoch.trainer, "train", self._meter.point(), self._epoch.batch_size)

    def _fetch(self, trainer: Trainer, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Wait for the batches of a step, and count their samples."""
        run = self._epoch
        if run is None or not self._listens(trainer):
            return method(*args, **kwargs)
        self._log_step(trainer)
        self._meter.enter("data_wait")
        try:
            found = method(*args, **kwargs)
        finally:
            self._meter.enter("other")
        batches = found[0]
        wanted = args[1] if len(args) > 1 else kwargs["num_batches"]
        ended = trainer.accelerator.gradient_state.end_of_dataloader or len(batches) < wanted
        run.sizes = [self._samples(run, batch, last=ended and batch is batches[-1]) for batch in batches]
        return found

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Begin to compute."""
        self._meter.batch_start()

    def on_substep_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """End a batch whose gradients are accumulated, and begin the next."""
        if self._epoch is not None:
            self._end_batch(self._epoch)
            if self._epoch.sizes:
                self._meter.batch_start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """End the last batch of a step."""
        if self._epoch is not None:
            self._end_batch(self._epoch)
        self._due = self._due or bool(self._every and state.global_step % self._every == 0)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Log the epoch."""
        if self._epoch is not None:
            self._log_step(self._epoch.trainer)
            self._log_pass(self._epoch)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Keep the record in the checkpoint, and what the job's other processes took so far in it: all come here."""
        if not self._meter.running:
            return
        self._meter.share()
        checkpoint = Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"
        if self._meter.leads and checkpoint.is_dir():
            keep_record(self._meter.record, checkpoint, self._meter.warn)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stop measuring and write the record."""
        self._end_training(finished=state.global_step >= state.max_steps)
        self._meter.end_stage()
        self._loop = self._epoch = None
        self._finish()

    # ---------------------------------------------------------------------------------------------------- evaluate

    def _evaluate(self, trainer: Trainer, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self._passing(trainer):
            return method(*args, **kwargs)

    def _predict(self, trainer: Trainer, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self._passing(trainer, "predict"):
            return method(*args, **kwargs)

    @contextlib.contextmanager
    def _passing(self, trainer: Trainer, stage: Stage | None = None) -> Iterator[None]:
        """Measure the body as a stage: where none is named, ``validate`` inside a training, else ``test``."""
        if not self._listens(trainer):
            yield
            return
        if self._evaluation is not None:  # of several data sets, one calls it after the other from inside
            self._meter.enter("data_wait")
            yield
            return
        self._leave_broken()
        inside = self._loop is not None
        if not inside:
            self._start(trainer)
        run = _Pass(trainer, stage or ("validate" if inside else "test"), self._meter.point(), trainer.args.eval_batch_size)
        self._meter.begin_stage(run.stage)
        self._evaluation = run
        error: BaseException | None = None
        try:
            yield
            self._log_pass(run)
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._evaluation = None
            self._meter.end_stage("other")
            if not inside:
                self._finish(error)

    def _predict_batch(
        self, trainer: Trainer, method: Callable[..., Any], model: Any, inputs: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Begin to compute a batch of an evaluation or a prediction."""
        run = self._evaluation
        if run is not None:
            run.last = trainer.accelerator.gradient_state.end_of_dataloader
            run.sizes = [self._samples(run, inputs, last=run.last)]
            self._meter.batch_start()
        return method(model, inputs, *args, **kwargs)

    def on_prediction_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """End it; after the last batch nothing is waited for."""
        if self._evaluation is not None:
            self._end_batch(self._evaluation)
            if self._evaluation.last:
                self._meter.enter("other")

    # ---------------------------------------------------------------------------------------------------- figures

    def _listens(self, trainer: Trainer) -> bool:
        """Return whether it is still one of the Trainer's callbacks."""
        return any(callback is self for callback in trainer.callback_handler.callbacks)

    def _folder(self, args: TrainingArguments) -> Place:
        """Return where the record goes."""
        return as_place(self.output_dir or args.output_dir or ".")

    def _samples(self, run: _Pass, batch: Any, *, last: bool) -> int | None:
        """Return the number of samples in a batch."""
        if _share_samples(run.trainer):
            self._meter.warn("Several processes share a sample, so that energy per sample is unknown.")
            return None
        if self.batch_size_fn is not None:
            return self._ask(self.batch_size_fn, batch)
        samples = infer_batch_size(batch, run.batch_size, last=last)
        if samples is None:
            self._meter.warn(
                "The number of samples in a batch is not plain from its shapes, so that energy per sample is unknown: "
                "give EnergyCallback a batch_size_fn."
            )
        return samples

    def _end_batch(self, run: _Pass) -> None:
        self._meter.batch_end(run.sizes.pop(0) if run.sizes else None)

    def _log_step(self, trainer: Trainer) -> None:
        """Log the energy of the last steps, once the Trainer has logged these."""
        if not (self._due and self._meter.running):
            return
        self._due = False
        point = self._meter.point()
        metrics = self._meter.metrics("train", self._step_point, point, suffix=STEP_SUFFIX)
        self._step_point = point
        _log(trainer, {**metrics, **self._meter.totals(point)})

    def _log_pass(self, run: _Pass) -> None:
        """Log a pass since its start; every process of the job comes here, and none after an exception."""
        if not self._meter.running:
            return
        metrics, point = self._meter.close_epoch(run.stage, self._index, run.start)
        if run.stage == "train":
            metrics |= self._expect(run, point)
        _log(run.trainer, metrics)

    def _expect(self, run: _Pass, point: Point) -> dict[str, float]:
        """Return what the training is expected to take; nothing after an epoch that was cut, or where no end is set."""
        done = _done(run.trainer.state)
        if done is None or self._began_at is None or (run.trainer.control.should_training_stop and done < 1):
            return {}
        return self._forecast((self._began_at, 0, run.start), (done, 0, point))


def _log(trainer: Trainer, metrics: dict[str, float]) -> None:
    """Log by the Trainer, whose own log may be due still."""
    due = trainer.control.should_log
    trainer.log(metrics)
    trainer.control.should_log = due


def _done(state: TrainerState) -> float | None:
    """Return the share of the training that has passed; None where no end is set."""
    return min(1.0, state.global_step / state.max_steps) if state.max_steps > 0 else None


def _batch_size(args: TrainingArguments, state: TrainerState) -> int:
    """Return the samples of a batch of training."""
    found = state.train_batch_size if args.auto_find_batch_size else None
    return int(found or args.train_batch_size)


def _share_samples(trainer: Trainer) -> bool:
    """Return whether several processes of the job share a sample, as with tensor, sequence or context parallelism."""
    args = trainer.args
    apart = _batch_size(args, trainer.state) * args.gradient_accumulation_steps * args.world_size
    # A Trainer without this method is of a time when no processes shared a sample.
    return args.world_size > 1 and bool(getattr(trainer, "get_total_train_batch_size", lambda _: apart)(args) != apart)


def _gpus(trainer: Trainer) -> Sequence[str] | None:
    """Return the UUIDs of the GPUs that this process works on; None where torch does not tell."""
    args = trainer.args
    if args.device.type != "cuda":
        return no_gpus() if args.device.type == "cpu" else None
    replicas = range(args.n_gpu) if args.n_gpu > 1 else [args.device.index]  # of torch.nn.DataParallel
    layers = {weight.device.index for weight in trainer.model.parameters() if weight.device.type == "cuda"}
    return gpu_uuids({*replicas, *layers})
