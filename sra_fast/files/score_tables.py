"""Write what a run says of each response as the same table in JSON by lines and in Parquet."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sra_fast.chat.conversations import Conversation
from sra_fast.chat.encoding import EncodedPrompt
from sra_fast.result import SRAResult
from sra_fast.tools.atomic import replaced_atomically, write_json_lines
from sra_fast.tools.missing_extra import needed

ScoreRow = dict[str, Any]
"""One line of the tables: the values of one response by column."""

SCORES_JSONL = "scores.jsonl"
SCORES_PARQUET = "scores.parquet"
META = "meta/"
"""The beginning of the names of the columns that hold a conversation's metadata."""


def score_rows(
    result: SRAResult,
    prompts: Sequence[EncodedPrompt],
    conversations: Sequence[Conversation],
    template: str,
    definition: str,
) -> list[ScoreRow]:
    """Return what the tables say of each response, in the order of the conversations.

    Args:
        result: the scores of all responses of the prompts, in order.
        prompts: the encoded prompts of all conversations, in order.
        conversations: the conversations.
        template: the name of the prompt template.
        definition: the definition that the column ``sra`` gives.
    """
    scores = {name: _shortest(result.score(name).tolist()) for name in result.by_layer}
    places = [(prompt, k) for prompt in prompts for k in range(1, len(prompt.turns) + 1)]
    names = list(dict.fromkeys(name for one in conversations for name in one.meta))
    rows: list[ScoreRow] = []
    for index, (prompt, k) in enumerate(places):
        conversation = conversations[prompt.conversation]
        chosen = scores[definition][index]
        row: ScoreRow = {
            "conversation_id": conversation.id,
            "dialogue": conversation.dialogue or conversation.id,
            "turn": prompt.turns[k - 1],
            "layout": prompt.layouts[k - 1],
            "strategy": conversation.strategy_of(prompt.turns[k - 1]),
            "template": template,
            "prompt_tokens": int((prompt.response_mask == k).nonzero()[0]),
            "response_tokens": int(result.response_tokens[index]),
            "strategy_tokens": int(result.span_tokens[index, 0]),
            **{name: values[index] for name, values in scores.items()},
            "definition": definition,
            "sra": chosen,
            "log_sra": math.log(chosen) if chosen is not None and chosen > 0 else None,
            **{f"{META}{name}": conversation.meta.get(name) for name in names},
        }
        rows.append(row)
    return rows


def write_tables(folder: Path, rows: Sequence[ScoreRow]) -> None:
    """Write both tables into a folder, each whole or not at all.

    Args:
        folder: the folder of the run.
        rows: what :func:`score_rows` returned.

    Raises:
        MissingExtraError: pandas is not installed.
        OSError: a file cannot be written.
    """
    write_json_lines(folder / SCORES_JSONL, rows)
    _write_parquet(folder / SCORES_PARQUET, rows)


def _shortest(values: Sequence[float]) -> list[float | None]:
    """Write float32 values as the shortest decimals that say the same, and NaN as None."""
    import numpy

    return [None if math.isnan(v) else float(str(numpy.float32(v))) for v in values]


def _write_parquet(path: Path, rows: Sequence[ScoreRow]) -> None:
    with needed("cli", "pandas"):
        import pandas

    table = pandas.DataFrame(rows)
    for name in table.columns:
        if str(name).startswith(META):
            values = _of_one_type([row[name] for row in rows])
            table[name] = pandas.Series(values, dtype=object)
    with replaced_atomically(path) as temporary:
        table.to_parquet(temporary, index=False, engine="pyarrow")


def _of_one_type(values: Sequence[object]) -> list[object]:
    """Return values that a column of a table can hold: of one type, or else written as JSON."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {str} or kinds <= {bool} or kinds <= {int}:
        return list(values)
    if kinds <= {int, float}:
        return [None if value is None else float(value) for value in values]  # type: ignore[arg-type]
    return [
        None if value is None else json.dumps(value, ensure_ascii=False, sort_keys=True)
        for value in values
    ]
