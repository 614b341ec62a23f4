"""Run a steering study in one folder; a run that was stopped continues.

The folder holds:

    run.json         everything that the log probabilities depend on; a study with others is refused
    steered.jsonl    one line for each dialogue and setting that is done
    report.md, results.json, *.png    the results: numbers and names of strategies, no texts

How many dialogues a call takes, and which parts of the study, is no part of ``run.json``: later
calls add to what earlier ones computed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sra_fast.chat.conversion import read_dialogues
from sra_fast.chat.thoughts import Thoughts
from sra_fast.files.appended_lines import append_line, drop_cut_line
from sra_fast.files.models import ModelSource, choose_device
from sra_fast.files.provenance import file_sha256
from sra_fast.files.run_date import DATE, first_day, start_of
from sra_fast.files.run_folder import RunFolder
from sra_fast.measure.served import serve
from sra_fast.names import Device, DType

from .reply_log_probabilities import float32_head, reply_log_probabilities
from .study_dialogues import (
    CONTROL,
    StudyDialogue,
    StudyError,
    studied_strategies,
    study_dialogues,
    study_rows,
)
from .study_records import StudyRecord, read_records
from .study_report import write_study_report
from .study_settings import (
    BIASES,
    GROUP_BIASES,
    GROUP_DIALOGUES,
    PARTS,
    SHARES,
    StudyPart,
    StudySetting,
    study_settings,
)

STEERED_LINES = "steered.jsonl"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SteerStudy:
    """The settings of a steering study.

    Attributes:
        file: the file of dialogues, in one of the formats that ``convert`` tells apart.
        out: the folder of the study.
        model: the model.
        strategies: the strategies that the file may name, as a mapping of names to descriptions.
        dtype, device: how the model is loaded.
        thoughts: the tags around a thought, as :func:`sra_fast.mark` takes them.
        seed: seed of the order of the dialogues.
        dialogues: the most dialogues of this call; None for all.
        parts: the parts of the study that this call computes.
        batch_tokens: the most tokens of one forward.
        biases, shares: the strengths.
        group_biases: the strengths at which groups of layers and heads are steered.
        group_dialogues: on how many dialogues they are.
    """

    file: Path
    out: Path
    model: ModelSource
    strategies: Mapping[str, str]
    dtype: DType = "auto"
    device: Device = "auto"
    thoughts: Thoughts | None = None
    seed: int = 42
    dialogues: int | None = None
    parts: tuple[StudyPart, ...] = PARTS
    batch_tokens: int = 4096
    biases: tuple[float, ...] = BIASES
    shares: tuple[float, ...] = SHARES
    group_biases: tuple[float, ...] = GROUP_BIASES
    group_dialogues: int = GROUP_DIALOGUES

    def settings(self, day: str | None) -> dict[str, Any]:
        """Return everything that a line of the study depends on, as values of JSON."""
        return {
            "kind": "steer-study",
            "file": file_sha256(self.file),
            "model": self.model.as_run(self.dtype, choose_device(self.device)),
            "strategies": dict(self.strategies),
            "thoughts": None if self.thoughts is None else list(self.thoughts),
            "seed": self.seed,
            DATE: day,
        }


def run_study(
    study: SteerStudy, on_progress: Callable[[str, int, int], None] = lambda what, done, total: None
) -> dict[str, Any]:
    """Compute what is missing of a study, and write its report from all that is there.

    Args:
        study: the settings.
        on_progress: called with what is done, how many pairs of a dialogue and a setting are done
            since the last call, and how many there are.

    Returns:
        The content of ``results.json``.

    Raises:
        StudyError: the file or the model cannot be studied.
        RunFolderError: the folder holds something else, or another process works in it.
        ConversationError, StrategyError, OSError: the file cannot be read.
    """
    dialogues, _ = read_dialogues(study.file)
    strategies = studied_strategies(dialogues, study.strategies)
    chosen = study_dialogues(dialogues, list(strategies), study.seed)
    day = first_day(study.out, study.model)
    folder = RunFolder(study.out, study.settings(day))
    with folder.opened():
        lines = study.out / STEERED_LINES
        if lines.exists():
            drop_cut_line(lines)
        records = read_records(lines, len(strategies))
        _compute(study, chosen[: study.dialogues], strategies, records, lines, day, on_progress)
        results = write_study_report(
            study.out, list(records.values()), list(strategies), model=study.model.name
        )
        folder.finish()
    return results


def _compute(
    study: SteerStudy,
    chosen: Sequence[StudyDialogue],
    strategies: Mapping[str, str],
    records: dict[tuple[str, str], StudyRecord],
    lines: Path,
    day: str | None,
    on_progress: Callable[[str, int, int], None],
) -> None:
    """Compute the log probabilities that are missing, dialogue by dialogue, and keep each."""
    tokenizer = study.model.tokenizer()
    model = study.model.load(study.dtype, choose_device(study.device))
    served = serve(model)
    layers, limit = served.attention_layers, served.context_length
    heads = getattr(served.config, "num_attention_heads", None)
    if not layers or not heads:
        raise StudyError(
            f"{study.model.name}: which layers and heads attend is unknown, so it cannot be "
            "steered; take another model",
            "model",
        )
    settings = study_settings(
        layers,
        heads,
        study.parts,
        biases=study.biases,
        shares=study.shares,
        group_biases=study.group_biases,
    )
    wanted = [
        [one for one in settings if one.part != "groups" or at < study.group_dialogues]
        for at in range(len(chosen))
    ]
    total = sum(map(len, wanted))
    uncontrolled = 0
    with float32_head(model):
        for dialogue, here in zip(chosen, wanted, strict=True):
            missing = [one for one in here if (dialogue.id, one.name) not in records]
            on_progress("dialogues and settings", len(here) - len(missing), total)
            if not missing:
                continue
            rows = study_rows(
                tokenizer,
                dialogue,
                strategies,
                thoughts=study.thoughts,
                now=None if day is None else start_of(day),
            )
            longest = max(len(row["input_ids"]) for row in rows)
            if limit is not None and longest > limit:
                raise StudyError(
                    f"dialogue {dialogue.id!r}: {longest} tokens, and the model "
                    f"{study.model.name!r} reaches to {limit}; shorten the dialogue or take a "
                    "model with a longer context"
                )
            if CONTROL not in rows[0]["span_masks"]:
                left = [one for one in missing if one.span != CONTROL]
                uncontrolled += len(left) < len(missing)
                on_progress("dialogues and settings", len(missing) - len(left), total)
                missing = left
            for setting in missing:
                values = reply_log_probabilities(model, rows, setting.arguments, study.batch_tokens)
                record = _record(dialogue, setting, rows, values)
                append_line(lines, asdict(record))
                records[dialogue.id, setting.name] = record
                on_progress("dialogues and settings", 1, total)
    if uncontrolled:
        _logger.info(
            "%d dialogues have no control: their situation has fewer tokens than a strategy's name",
            uncontrolled,
        )


def _record(
    dialogue: StudyDialogue,
    setting: StudySetting,
    rows: Sequence[Mapping[str, Any]],
    values: list[list[float]],
) -> StudyRecord:
    replies = range(1, len(dialogue.own) + 1)
    return StudyRecord(
        dialogue=dialogue.id,
        group=dialogue.group,
        setting=setting.name,
        part=setting.part,
        span=setting.span,
        bias=setting.bias,
        share=setting.share,
        knock_out=setting.knock_out,
        turns=list(dialogue.own),
        own=list(dialogue.own.values()),
        tokens=[int((rows[0]["response_mask"] == number).sum()) for number in replies],
        log_p=values,
    )
