"""The callback: translates the Trainer's hooks to calls of the meter, and the meter's metrics to the Trainer's log."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import ref

import transformers
from tqdm.auto import tqdm
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ml_energy_callbacks.exceptions import ConfigurationError
from ml_energy_callbacks.frameworks.callback import monitored, refuse_second
from ml_energy_callbacks.frameworks.checkpoint import load_saved_record, save_record
from ml_energy_callbacks.frameworks.guard import guard_hooks, guarded
from ml_energy_callbacks.frameworks.options import CallbackOptions
from ml_energy_callbacks.frameworks.parts import Parts
from ml_energy_callbacks.frameworks.stack_loop import StackLoop
from ml_energy_callbacks.frameworks.torch_callback import TorchCallback
from ml_energy_callbacks.meter.ending import ending
from ml_energy_callbacks.meter.options import documents
from ml_energy_callbacks.meter.points import Point
from ml_energy_callbacks.metrics import RESULTS, Stage
from ml_energy_callbacks.record.schema import RunRecord
from ml_energy_callbacks.record.storage import Place, as_place
from ml_energy_callbacks.transformers.board import Board
from ml_energy_callbacks.transformers.internals import (
    Caller,
    at_end_of_data,
    caller_of,
    ends_data,
    mark_parts,
    observe,
    resumed_checkpoint,
)
from ml_energy_callbacks.transformers.log import EnergyLog

if TYPE_CHECKING:
    from ml_energy_callbacks.tensorboard.energy_run import EnergyRun


_UNSEEN = "The Trainer's own training_step does not call compute_loss and accelerator.backward, as that of transformers does."
"""Why a training that marks its batches has no parts."""


class _Call(NamedTuple):
    """A call of ``train`` that runs.

    Attributes:
        trainer: The Trainer.
        frame: A frame of ours that runs as long as the call.
    """

    trainer: "ref[Trainer]"
    frame: FrameType


@dataclass(slots=True)
class _Pass:
    """An epoch of training, or one evaluation or prediction.

    Attributes:
        owner: The Trainer.
        stage: The stage.
        start: The point at which it began.
        batch_size: Number of samples in each batch but the last, which may be smaller.
        sizes: Numbers of samples and of tokens of the batches fetched and not ended yet; None for one that is unknown.
        seen: Tokens that the Trainer had counted at the end of the last batch.
        last: Whether these end with the last batch of the data.
        fetching: Whether batches are being fetched, so that a method that the Trainer's own overrides is not observed again.
        predicting: The same of a batch of an evaluation or a prediction.
        logged: The Trainer's own metrics of it so far.
        closed: Whether it has ended.
    """

    owner: "ref[Trainer]"
    stage: Stage
    start: Point
    batch_size: int
    sizes: list[tuple[int | None, int | None]] = field(default_factory=list)
    seen: int = 0
    last: bool = False
    fetching: bool = False
    predicting: bool = False
    logged: dict[str, Any] = field(default_factory=dict)
    closed: bool = False

    @property
    def trainer(self) -> Any:
        """The Trainer; None once nobody else has it."""
        return self.owner()


@documents(CallbackOptions)
@guard_hooks
class EnergyCallback(TorchCallback, TrainerCallback):
    """Measure the energy, carbon and cost of ``train`` with its evaluations, ``evaluate`` and ``predict``.

    It logs ``energy/<stage>/<quantity>`` with ``Trainer.log``, that is to ``trainer.state.log_history`` and to every tracker of
    ``report_to``, and writes the run record ``energy.json`` into the Trainer's ``output_dir``. Pass it in
    ``Trainer(callbacks=[EnergyCallback()])``: one that is added later measures from the next training on. The record covers
    everything that is run with it, by one Trainer or several.

    Args:
        log_every_n_steps: Number of steps of the optimiser between two logs of their energy; None for the Trainer's
            ``logging_steps``, 0 for no such logs.
        output_dir: Directory, or URL such as ``s3://bucket/run``, for ``energy.json`` instead of the Trainer's.

    Raises:
        ConfigurationError: An option cannot work; the message says what to do.
    """

    def _reset(self) -> None:
        super()._reset()
        self._log = EnergyLog(self._meter.warn)
        self._board = Board(self._meter.warn)
        self._row: EnergyRun | None = None
        self._trainers: list[ref[Trainer]] = []
        self._calls: list[_Call] = []
        self._loop: StackLoop | None = None
        self._inner: ref[Trainer] | None = None
        self._epoch: _Pass | None = None
        self._parts = Parts(self._meter, _UNSEEN)
        self._evaluation: _Pass | None = None
        self._index = self._next_index = 0
        self._log_every = 0
        self._log_due = False
        self._done_before: float | None = None

    # ---------------------------------------------------------------------------------------------------- life

    @property
    def record(self) -> RunRecord:
        """The run's record as of now.

        Raises:
            ConfigurationError: Nothing has been measured yet.
        """
        self._leave_failed_training()
        return super().record

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Observe the new Trainer."""
        caller = caller_of(sys._getframe())  # noqa: SLF001 - there is no other way to find the caller
        if caller is not None:
            self._observe(caller.trainer)

    def _observe(self, trainer: Trainer) -> None:
        """Observe what a Trainer has no hook for.

        Raises:
            ConfigurationError: It has two such callbacks.
        """
        refuse_second(trainer.callback_handler.callbacks)
        known = [known for known in self._trainers if known() is not None]
        self._trainers = [*known, *([] if any(one() is trainer for one in known) else [ref(trainer)])]
        unseen = observe(type(trainer), _WRAPPERS if self._flops is None else {**_WRAPPERS, **_COUNTING})
        if unseen:
            self._meter.warn(
                f"{type(trainer).__name__} does not let its methods {', '.join(unseen)} be observed: their energy is in the "
                "stage around them, and a failed training is not recognised."
            )

    @guarded
    def _start(self, trainer: Trainer, loop: StackLoop | None = None) -> None:
        """Start to measure; all processes of a job call this."""
        args = trainer.args
        goes_on = self._meter.running  # such as a training that restarts with smaller batches
        self._samples_shared = _share_samples(trainer)
        self._start_meter(
            framework=f"transformers {transformers.__version__}",
            model=type(trainer.model).__name__,
            world_size=args.world_size,
            rank=args.process_index,
            device=args.device,
            gpu_numbers=lambda: _gpu_numbers(trainer),
            output_dir=args.output_dir,
            watched=loop,
        )
        if goes_on:
            return
        if loop is not None:
            self._board.find(trainer)
        run = self._board.begin(self._hyperparameters) if args.process_index == 0 else None
        self._row = run if self._hyperparameters else None
        if run is not None:
            self._meter.follow(run.follow)

    @guarded
    def _finish(self, trainer: Trainer, error: BaseException | None = None) -> None:
        """Stop measuring and write the record."""
        if not self._meter.running:
            return
        self._meter.stop(*ending(error))
        if self._row is not None:
            self._row.add_scalars(_results(trainer), trainer.state.global_step)
        self._meter.write_headline(tqdm.write)

    @guarded
    def _leave_failed_training(self, *, ended: bool = False) -> None:
        """Stop measuring a training that ended by an exception, for which there is no hook.

        Args:
            ended: Whether it is known to have ended.
        """
        if self._loop is None or (self._loop.running() and not ended):
            return
        self._cancel_layers()
        # If the meter is stopping itself at this moment, in its own thread, this waits for it.
        self._meter.stop(*self._loop.ending())
        self._loop = self._epoch = None

    # ---------------------------------------------------------------------------------------------------- train

    def _train(self, trainer: Trainer, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Train, and record an exception that ends the training: there is no hook for it."""
        inside = any(call.trainer() is trainer for call in self._calls)  # an override has called what it overrides
        self._calls.append(_Call(ref(trainer), sys._getframe()))  # noqa: SLF001 - as above
        try:
            return method(*args, **kwargs)
        except BaseException:
            self._leave_failed_training(ended=not inside and self._epoch is not None and self._epoch.trainer is trainer)
            raise
        finally:
            self._calls.pop()
            self._leave_inner(trainer)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start to measure, and enter the stage ``train``."""
        caller = caller_of(sys._getframe())  # noqa: SLF001 - as above
        trainer = self._trainer_of(state) if caller is None else caller.trainer
        self._observe(trainer)
        self._leave_failed_training()
        if self._epoch is not None and self._epoch.trainer is not trainer and self._loop is not None:
            self._enter_inner(trainer)
            return
        if self._epoch is not None:  # the Trainer restarts with smaller batches (auto_find_batch_size)
            self._meter.end_stage()
        checkpoint = None if caller is None else resumed_checkpoint(caller)
        self._resume(None if checkpoint is None else load_saved_record(checkpoint, self._folder(args)))
        self._monitored = monitored(trainer.callback_handler.callbacks)
        self._loop = self._loop or self._watch(trainer, caller)
        self._start(trainer, self._loop)
        self._meter.begin_stage("train", "other", between="other")
        own = state.logging_steps if args.logging_strategy == "steps" else 0
        several = args.world_size > 1
        self._log_every = self._steps_between_logs(own, several=several)
        if several:
            self._meter.share()
        self._log_due = False
        self._index = self._next_index = int(state.epoch or 0)
        self._begin_training()
        self._time_layers(trainer.model, _why_no_layers(args))
        self._done_before = _share_done(state)
        self._begin_steps()
        self._epoch = _Pass(
            ref(trainer), "train", self._meter.point(), _batch_size(args, state), seen=state.num_input_tokens_seen
        )
        self._parts.restore()
        if self._options.parts and self._meter.running:
            mark_parts(self._parts, trainer)
            if self._loop is not None:
                self._loop.parts = self._parts

    def _trainer_of(self, state: TrainerState) -> Trainer:
        """Return the Trainer of this state, or the only one that was made with this callback.

        Raises:
            ConfigurationError: There is none.
        """
        known = [trainer for each in self._trainers if (trainer := each()) is not None]
        own = [trainer for trainer in known if trainer.state is state] or (known if len(known) == 1 else [])
        if not own:
            msg = "This EnergyCallback requires the Trainer of transformers: pass it in Trainer(callbacks=[...])."
            raise ConfigurationError(msg)
        return own[0]

    def _watch(self, trainer: Trainer, caller: Caller | None) -> StackLoop | None:
        """Return the loop whose end is watched; None for a loop of the user's, outside ``train``."""
        frames = [call.frame for call in self._calls if call.trainer() is trainer] or ([] if caller is None else [caller.outer])
        return StackLoop(frames[0]) if frames else None

    def _enter_inner(self, trainer: Trainer) -> None:
        """Leave the samples of this training alone while another Trainer trains inside one of its hooks."""
        if self._inner is None:
            self._inner = ref(trainer)
            self._meter.begin_stage("other")

    @guarded
    def _leave_inner(self, trainer: Trainer) -> None:
        """End the training of another Trainer."""
        if self._inner is not None and self._inner() is trainer:
            self._inner = None
            self._meter.end_stage("other")

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Begin an epoch of training."""
        run = self._training_of(state)
        if run is None:
            return
        self._done_before = _share_done(state)
        self._index, self._next_index = self._next_index, self._next_index + 1  # an evaluation after an epoch has its index
        self._epoch = _Pass(run.owner, "train", self._meter.point(), run.batch_size, seen=run.seen)

    def _fetch_batches(self, trainer: Trainer, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Fetch the batches of a step, in the phase ``data_wait``, and count their samples."""
        run = self._epoch
        if run is None or run.trainer is not trainer or run.fetching:
            return method(*args, **kwargs)
        self._log_step(trainer)
        self._meter.enter("data_wait")
        run.fetching = True
        try:
            found = method(*args, **kwargs)
        finally:
            run.fetching = False
            self._meter.enter("other")
        self._size_batches(run, found, args, kwargs)
        return found

    @guarded
    def _size_batches(self, run: _Pass, found: Sequence[Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Count what is in the batches of a step, the first of what was found, which were fetched with these arguments."""
        batches = found[0]
        ended = ends_data(run.trainer, batches, args, kwargs)
        run.sizes = [self._size(run, batch, last=ended and batch is batches[-1]) for batch in batches]

    def _size(self, run: _Pass, batch: Any, *, last: bool) -> tuple[int | None, int | None]:
        """Return the number of samples and of tokens in a batch; None where one is unknown."""
        return self._count_samples(batch, run.batch_size, last=last), self._count_tokens(batch)

    def _count_training_step(self, trainer: Trainer, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a batch of training forward and backward, and count its FLOPs if that is due."""
        run = self._epoch
        if self._flops is None or run is None or run.trainer is not trainer or self._evaluation is not None:
            return method(*args, **kwargs)
        with self._flops.batch(run.stage, trainer.model_wrapped, run.sizes[0][0] if run.sizes else None):
            return method(*args, **kwargs)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Record the start of a step's first batch."""
        if self._training_of(state) is not None:
            self._meter.batch_start()
            self._parts.open = True
            if self._layer_timer is not None:
                self._layer_timer.begin_step()

    def on_pre_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Mark the optimizer's step."""
        if self._training_of(state) is not None:
            self._parts.enter("optimizer")

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Mark its end."""
        if self._training_of(state) is not None:
            self._parts.enter(None)

    def on_substep_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Record the end of a batch whose gradients are accumulated, and the start of the next."""
        run = self._training_of(state)
        if run is not None:
            self._end_batch(run)
            if run.sizes:
                self._meter.batch_start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Record the end of a step's last batch."""
        run = self._training_of(state)
        if run is None:
            return
        self._parts.open = False
        if self._layer_timer is not None:
            self._layer_timer.end_step()
        self._end_batch(run)
        self._log_due = self._log_due or bool(self._log_every and state.global_step % self._log_every == 0)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Log the epoch."""
        run = self._training_of(state)
        if run is not None:
            self._parts.review()
            self._log_step(run.trainer)
            self._log_pass(run)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save the record, with the energy of the job's other processes, in the checkpoint; all processes call this."""
        if not self._meter.running or self._training_of(state) is None:
            return
        self._meter.share()
        checkpoint = Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"
        if self._meter.leads and checkpoint.is_dir():
            save_record(self._meter.record, checkpoint, self._meter.warn)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stop measuring and write the record."""
        run = self._training_of(state)
        if run is None:
            if self._inner is not None and (trainer := self._inner()) is not None and trainer.state is state:
                self._leave_inner(trainer)
            return
        self._parts.close()
        self._end_training(finished=state.global_step >= state.max_steps)
        self._meter.end_stage()
        self._loop = self._epoch = None
        self._finish(run.trainer)

    # ---------------------------------------------------------------------------------------------------- evaluate

    def _evaluate(self, trainer: Trainer, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self._measured(trainer):
            return method(*args, **kwargs)

    def _predict(self, trainer: Trainer, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self._measured(trainer, "predict"):
            return method(*args, **kwargs)

    @contextlib.contextmanager
    def _measured(self, trainer: Trainer, stage: Stage | None = None) -> Iterator[None]:
        """Measure the body as a stage; with None, as ``validate`` inside a training and as ``test`` outside."""
        if self._evaluation is not None:  # for several data sets, evaluate() calls itself for each
            self._meter.enter("data_wait")
            yield
            return
        self._leave_failed_training()
        inside = self._epoch is not None
        if not inside:
            self._start(trainer)
        run = _Pass(
            ref(trainer), stage or ("validate" if inside else "test"), self._meter.point(), trainer.args.eval_batch_size
        )
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
                self._finish(trainer, error)

    def _begin_eval_batch(
        self, trainer: Trainer, method: Callable[..., Any], model: Any, inputs: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Record the start of a batch of an evaluation or a prediction."""
        run = self._evaluation
        if run is None or run.predicting:
            return method(model, inputs, *args, **kwargs)
        self._size_eval_batch(run, inputs)
        self._meter.batch_start()
        run.predicting = True
        try:
            if self._flops is None:
                return method(model, inputs, *args, **kwargs)
            with self._flops.batch(run.stage, model, run.sizes[0][0] if run.sizes else None):
                return method(model, inputs, *args, **kwargs)
        finally:
            run.predicting = False

    @guarded
    def _size_eval_batch(self, run: _Pass, inputs: Any) -> None:
        """Count what is in a batch of an evaluation or a prediction."""
        run.last = at_end_of_data(run.trainer)
        run.sizes = [self._size(run, inputs, last=run.last)]

    def on_prediction_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Record the end of the batch; after the last one the loop does not wait for data."""
        if self._evaluation is not None:
            self._end_batch(self._evaluation)
            if self._evaluation.last:
                self._meter.enter("other")

    # ---------------------------------------------------------------------------------------------------- metrics

    def measures_training(self, state: TrainerState) -> bool:
        """Return whether it measures the training of the Trainer with this state now."""
        return self._training_of(state) is not None

    def _training_of(self, state: TrainerState) -> _Pass | None:
        """Return the epoch that is measured if this is its Trainer's state; another Trainer may train inside a hook."""
        run = self._epoch
        return run if run is not None and run.trainer.state is state else None

    def _folder(self, args: TrainingArguments) -> Place:
        """Return the folder of the record."""
        return as_place(self._options.output_dir or args.output_dir or ".")

    def _end_batch(self, run: _Pass) -> None:
        samples, tokens = run.sizes.pop(0) if run.sizes else (None, None)
        if self._options.count_fn is None and run.stage == "train":
            tokens = self._tokens_seen(run)
        self._meter.batch_end(samples, tokens=tokens)

    def _tokens_seen(self, run: _Pass) -> int | None:
        """Return the tokens of the batch that ends by the Trainer's own count; None if it does not count them.

        The Trainer adds up those of all processes: each gets its part, so that the parts add up to the count.
        """
        args = run.trainer.args
        seen: int = run.trainer.state.num_input_tokens_seen
        tokens, run.seen = seen - run.seen, seen
        if tokens <= 0 or self._samples_shared:
            return None
        return int((tokens + args.process_index) // args.world_size)

    @guarded
    def _log_step(self, trainer: Trainer) -> None:
        """Log the energy of the last steps if a log is due; called after the Trainer's own log of these steps."""
        if self._log_due and self._meter.running:
            self._log_due = False
            self._log.write(trainer, self._logged(self._close_steps()))

    @guarded
    def _log_pass(self, run: _Pass) -> None:
        """Log an epoch, or an evaluation; all processes of a job call this, and none does after an exception."""
        if not self._meter.running:
            return
        run.closed = True
        metrics, point = self._meter.close_epoch(run.stage, self._index, run.start, run.logged)
        if run.stage == "train":
            metrics |= self._forecast_training(run, point)
        evaluates = run.stage in {"validate", "test"}
        self._log.write(run.trainer, self._logged(metrics), merge=run.stage == "train" or evaluates, newest=evaluates)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Add the Trainer's own metrics to the record, and merge the last log into its own entry of the same step."""
        run = self._training_of(state)
        if run is not None and self._evaluation is None:
            self._add_metrics(run, logs)
        self._log.merge_into_last(state)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Add the metrics of an evaluation to the record."""
        if self._evaluation is not None:
            self._add_metrics(self._evaluation, metrics)

    def on_predict(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Mapping[str, Any], **_: Any
    ) -> None:
        """Add the metrics of a prediction to the record."""
        if self._evaluation is not None:
            self._add_metrics(self._evaluation, metrics)

    def _add_metrics(self, run: _Pass, metrics: Mapping[str, Any] | None) -> None:
        """Add metrics to an epoch or an evaluation, which may have ended: the Trainer logs an epoch after its end."""
        if run.closed:
            self._meter.add_metrics(run.stage, metrics)
        else:
            run.logged.update(metrics or {})

    def _forecast_training(self, run: _Pass, point: Point) -> dict[str, float]:
        """Return the metrics of the forecast; empty after an epoch that was cut short, or without a planned end."""
        done = _share_done(run.trainer.state)
        if done is None or self._done_before is None or (run.trainer.control.should_training_stop and done < 1):
            return {}
        return self._forecast((self._done_before, 0, run.start), (done, 0, point))


def _results(trainer: Trainer) -> dict[str, float]:
    """Return what a run came to: its energy, that of a sample, and the metric by which the Trainer finds the best model."""
    best = trainer.args.metric_for_best_model
    names = [*RESULTS, *([] if best is None else [f"eval_{best.removeprefix('eval_')}"])]
    logged = {name: value for entry in trainer.state.log_history for name, value in entry.items()}
    return {name: logged[name] for name in names if name in logged}


def _share_done(state: TrainerState) -> float | None:
    """Return the share of the training that is done; None if no end is set."""
    return min(1.0, state.global_step / state.max_steps) if state.max_steps > 0 else None


def _batch_size(args: TrainingArguments, state: TrainerState) -> int:
    """Return the number of samples in a batch of training."""
    found = state.train_batch_size if args.auto_find_batch_size else None
    return int(found or args.train_batch_size)


def _why_no_layers(args: TrainingArguments) -> str | None:
    """Return why the layers of a training cannot be timed, where its options say so."""
    if args.torch_compile:
        return "The model is compiled by torch.compile (torch_compile), which leaves no layers."
    return "Several GPUs run copies of the model in one process: start it with torchrun." if args.n_gpu > 1 else None


def _share_samples(trainer: Trainer) -> bool:
    """Return whether several processes work on the same samples, as with tensor, sequence or context parallelism."""
    args = trainer.args
    apart = _batch_size(args, trainer.state) * args.gradient_accumulation_steps * args.world_size
    # Older Trainers, which lack this method, have no such parallelism.
    return args.world_size > 1 and bool(getattr(trainer, "get_total_train_batch_size", lambda _: apart)(args) != apart)


def _gpu_numbers(trainer: Trainer) -> set[int | None]:
    """Return CUDA's numbers of the GPUs that this process uses; None for the current one."""
    args = trainer.args
    replicas = range(args.n_gpu) if args.n_gpu > 1 else [args.device.index]  # of torch.nn.DataParallel
    layers = {weight.device.index for weight in trainer.model.parameters() if weight.device.type == "cuda"}
    return {*replicas, *layers}


def _wrapper(name: str) -> Callable[..., Any]:
    """Return the function that passes a call of a Trainer's method on to a method of its EnergyCallback, if it has one."""

    def wrapper(trainer: Any, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        handler = getattr(trainer, "callback_handler", None)  # it may be another heir of a class that the user mixes in
        for callback in getattr(handler, "callbacks", ()):
            if isinstance(callback, EnergyCallback):
                return getattr(callback, name)(trainer, method, *args, **kwargs)
        return method(*args, **kwargs)

    return wrapper


_WRAPPERS = {
    "train": _wrapper("_train"),
    "evaluate": _wrapper("_evaluate"),
    "predict": _wrapper("_predict"),
    "get_batch_samples": _wrapper("_fetch_batches"),
    "prediction_step": _wrapper("_begin_eval_batch"),
}
_COUNTING = {"training_step": _wrapper("_count_training_step")}
