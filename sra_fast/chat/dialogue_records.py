"""Turn dialogues, whatever file they are from, into conversation records.

What becomes of a dialogue is decided here, alike for all formats. Whatever does not become part of
a record is counted.
"""

from __future__ import annotations

from collections.abc import Iterator

from sra_fast.chat.change_tally import ChangeTally
from sra_fast.chat.dialogues import Dialogue, Turn


def records_of(
    dialogue: Dialogue, tally: ChangeTally, *, strategy: str | None = None, whole: bool = False
) -> Iterator[dict[str, object]]:
    """Yield the conversation records that a dialogue becomes.

    Without ``strategy`` every annotated supporter turn that follows a seeker turn becomes a record:
    the turns before it as ``messages``, the turn as ``response``, its annotation as ``strategy``.

    Args:
        dialogue: the dialogue.
        tally: where what is left out is counted.
        strategy: name of a strategy to hold all replies of the dialogue against, in one record.
        whole: whether the dialogue becomes one record, whose messages carry their strategies.
    """
    one_for_all = strategy or dialogue.strategy
    annotated = any(turn.strategies for turn in dialogue.turns)
    if strategy is not None or (dialogue.strategy is not None and not annotated):
        yield from _whole_record(dialogue, one_for_all, tally)
    elif whole:
        yield from _whole_record(dialogue, None, tally)
    else:
        yield from _turn_records(dialogue, tally)


def _turn_records(dialogue: Dialogue, tally: ChangeTally) -> Iterator[dict[str, object]]:
    """Yield one record for each annotated supporter turn that answers the seeker."""
    supporter_turns = 0
    for position, turn in enumerate(dialogue.turns):
        if turn.role == "user":
            continue
        supporter_turns += 1
        strategies = turn.strategies or _texts(dialogue.strategy)
        if position == 0:
            tally.count("opening")
        elif not strategies:
            tally.count("unannotated")
        else:
            tally.counts["several"] += len(set(strategies)) > 1
            yield {
                "id": f"{dialogue.id}-t{supporter_turns}",
                "dialogue": dialogue.same_as or dialogue.id,
                **_about(dialogue),
                **dialogue.context(position),
                "strategy": strategies[0],
                "response": turn.content,
                **({"meta": dict(dialogue.meta)} if dialogue.meta else {}),
            }


def _whole_record(
    dialogue: Dialogue, strategy: str | None, tally: ChangeTally
) -> Iterator[dict[str, object]]:
    """Yield the dialogue as one record, if the supporter answers the seeker in it at all."""
    tally.counts["opening"] += dialogue.turns[:1] != () and dialogue.turns[0].role == "assistant"
    replies = [turn for turn in dialogue.turns[1:] if turn.role == "assistant"]
    if not replies:
        tally.count("unanswered")
        return
    record = dialogue.context(len(dialogue.turns))
    if strategy is None:
        record["messages"] = [_annotated(t, dialogue.strategy) for t in dialogue.turns]
        named = [turn.strategies or _texts(dialogue.strategy) for turn in replies]
        tally.counts["unannotated"] += sum(not strategies for strategies in named)
        tally.counts["several"] += sum(len(set(strategies)) > 1 for strategies in named)
        if not any(named):
            return
    yield {
        "id": dialogue.id,
        **({} if dialogue.same_as is None else {"dialogue": dialogue.same_as}),
        **_about(dialogue),
        **record,
        **({} if strategy is None else {"strategy": strategy}),
        **({"meta": dict(dialogue.meta)} if dialogue.meta else {}),
    }


def _about(dialogue: Dialogue) -> dict[str, object]:
    return {} if dialogue.language is None else {"language": dialogue.language}


def _annotated(turn: Turn, default: str | None) -> dict[str, object]:
    message: dict[str, object] = {"role": turn.role, "content": turn.content}
    strategies = turn.strategies or _texts(default)
    if turn.role == "assistant" and strategies:
        message["strategy"] = strategies[0]
    return message


def _texts(text: str | None) -> tuple[str, ...]:
    return () if text is None else (text,)
