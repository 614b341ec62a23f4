"""``extend``: from a file of dialogues to a data set of replies under drawn strategies.

What lies in the folder of a run:

    run.json               everything the replies depend on; another run's is refused
    replies/00007.jsonl    the batches done so far
    train.jsonl, test.jsonl, validation.jsonl    conversations, no dialogue in two of them
    statistics.json, statistics.md
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sra_fast import __version__
from sra_fast.conversations import Conversation, write_conversations
from sra_fast.esconv import read_dialogues
from sra_fast.runs import RunFolder, write_text
from sra_fast.templates import PromptTemplate
from sra_fast.training.data import split_by_conversation
from sra_fast.training.extension.cuts import Cutting, ExtensionError, cut
from sra_fast.training.extension.statistics import as_markdown, describe
from sra_fast.training.generation.prompts import generation_prompts
from sra_fast.training.generation.run import Replier, Reply, complete
from sra_fast.training.generation.sampling import Sampling

PARTS = ("train", "test", "validation")
REPLIES = "replies"
STATISTICS = "statistics"


@dataclass(frozen=True)
class Extension:
    """What to extend, and how.

    Attributes:
        file: of dialogues, in one of ESConv's forms.
        out: the run's folder.
        template: of the prompts.
        strategies: name to description.
        cutting, sampling: which turns, and how they are drawn.
        test, validation: shares of the dialogues; the defaults are the paper's.
        replier: what tells the model from others, for ``run.json``.
    """

    file: Path
    out: Path
    template: PromptTemplate
    strategies: Mapping[str, str]
    cutting: Cutting
    sampling: Sampling
    replier: Mapping[str, Any]
    test: float = 100 / 1297
    validation: float = 50 / 1297
    say: Callable[[str], None] = field(default=lambda text: None)

    def settings(self) -> dict[str, Any]:
        """Everything the replies depend on."""
        return {
            "kind": "extend",
            "model": dict(self.replier),
            "template": asdict(self.template),
            "strategies": dict(self.strategies),
            "cutting": asdict(self.cutting),
            "sampling": asdict(self.sampling),
            "test": self.test,
            "validation": self.validation,
            "version": __version__,
            "file_sha256": hashlib.sha256(self.file.read_bytes()).hexdigest(),
        }


def extend(
    extension: Extension,
    replier: Callable[[], Replier],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Generates what is missing, splits, and writes.

    Args:
        extension: what and how.
        replier: makes the one who replies; not called before the folder is this run's.
        on_progress: called with the replies that a batch brought and the number of all.

    Returns:
        What ``statistics.json`` holds.

    Raises:
        ValueError: dialogues, settings and folder do not go together, or nothing was generated.
        OSError: a file cannot be read or written.
    """
    for name in ("test", "validation"):
        if not 0.0 <= getattr(extension, name) < 1.0:
            raise ExtensionError(f"{name} must be at least 0 and below 1")
    dialogues, notes = read_dialogues(extension.file)
    for note in notes:
        extension.say(note)
    opened = cut(dialogues, extension.strategies, extension.cutting)
    prompts = generation_prompts(opened, extension.template, extension.strategies)
    folder = RunFolder(extension.out, extension.settings())
    with folder.opened():
        replies = complete(
            replier(),
            prompts,
            extension.out / REPLIES,
            on_progress=lambda done: on_progress(done, len(prompts)),
        )
        return _write(extension, opened, replies)


def _write(
    extension: Extension, opened: Sequence[Conversation], replies: Mapping[str, Reply]
) -> dict[str, Any]:
    whole = [
        replace(conversation, response=replies[conversation.id].text)
        for conversation in opened
        if replies[conversation.id].text
    ]
    if not whole:
        raise ExtensionError(f"all of {len(opened)} replies are empty; is this a chat model?")
    parts = _split(whole, extension)
    for name, part in parts.items():
        write_conversations(extension.out / f"{name}.jsonl", [_record(c) for c in part])
    described = describe(parts, list(extension.strategies))
    described["empty"] = len(opened) - len(whole)
    described["cut_off"] = sum(not replies[c.id].finished for c in whole)
    if described["empty"]:
        extension.say(f"{described['empty']} replies were empty and were left out")
    if described["cut_off"]:
        most = extension.sampling.max_new_tokens
        extension.say(f"{described['cut_off']} replies were cut off at {most} tokens")
    write_text(
        extension.out / f"{STATISTICS}.json", json.dumps(described, indent=2, ensure_ascii=False)
    )
    write_text(extension.out / f"{STATISTICS}.md", as_markdown(described))
    return described


def _split(whole: Sequence[Conversation], extension: Extension) -> dict[str, list[Conversation]]:
    """By dialogue; a part that is asked for has one at least."""
    parts: dict[str, list[Conversation]] = {"train": list(whole)}
    seed = extension.cutting.seed
    left = 1.0
    for name in ("test", "validation"):
        share = getattr(extension, name)
        parts[name] = []
        if share:
            parts["train"], parts[name] = split_by_conversation(parts["train"], share / left, seed)
        left -= share
    return parts


def _record(conversation: Conversation) -> dict[str, Any]:
    """As a conversation file has it."""
    record: dict[str, Any] = {"id": conversation.id}
    for name in ("dialogue", "language", "situation"):
        value = getattr(conversation, name)
        if value is not None:
            record[name] = value
    record["messages"] = [{"role": m.role, "content": m.content} for m in conversation.messages]
    return {**record, "strategy": conversation.strategy, "response": conversation.response}
