"""Turn a conversation into the messages of a prompt, in which the strategy's place is known.

There are the seven templates of arXiv 2402.10453, in this project's own words, and a user's own. A
prompt has a system message with the instruction; in it the strategy's name stands in double quotes
exactly once, and the range of those characters is kept, so that nobody has to search for it.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NoReturn

from sra_fast.chat.conversations import Conversation, ConversationError, Message
from sra_fast.chat.strategies import DEFAULT_STRATEGIES, StrategyError, lookup
from sra_fast.chat.thoughts import Thoughts, reply_start
from sra_fast.names import Turns
from sra_fast.tools.strict_json import clean_text, decode_utf8, parse_json
from sra_fast.tools.suggestions import did_you_mean

_FIELDS = ("situation", "strategy", "description")
_PLACEHOLDER = re.compile(r"\{(" + "|".join(_FIELDS) + r")\}")
_ANY_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_SPEAKERS = {"user": "User", "assistant": "Assistant"}

_INSTRUCTION = """\
You are talking with a person who is looking for emotional support.
What brings the person here: {situation}
Answer with the "{strategy}" strategy in every message. {description}
Write one short, natural reply at a time, stay with this strategy until the end, and never \
mention it."""


class PromptTemplateError(ValueError):
    """Raised when a prompt template is unknown or cannot be used.

    The message says what is wrong, and the way out.
    """


@dataclass(frozen=True)
class PromptTemplate:
    """How a conversation becomes a prompt: the instruction, and where older messages go.

    Attributes:
        name: what results call the template.
        instruction: text with ``"{strategy}"``, in double quotes, exactly once, and if wanted
            ``{description}`` and ``{situation}``; a line with ``{situation}`` is left out for a
            conversation without one. Other braces stay as they are.
        keep_turns: how many of the last messages before a reply stay messages of their own; None
            for all.
        history: whether the older messages stand, as a text, before ("first") or after ("last")
            the instruction; None exactly if ``keep_turns`` is None.
        history_heading: the line above that text.

    Raises:
        PromptTemplateError: the fields do not fit together.
    """

    name: str
    instruction: str
    keep_turns: int | None = None
    history: Literal["first", "last"] | None = None
    history_heading: str = "The conversation up to here:"

    def __post_init__(self) -> None:
        self._check_instruction()
        keep = self.keep_turns
        if keep is not None and (not isinstance(keep, int) or isinstance(keep, bool) or keep < 1):
            self._fail("keep_turns", f"must be a whole number from 1 on, found {keep!r}")
        if self.history not in (None, "first", "last"):
            self._fail("history", f"must be 'first' or 'last', found {self.history!r}")
        if (keep is None) != (self.history is None):
            self._fail(
                "history",
                "and 'keep_turns' come together: the messages that are no longer chat turns "
                "become the history. Give both or neither",
            )

    def _check_instruction(self) -> None:
        for name in _ANY_PLACEHOLDER.findall(self.instruction):
            if name not in _FIELDS:
                self._fail(
                    "instruction",
                    f"has an unknown placeholder {'{' + name + '}'!r}{did_you_mean(name, _FIELDS)} "
                    "(known: {situation}, {strategy}, {description})",
                )
        if self.instruction.count('"{strategy}"') != 1 or self.instruction.count("{strategy}") != 1:
            self._fail(
                "instruction",
                'must hold "{strategy}", in straight double quotes, exactly once: this is where '
                "attention is measured",
            )
        for line in self.instruction.split("\n"):
            if "{situation}" in line and ("{strategy}" in line or "{description}" in line):
                self._fail(
                    "instruction",
                    "has {situation} on the same line as the strategy; put it on a line of its "
                    "own, because that line is left out for a conversation without a situation",
                )

    def _fail(self, field: str, problem: str) -> NoReturn:
        raise PromptTemplateError(f"template {self.name!r}: field {field!r} {problem}")


@dataclass(frozen=True)
class PromptMessage:
    """A message of a prompt, with the place of the strategy's name in it.

    Attributes:
        role: "system", "user" or "assistant".
        content: the text.
        strategy: range of characters of the quoted strategy name, quotes included; None in all
            messages but the one with the instruction.
        turn: for a reply that is scored, its number among the conversation's assistant messages,
            from 1; None for everything else.
    """

    role: Literal["system", "user", "assistant"]
    content: str
    strategy: tuple[int, int] | None = None
    turn: int | None = None


@dataclass(frozen=True)
class Prompt:
    """The messages that a model reads in one sequence, and which replies in them are scored.

    Attributes:
        messages: the system message, then user and assistant messages.
        turns: numbers of the scored replies among the conversation's assistant messages, from 1.
        conversation: the conversation that the prompt was made from, held against the one strategy
            that the prompt names.
    """

    messages: tuple[PromptMessage, ...]
    turns: tuple[int, ...]
    conversation: Conversation


def _paper_templates() -> dict[str, PromptTemplate]:
    orders: tuple[tuple[str, Literal["first", "last"]], ...] = (("hf", "first"), ("hl", "last"))
    templates = [PromptTemplate("standard", _INSTRUCTION)]
    templates += [
        PromptTemplate(f"c{keep}_{suffix}", _INSTRUCTION, keep_turns=keep, history=history)
        for suffix, history in orders
        for keep in (1, 3, 5)
    ]
    return {template.name: template for template in templates}


TEMPLATES: Mapping[str, PromptTemplate] = MappingProxyType(_paper_templates())
"""The paper's seven templates by name: standard, c1_hf, c3_hf, c5_hf, c1_hl, c3_hl, c5_hl."""


def get_template(template: str | PromptTemplate) -> PromptTemplate:
    """Return one of the seven templates by name, or a given template itself.

    Raises:
        PromptTemplateError: there is no template of that name; the nearest is suggested.
    """
    if isinstance(template, PromptTemplate):
        return template
    if template in TEMPLATES:
        return TEMPLATES[template]
    raise PromptTemplateError(
        f"template {template!r} is not one of {', '.join(TEMPLATES)}"
        f"{did_you_mean(template, TEMPLATES)}"
    )


def read_template(path: str | os.PathLike[str]) -> PromptTemplate:
    """Read a user's own template from a JSON file with the fields of ``PromptTemplate``.

    The file holds one object. ``name`` and ``instruction`` are needed; ``keep_turns`` and
    ``history`` come together.

    Raises:
        PromptTemplateError: the file is not in that form, or has the name of one of the seven.
        OSError: the file cannot be read.
    """
    file = Path(path)
    try:
        text = decode_utf8(file.read_bytes(), file.name, raises=PromptTemplateError)
        return _template_from(parse_json(text, file.name, raises=PromptTemplateError))
    except PromptTemplateError as error:
        place = "" if str(error).startswith(file.name) else f"{file.name}: "
        raise PromptTemplateError(f"{place}{error}") from error


def _template_from(value: object) -> PromptTemplate:
    known = [field.name for field in fields(PromptTemplate)]
    if not isinstance(value, dict):
        raise PromptTemplateError(f"expected one object, found {type(value).__name__}")
    for key in value:
        if key not in known:
            raise PromptTemplateError(
                f"unknown field {key!r}{did_you_mean(key, known)} (known: {', '.join(known)})"
            )
    for key in ("name", "instruction"):
        if key not in value:
            raise PromptTemplateError(f"field {key!r} is missing")
    texts = {
        key: clean_text(value[key], f"field {key!r}", raises=PromptTemplateError)
        for key in ("name", "instruction", "history_heading")
        if key in value
    }
    if texts["name"] in TEMPLATES:
        raise PromptTemplateError(
            f"field 'name' is {texts['name']!r}, one of the seven that come with the library; "
            "choose another, so that results can be told apart"
        )
    return PromptTemplate(**{**value, **texts})


def render_prompts(
    conversation: Conversation,
    template: PromptTemplate,
    strategies: Mapping[str, str] | None = None,
    *,
    turns: Turns = "all",
    thoughts: Sequence[Thoughts] = (),
) -> list[Prompt]:
    """Turn a conversation into the prompts under which its replies are scored.

    With a template that keeps all turns there is one prompt with all scored replies in it;
    otherwise the prompt changes at every turn, and each scored reply has a prompt of its own. Where
    replies carry strategies of their own, those that follow each other under one strategy share a
    prompt, whose instruction names that strategy; the replies before them are context. A
    reply is scored if it follows a user message; if the conversation has a ``response``, that is
    the only one. User messages after the last scored reply are left out: nothing before them can
    see them.

    Args:
        conversation: the conversation.
        template: how to write it down.
        strategies: mapping of strategy names to descriptions; the 23 of the library if None.
        turns: "all" to score every reply, "last" to score the last one only.
        thoughts: pairs of tags around a thought before a reply. Older replies that become history
            stand there without it, as the person read them.

    Raises:
        ConversationError: the strategy of a scored reply is not among ``strategies``.
        ValueError: ``turns`` is neither "all" nor "last".
    """
    if turns not in ("all", "last"):
        raise ValueError(f"turns must be 'all' or 'last', found {turns!r}")
    known = DEFAULT_STRATEGIES if strategies is None else strategies
    messages = list(conversation.messages)
    if conversation.response is not None:
        messages.append(Message("assistant", conversation.response))
    scored = conversation.scored if turns == "all" else conversation.scored[-1:]
    prompts: list[Prompt] = []
    # The instruction names one strategy, so replies that follow another need a prompt of their own.
    for strategy, replies in itertools.groupby(scored, key=lambda reply: reply[2]):
        try:
            description = lookup(strategy, known)
        except StrategyError as error:
            raise ConversationError(f"{conversation.label}: {error}", *error.arguments) from error
        held = conversation.under(strategy)
        places = [(position, turn) for position, turn, _ in replies]
        groups = [places] if template.keep_turns is None else [[place] for place in places]
        prompts += [
            _render(held, template, description, messages, dict(group), thoughts)
            for group in groups
        ]
    return prompts


def _render(
    conversation: Conversation,
    template: PromptTemplate,
    description: str,
    messages: Sequence[Message],
    turn_at: Mapping[int, int],
    thoughts: Sequence[Thoughts],
) -> Prompt:
    last = max(turn_at)
    first = 0 if template.keep_turns is None else max(0, last - template.keep_turns)
    system = _system_message(conversation, template, description, messages[:first], thoughts)
    chat = [
        PromptMessage(message.role, message.content, turn=turn_at.get(position))
        for position, message in enumerate(messages[: last + 1])
        if position >= first
    ]
    return Prompt((system, *chat), tuple(turn_at.values()), conversation)


def _system_message(
    conversation: Conversation,
    template: PromptTemplate,
    description: str,
    older: Sequence[Message],
    thoughts: Sequence[Thoughts],
) -> PromptMessage:
    instruction, start = _fill(template.instruction, conversation, description)
    text = instruction
    if older:
        lines = [f"{_SPEAKERS[message.role]}: {_said(message, thoughts)}" for message in older]
        history = "\n".join([template.history_heading, *lines])
        if template.history == "first":
            text = f"{history}\n\n{instruction}"
            start += len(text) - len(instruction)
        else:
            text = f"{instruction}\n\n{history}"
    # The span begins at the opening quote and ends after the closing one.
    span = (start - 1, start + len(conversation.strategy) + 1)
    return PromptMessage("system", text, strategy=span)


def _said(message: Message, thoughts: Sequence[Thoughts]) -> str:
    """Return the text of a message that the other person reads."""
    start = reply_start(message.content, thoughts) if message.role == "assistant" else 0
    return message.content[start:]


def _fill(instruction: str, conversation: Conversation, description: str) -> tuple[str, int]:
    """Fill in the instruction, and return it with the character where the strategy's name begins.

    This is one pass over the template alone: what is put in is data, and a "{strategy}" inside
    somebody's situation stays as it is.
    """
    if conversation.situation is None:
        lines = instruction.split("\n")
        instruction = "\n".join(line for line in lines if "{situation}" not in line)
    values = {
        "situation": conversation.situation or "",
        "strategy": conversation.strategy,
        "description": description,
    }
    text, start = "", -1
    for position, piece in enumerate(_PLACEHOLDER.split(instruction)):
        is_placeholder = position % 2 == 1
        if is_placeholder and piece == "strategy":
            start = len(text)
        text += values[piece] if is_placeholder else piece
    # Many chat templates trim texts; a line left out above may have left a blank one at the edge.
    return text.strip(), start - (len(text) - len(text.lstrip()))
