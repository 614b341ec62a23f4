"""Extend a file of dialogues to a data set of generated replies under strategies drawn at random.

The folder of a run holds:

    run.json               everything that the replies depend on; a run with other settings is
                           refused
    replies/00007.jsonl    the batches of replies that are done
    train.jsonl, test.jsonl, validation.jsonl    the conversations; no dialogue is in two of them
    statistics.json, statistics.md               counts and mean lengths
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sra_fast import __version__
from sra_fast.chat.conversations import Conversation, write_conversations
from sra_fast.chat.conversion import read_dialogues
from sra_fast.chat.dialogues import Dialogue
from sra_fast.chat.templates import PromptTemplate
from sra_fast.chat.thoughts import Thoughts
from sra_fast.files.models import ModelSource
from sra_fast.files.provenance import file_sha256
from sra_fast.files.run_date import DATE, first_day
from sra_fast.files.run_folder import RunFolder
from sra_fast.names import TEST_SHARE, VALIDATION_SHARE
from sra_fast.tools.atomic import write_json, write_text

from ...data.dataset import split_by_conversation
from ..generation.generation_prompts import generation_prompts
from ..generation.replies import MissingRepliesError, Replier, Reply, complete
from ..generation.sampling import Sampling
from .counts import as_markdown, describe
from .cuts import Cutting, ExtensionError, cut

_logger = logging.getLogger(__name__)

PARTS = ("train", "test", "validation")
REPLIES = "replies"
STATISTICS = "statistics"


@dataclass(frozen=True)
class Extension:
    """The settings of an extension: which dialogues, how, and where the results go.

    Attributes:
        file: the file of dialogues, in one of the formats that ``convert`` tells apart.
        out: the folder of the run.
        template: the prompt template.
        strategies: the strategies to draw from, as a mapping of names to descriptions.
        cutting: which turns of which dialogues are written anew.
        sampling: how the tokens of replies are drawn.
        replier: what identifies the model, as values of JSON, for ``run.json``.
        test: the share of dialogues in the test part; the default is the paper's.
        validation: the share of dialogues in the validation part; the default is the paper's.
        thoughts: the tags around a thought before a reply, which is taken off, as
            :func:`sra_fast.encode` takes them.
        source: the model that replies, if it is loaded here: its chat template may write the date.
        part_of: the folder of the run that this extension is a stage of, whose date counts; None
            for one that stands alone.
    """

    file: Path
    out: Path
    template: PromptTemplate
    strategies: Mapping[str, str]
    cutting: Cutting
    sampling: Sampling
    replier: Mapping[str, Any]
    test: float = TEST_SHARE
    validation: float = VALIDATION_SHARE
    thoughts: Thoughts | None = None
    source: ModelSource | None = None
    part_of: Path | None = None

    def settings(self) -> dict[str, Any]:
        """Return everything that the replies depend on, as values of JSON."""
        return {
            "kind": "extend",
            "model": dict(self.replier),
            "template": asdict(self.template),
            "strategies": dict(self.strategies),
            "cutting": asdict(self.cutting),
            "sampling": asdict(self.sampling),
            "test": self.test,
            "validation": self.validation,
            "thoughts": self.thoughts,
            "version": __version__,
            DATE: first_day(self.part_of or self.out, self.source),
            "file": self.file.stem,  # ids begin with it, and random numbers come from ids
            "file_sha256": file_sha256(self.file),
        }


def extend(
    extension: Extension,
    replier: Callable[[], Replier],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Cut and split the dialogues, generate the replies that are missing, and write the files.

    Args:
        extension: what to extend, how, and where the results go.
        replier: returns what generates the replies; it is called once the folder is this run's.
        on_progress: called with the number of replies of each batch and the number of all.

    Returns:
        What ``statistics.json`` holds.

    Raises:
        ValueError: dialogues, settings and folder do not go together, or every reply is empty.
        MissingRepliesError: some prompts have no reply. The files are written without them, unless
            the run stopped early.
        OSError: a file cannot be read or written.
    """
    # Cut before the model is loaded: the dialogues may not allow it.
    return fill_cuts(extension, cut_and_split(extension), replier, on_progress)


def fill_cuts(
    extension: Extension,
    cuts: Cuts,
    replier: Callable[[], Replier],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Generate the missing replies of conversations that are cut already, and write the files.

    Args:
        cuts: the conversations of this extension, from :func:`cut_and_split`.

    The other arguments, the result and the errors are those of :func:`extend`.
    """
    given = () if extension.thoughts is None else (extension.thoughts,)
    prompts = generation_prompts(cuts.opened, extension.template, extension.strategies, given)
    folder = RunFolder(extension.out, extension.settings())
    with folder.opened():
        try:
            replies = complete(
                replier(),
                prompts,
                extension.out / REPLIES,
                on_progress=lambda done: on_progress(done, len(prompts)),
            )
        except MissingRepliesError as error:
            if not error.given_up and error.replies:
                _write(extension, cuts.parts, error.replies)
            raise
        described = _write(extension, cuts.parts, replies)
        folder.finish()
    return described


@dataclass(frozen=True)
class Cuts:
    """Conversations whose replies are still to be written.

    Attributes:
        opened: all conversations, in the order of the dialogues.
        parts: the same conversations by the part of the split that they belong to.
    """

    opened: list[Conversation]
    parts: dict[str, list[Conversation]]


def cut_and_split(extension: Extension) -> Cuts:
    """Cut the dialogues where replies will be written, and split them into parts.

    Args:
        extension: which dialogues to extend, and how.

    Raises:
        ValueError: the dialogues cannot be read, cut or split.
        OSError: the file cannot be read.
    """
    dialogues, notes = read_dialogues(extension.file)
    for note in notes:
        _logger.info("%s", note)
    opened = cut(dialogues, extension.strategies, extension.cutting)
    _log_uncut(extension, dialogues, opened)
    return Cuts(opened, _split(opened, extension))


def _log_uncut(
    extension: Extension, dialogues: Sequence[Dialogue], opened: Sequence[Conversation]
) -> None:
    wanted = min(len(dialogues), extension.cutting.dialogues or len(dialogues))
    without = wanted - len({conversation.dialogue for conversation in opened})
    if without:
        _logger.info(
            "%d of %d dialogues give no conversation: they are too short for a cut, no strategy "
            "was drawn for them, or they begin like another dialogue",
            without,
            wanted,
        )


def _write(
    extension: Extension,
    opened: Mapping[str, Sequence[Conversation]],
    replies: Mapping[str, Reply],
) -> dict[str, Any]:
    prompts = [conversation for part in opened.values() for conversation in part]
    parts = {
        name: [replace(c, response=replies[c.id].text) for c in part if _text(replies, c)]
        for name, part in opened.items()
    }
    whole = [conversation for part in parts.values() for conversation in part]
    if not whole:
        raise ExtensionError(
            f"all of the {len(replies)} replies are empty; check that the model is a chat model"
        )
    for name, part in parts.items():
        write_conversations(extension.out / f"{name}.jsonl", [c.record for c in part])
    described = describe(parts, list(extension.strategies))
    described["missing"] = len(prompts) - len(replies)
    described["empty"] = len(replies) - len(whole)
    described["cut_off"] = sum(not replies[c.id].finished for c in whole)
    most = extension.sampling.max_new_tokens
    for count, what in (
        (described["missing"], "prompts have no reply and are left out"),
        (described["empty"], "replies were empty and were left out"),
        (described["cut_off"], f"replies were cut off at {most} tokens"),
    ):
        if count:
            _logger.info("%d %s", count, what)
    write_json(extension.out / f"{STATISTICS}.json", described)
    write_text(extension.out / f"{STATISTICS}.md", as_markdown(described))
    return described


def _text(replies: Mapping[str, Reply], conversation: Conversation) -> str:
    """Return the text of a conversation's reply; empty if there is no reply."""
    reply = replies.get(conversation.id)
    return "" if reply is None else reply.text


def _split(opened: Sequence[Conversation], extension: Extension) -> dict[str, list[Conversation]]:
    """Split conversations into parts by dialogue; a part with a share above 0 gets at least one.

    Raises:
        ExtensionError: the shares leave nothing to train on, or there are too few dialogues.
    """
    shares = {name: getattr(extension, name) for name in ("test", "validation")}
    if not (all(share >= 0.0 for share in shares.values()) and sum(shares.values()) < 1.0):
        raise ExtensionError(
            "test and validation must be at least 0 and together below 1, found "
            f"{extension.test} and {extension.validation}",
            "test",
            "validation",
        )
    needed = 1 + sum(share > 0.0 for share in shares.values())
    dialogues = len({conversation.dialogue for conversation in opened})
    if dialogues < needed:
        raise ExtensionError(
            f"{extension.file.name}: {dialogues} of the dialogues can be cut, and a split into "
            f"{needed} parts needs {needed}; give more dialogues, or 0 for test or validation",
            "test",
            "validation",
        )
    parts: dict[str, list[Conversation]] = {"train": list(opened)}
    seed = extension.cutting.seed
    left = 1.0
    for name, share in shares.items():
        parts[name] = []
        if share:
            parts["train"], parts[name] = split_by_conversation(parts["train"], share / left, seed)
        left -= share
    return parts
