"""Train a LoRA adapter on conversations, in a folder from which a killed run can continue.

The folder of a run holds:

    run.json               everything that the run depends on; a run with other settings is refused
    checkpoint-N/          checkpoints of Trainer, from which a run continues
    sra_history.jsonl      the SRA of every step and evaluation
    adapter/               the adapter of the checkpoint with the lowest evaluation loss, with the
                           tokenizer
    merged/                the base model with the adapter in it, if asked for
    curves.png             loss and SRA over steps
    result.json            the result in numbers

A run that was killed continues from its newest whole checkpoint when it is started again. Its
result is the same as without the interruption, on a CPU bit for bit. A finished run whose files are
no longer as they were written makes them again, from its checkpoints or by training.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sra_fast.tools import launched_processes
from sra_fast.tools.counted import counted
from sra_fast.tools.missing_extra import needed

with needed("train", "accelerate"):
    from transformers import (
        EarlyStoppingCallback,
        PreTrainedModel,
        PrinterCallback,
        TrainerCallback,
        TrainerControl,
        TrainerState,
        TrainingArguments,
        set_seed,
    )

from sra_fast.files.models import ModelSource, choose_device
from sra_fast.files.run_date import first_day, start_of
from sra_fast.files.run_folder import RunFolder, RunFolderError
from sra_fast.measure.served import rope_types, serve
from sra_fast.names import Device
from sra_fast.tools.argument_error import ArgumentError

from ..data.collator import PackingCollator, PaddingCollator
from ..data.packable import why_not_packed
from ..memory.mlp_slices import sliced_mlps
from ..sra.callback import SRACallback
from ..sra.history import NAME as HISTORY
from .adapter import check_base, check_resumable, load_base, with_adapter
from .checkpoints import checkpoints, newest_checkpoint, remove_incomplete
from .outcome import RESULT, RESULT_FILES, damaged_results, remove_damaged, write_outcome
from .reply_trainer import ReplyTrainer
from .settings import TrainingConfig
from .train_data import RunData, read_data, settings_of_run
from .trainer_arguments import training_arguments

_logger = logging.getLogger(__name__)

OnLog = Callable[[int, int, Mapping[str, Any]], None]
"""A function that is called with the step, the last step and what is logged at the step."""


class TrainingRunError(ArgumentError):
    """Raised when a training run cannot begin or go on; the message says why and the way out."""


@dataclass(frozen=True)
class TrainingRun:
    """A training run: which model, on which conversations, and where the results go.

    Attributes:
        data: the JSONL file of training conversations.
        source: the base model.
        out: the folder of the run; it is new, or holds this very run.
        config: the settings of the run.
        device: the device to train on; "auto" takes CUDA if there is a GPU, else the CPU.
        overwrite: whether an earlier training run in ``out`` is replaced.
        merge: whether the base model is saved with the adapter in it, too.
        part_of: the folder of the run that this training is a stage of, whose date counts; None for
            one that stands alone.
        on_log: called with the step, the last step and what is logged at the step.
    """

    data: Path
    source: ModelSource
    out: Path
    config: TrainingConfig
    device: Device = "auto"
    overwrite: bool = False
    merge: bool = False
    part_of: Path | None = None
    on_log: OnLog = lambda step, last, logs: None


def train(run: TrainingRun) -> dict[str, Any]:
    """Train an adapter, continue a run that was killed, or return the result of a finished one.

    Under ``accelerate launch`` every process calls this function; only the first one writes.

    Args:
        run: which model to train, on which conversations, and where the results go.

    Returns:
        What ``result.json`` holds; an empty dict in all processes but the first.

    Raises:
        ValueError: settings, conversations, model and folder do not go together; or a loss is NaN
            or infinite.
        OSError: a file cannot be read or written.
    """
    device = choose_device(run.device)
    check_base(run.source)
    if Path(run.source.place).is_dir():  # the adapter names it, and is read from anywhere
        absolute = replace(run.source, place=str(Path(run.source.place).resolve()))
        run = replace(run, source=absolute)
    tokenizer = run.source.tokenizer()
    day = first_day(None if run.overwrite else run.part_of or run.out, run.source)
    data = read_data(run.data, tokenizer, run.config, start_of(day))
    for note in (_size(run.config, data), *data.notes):
        _logger.info("%s", note)
    settings = settings_of_run(run.source, data, run.config, device, day)
    folder = RunFolder(run.out.resolve(), settings)
    # Looked for by every process, and before the first one removes it: all must do the same.
    damaged = [] if run.overwrite else damaged_results(folder)
    with ExitStack() as stack:
        if launched_processes.is_first():
            stack.enter_context(_opened(folder, run.overwrite))
            for note in (*remove_damaged(folder.path, damaged), *remove_incomplete(folder.path)):
                _logger.info("%s", note)
        there = all((folder.path / name).exists() for name in _wanted(run))
        if there and not run.overwrite and not damaged:
            _logger.info("this run was finished before; nothing is trained")
            return _recorded(folder.path) if launched_processes.is_first() else {}
        last = newest_checkpoint(folder.path)
        if run.overwrite or last is None or not last.ends_the_run:
            _train(run, folder.path, data, device)
        result: dict[str, Any] = {}
        if launched_processes.is_first():
            result = _outcome(run, folder.path, data, tokenizer)
            folder.finish([*_wanted(run), *(one.name for one in checkpoints(folder.path))])
            for note in result["notes"][len(data.notes) :]:
                _logger.info("%s", note)
    return result


def _opened(folder: RunFolder, overwrite: bool) -> AbstractContextManager[None]:
    """Return a context in which the folder is this run's.

    A run with other settings is replaced if ``overwrite`` says so, or if it has saved nothing yet.

    Raises:
        TrainingRunError: the folder holds another run.
    """
    saved = [*(one.name for one in checkpoints(folder.path)), *RESULT_FILES]
    begun = any((folder.path / name).exists() for name in saved if name != HISTORY)
    if overwrite or not begun:
        return folder.opened(replacing=saved)
    try:
        folder.check()
    except RunFolderError as error:
        raise TrainingRunError(
            f"{error}; overwrite=True replaces a training run", *error.arguments, "overwrite"
        ) from error
    return folder.opened()


def _train(run: TrainingRun, out: Path, data: RunData, device: str) -> None:
    config = run.config
    set_seed(config.seed)
    base = load_base(run.source, config, device)
    served = serve(base)
    limit = served.context_length
    if limit is not None and data.longest > limit:
        raise TrainingRunError(
            f"the longest conversation has {data.longest} tokens, and {served.name} takes at "
            f"most {limit}; set max_length to {limit} and choose too_long 'drop' or "
            "'cut_oldest_turns'",
            "max_length",
            "too_long",
        )
    collator = _collator(run, base, data.longest)
    arguments = training_arguments(config, out, device, base, evaluated=data.evaluation is not None)
    arguments.distributed_state.wait_for_everyone()  # until the first process has the folder
    last = newest_checkpoint(out)
    if last is not None:
        _logger.info("going on from %s", last.name)
        arguments.eval_on_start = False
    stops = data.evaluation is not None and config.patience is not None
    model = with_adapter(base, config)
    if last is not None:
        check_resumable(model, last)
    trainer = ReplyTrainer(
        model,
        arguments,
        data_collator=collator,
        train_dataset=data.training,
        eval_dataset=data.evaluation,
        callbacks=[
            SRACallback(),
            *([EarlyStoppingCallback(config.patience)] if stops else []),
            _Progress(run.on_log),
        ],
        sra_weight=config.sra_weight,
        sra_target=config.sra_target,
        sra_log=config.sra_log,
        sra_layers=config.sra_layers,
        sra_heads=config.sra_heads,
        sra_definition=config.sra_definition,
    )
    trainer.remove_callback(PrinterCallback)
    _check_saving(trainer)
    if trainer.why_full_logits is not None:
        _logger.info("logits are computed for every position: %s", trainer.why_full_logits)
    if config.gradient_checkpointing and config.reentrant_checkpointing:
        model.enable_input_require_grads()
    with ExitStack() as stack:
        if config.mlp_slices > 1:
            stack.enter_context(sliced_mlps(model, config.mlp_slices))
        try:
            trainer.train(resume_from_checkpoint=None if last is None else str(last.folder))
        except FloatingPointError as error:
            raise TrainingRunError(str(error)) from error


def _collator(
    run: TrainingRun, base: PreTrainedModel, longest: int
) -> PackingCollator | PaddingCollator:
    batch = run.config.batch_size
    if batch == 1:
        return PaddingCollator()
    reason = why_not_packed(base, max_length=longest, row_tokens=batch * longest)
    if reason is None:
        return PackingCollator()
    if rope_types(serve(base).config) & {"dynamic", "longrope"}:
        raise TrainingRunError(
            f"{reason}; set batch_size to 1, and accumulation higher", "batch_size", "accumulation"
        )
    _logger.info("batches are padded, not packed: %s", reason)
    return PaddingCollator()


def _outcome(run: TrainingRun, out: Path, data: RunData, tokenizer: Any) -> dict[str, Any]:
    last = newest_checkpoint(out)
    if last is None:
        reasons = [f"{one.name}: {one.why_incomplete()}" for one in checkpoints(out)]
        raise TrainingRunError(
            f"{out} holds no whole checkpoint after training "
            f"({'; '.join(reasons) or 'none was written'}); lower the learning rate if it is not "
            "finite, or see whether the disk is full"
        )
    return write_outcome(run.source, run.config, last, data, tokenizer, merge=run.merge)


def _size(config: TrainingConfig, data: RunData) -> str:
    """Return a sentence about the number of conversations, in all and in one optimizer step."""
    held_out = "nothing is held out"
    if data.evaluation is not None:
        dialogues = len(set(data.evaluation["dialogue"]))
        held_out = f"{len(data.evaluation)} held out (of {counted(dialogues, 'dialogue')})"
    number = launched_processes.count()
    together = number * config.batch_size * config.accumulation
    return (
        f"{counted(len(data.training), 'conversation')} to train on, {held_out}; a step takes "
        f"{min(together, len(data.training))}: {number} "
        f"{'process' if number == 1 else 'processes'} × batch {config.batch_size} × "
        f"accumulation {config.accumulation}"
        + (", fewer at the end of an epoch" if together > len(data.training) else "")
    )


def _wanted(run: TrainingRun) -> list[str]:
    """Return the names of the files that a finished run has."""
    return [*RESULT_FILES[:-1], *([RESULT_FILES[-1]] if run.merge else [])]


def _recorded(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / RESULT).read_text(encoding="utf-8"))
    return found


def _check_saving(trainer: ReplyTrainer) -> None:
    """Check that checkpoints will hold the adapter in one file.

    Raises:
        TrainingRunError: FSDP would save it in shards.
    """
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    if plugin is not None and "FULL" not in str(plugin.state_dict_type):
        raise TrainingRunError(
            "FSDP is set to save in shards, but an adapter must be in one file; set "
            "fsdp_state_dict_type: FULL_STATE_DICT in the configuration of accelerate"
        )


class _Progress(TrainerCallback):  # type: ignore[misc]
    """A callback that reports every entry of the log, and evaluates at the last step."""

    def __init__(self, on_log: OnLog) -> None:
        self._on_log = on_log

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step >= state.max_steps and args.eval_strategy != "no":
            control.should_evaluate = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any],
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero:
            self._on_log(state.global_step, state.max_steps, logs)
