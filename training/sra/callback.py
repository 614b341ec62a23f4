"""Log SRA in any ``transformers.Trainer`` with ``SRACallback``, without a second forward pass.

Two facts of the Trainer shape this file. Callbacks see neither batches nor outputs, so hooks on the
model read the masks of each call and the masses it brings back (``sra_fast.measure.watching``). And
``Trainer.log`` copies the logs into its history before it asks the callbacks, reporters first, so
this callback moves to the front of them and writes into both.
"""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

from torch import nn

from sra_fast.tools.missing_extra import needed

with needed("train", "accelerate"):
    from transformers import (
        Trainer,
        TrainerCallback,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )
    from transformers.trainer_callback import CallbackHandler

from sra_fast.backends import check_backend
from sra_fast.definitions import DEFINITIONS, check_definition
from sra_fast.measure.compat import calling_handler
from sra_fast.measure.served import serve
from sra_fast.measure.watching import Watch, unwrapped, watching
from sra_fast.tools.sra_warning import SRAWarning

from .history import History
from .listening import TrainingListener
from .means import ResponseMeans

HOW_MASKS_ARRIVE = (
    "each batch needs `strategy_mask` [B, T] bool (or `span_masks`) and `response_mask` [B, T], or "
    "`labels` that are -100 but at the response: sra_fast.training's collators make them, or add "
    "them in your own data_collator; TrainingArguments(remove_unused_columns=False) lets them "
    "through, which is set for callbacks given as Trainer(callbacks=[SRACallback()]) or by "
    "SRACallback().attach(trainer), but is too late for trainer.add_callback"
)


class SRACallback(TrainerCallback):  # type: ignore[misc]
    """A callback that logs the Strategy Relevant Attention of training and evaluation batches.

    ::

        trainer = Trainer(model, args, ..., callbacks=[SRACallback()])

    Each log of a training step gains ``sra``, ``log_sra`` and, if batches name their strategies,
    ``sra/<strategy>``: means over every response since the last log, of all processes and
    accumulated batches. Evaluations gain ``eval_sra`` and so on over their data set (with the
    prefix of that evaluation), so that ``metric_for_best_model="eval_sra"`` and early stopping
    work. Reporters, console, ``log_history`` and the returned metrics all have them.

    Batches hold ``strategy_mask [B, T]`` bool (or ``span_masks``, whose first is logged),
    ``response_mask [B, T]`` (or ``labels`` that are -100 but at the response) and, if wanted,
    ``strategies``, a list of str, one per response. The model gets none of them. Its calls with
    masks attend by "sra_fast", exactly, and what it returns is its own; afterwards its attention is
    as it was found. Hooks stay on it as long as the Trainer lives, or until :meth:`close`, because
    nothing announces an ``evaluate()``; calls without masks pass through them untouched.

    Args:
        definition: the definition of SRA to log, built-in or registered
            (:func:`sra_fast.register_definition`).
        history: whether to write ``sra_history.jsonl`` into the output folder (:mod:`.history`).
        backend: backend of the op, built-in or registered.

    Raises (from the Trainer):
        UnservedModelError: the model does not take the attention interface.
        ValueError: the masks do not arrive or do not fit, or ``nn.DataParallel`` is in use.
        FloatingPointError: SRA is NaN.
    """

    def __init__(
        self,
        definition: str = "paper",
        *,
        history: bool = True,
        backend: str = "auto",
    ) -> None:
        self.definition = check_definition(definition)
        self.backend = check_backend(backend)
        self._writes_history = history
        self._history: History | None = None
        self._listener = TrainingListener(self.definition)
        self._watch: Watch | None = None
        self._watched: nn.Module | None = None
        self._hooks = ExitStack()
        # The hooks know the listener and not the callback, which therefore can go before the model.
        weakref.finalize(self, self._hooks.close).atexit = False
        self._evaluated: dict[str, float] = {}

    def attach(self, trainer: Trainer) -> SRACallback:
        """Add the callback to an existing trainer, as ``Trainer(callbacks=[...])`` would have."""
        handler = trainer.callback_handler
        if self not in handler.callbacks:
            trainer.add_callback(self)
        trainer.args.remove_unused_columns = False
        self._go_first(handler)
        self._listen_to(trainer.model)
        return self

    def close(self) -> None:
        """Take the hooks off the model again."""
        self._hooks.close()
        self._watched = self._watch = None

    # --- events ---

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._go_first(_handler())
        args.remove_unused_columns = False
        self._listen_to(kwargs["model"])

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.n_gpu > 1:
            raise ValueError(
                "SRACallback does not follow nn.DataParallel, which copies the model in each step; "
                "start one process per GPU (accelerate launch, torchrun)"
            )
        self._go_first(_handler())
        self._listen_to(kwargs["model"])
        self._listener.begin()
        self._history = None
        if self._writes_history and state.is_world_process_zero:
            self._history = History(args.output_dir)
            self._history.begin(state.global_step)

    def on_substep_end(self, *event: Any, **kwargs: Any) -> None:
        self._after_backward()

    def on_pre_optimizer_step(self, *event: Any, **kwargs: Any) -> None:
        self._after_backward()
        if not self._listener.training_calls:
            raise ValueError(f"no masks arrived at the model in the first step; {HOW_MASKS_ARRIVE}")

    def on_prediction_step(self, *event: Any, **kwargs: Any) -> None:
        if self._watch is None:
            raise ValueError(
                "SRACallback is not on the model: it came after the Trainer was made, and nothing "
                "announces an evaluation; Trainer(callbacks=[SRACallback()]), or "
                "SRACallback().attach(trainer)"
            )
        self._listener.evaluation.read()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any],
        **kwargs: Any,
    ) -> None:
        training, evaluated = self._listener.training, _evaluation_prefix(logs)
        if evaluated == "train":  # the end of training; calls heard by now were no evaluation
            self._listener.evaluation.clear()
            return
        if training is not None and "loss" in logs:
            split, prefix, means = "train", "", training.collect()
        elif evaluated is not None:
            split, prefix, means = evaluated, f"{evaluated}_", self._listener.evaluation.collect()
        else:
            return
        if means is None:
            if split != "train":
                text = f"no masks arrived in the evaluation {split!r}"
                warnings.warn(text, SRAWarning, stacklevel=2)
            return
        _check(means, state.global_step, split, self.definition)
        values = means.logs(prefix)
        logs.update(values)
        if state.log_history and state.log_history[-1].get("step") == state.global_step:
            state.log_history[-1].update(values)
        if prefix:
            self._evaluated = values
        if self._history is not None:
            self._history.append(state.global_step, state.epoch, split, self.definition, means)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs: Any,
    ) -> None:
        metrics.update(self._evaluated)  # if a subclass's log() passed on a copy of the metrics
        self._evaluated = {}

    def on_predict(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs: Any,
    ) -> None:
        means, prefix = self._listener.evaluation.collect(), _evaluation_prefix(metrics)
        if means is not None and prefix is not None:
            _check(means, state.global_step, prefix, self.definition)
            metrics.update(means.logs(f"{prefix}_"))

    def on_train_end(self, *event: Any, **kwargs: Any) -> None:
        self._after_backward()
        self._listener.end()
        self._history = None

    # --- the steps that the events above call ---

    def _go_first(self, handler: CallbackHandler) -> None:
        """Move this callback before the reporters, without disturbing a loop over the callbacks."""
        if self in handler.callbacks:
            handler.callbacks.remove(self)
            handler.callbacks.insert(0, self)

    def _listen_to(self, model: nn.Module) -> None:
        inner = unwrapped(model)
        if inner is self._watched:
            return
        self.close()
        watch = watching(serve(inner), self._listener.hear, backend=self.backend)
        self._watch, self._watched = self._hooks.enter_context(watch), inner

    def _after_backward(self) -> None:
        if self._watch is not None:
            self._watch.release()
        if self._listener.training is not None:
            self._listener.training.read()


def _handler() -> CallbackHandler:
    """Find the handler whose loop over its callbacks is running, which events do not tell."""
    handler = calling_handler()
    if handler is None:
        raise RuntimeError("no Trainer calls SRACallback here; use SRACallback().attach(trainer)")
    return handler


def _evaluation_prefix(metrics: Iterable[str]) -> str | None:
    """Return the prefix of an evaluation's metrics: "eval" where they have "eval_runtime"."""
    found = [name.removesuffix("_runtime") for name in metrics if name.endswith("_runtime")]
    return found[0] if found else None


def _check(means: ResponseMeans, step: int, split: str, definition: str) -> None:
    if math.isfinite(means.sra):
        return
    if definition not in DEFINITIONS and bool(means.mass.isfinite().all()):
        raise FloatingPointError(
            f"SRA ({split}) is {means.sra} at step {step}, though the attention masses are finite: "
            f"the definition {definition!r} gives NaN or infinity for a response (log a definition "
            "that gives every response a score); what was saved before stays valid"
        )
    raise FloatingPointError(
        f"SRA ({split}) is {means.sra} at step {step}: the hidden states hold NaN or infinity "
        "(lower the learning rate; prefer bfloat16 to float16), or the definition leaves out "
        "the span's last token and a span has only one (take definition='paper'); what was "
        "saved before stays valid"
    )
