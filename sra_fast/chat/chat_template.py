"""Find out how a tokenizer's chat template writes conversations, and write them with it.

A chat template is a program that somebody else wrote. What it takes, and what it makes of it, is
not read from its source: it is asked with a few short conversations of marker characters.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from sra_fast.chat.template_date import has_date, with_date
from sra_fast.chat.thoughts import Thoughts, check_thoughts, thoughts_of_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Unicode's private use areas: no tokenizer, template or honest text gives these a meaning.
PRIVATE_USE = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))

_ROLES = ("system", "user", "assistant")


class EncodingError(ValueError):
    """Raised when a conversation cannot be turned into tokens.

    The message names the conversation, the text in question and the way out.
    """


@dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer's chat template, and what was found out about it.

    Attributes:
        tokenizer: the tokenizer that has the template.
        now: the date and time that a template with a date writes.
        control_tokens: the texts that the tokenizer reads as a control token even inside a message.
        in_parts: the roles whose messages the template wants as a list of parts,
            ``[{"type": "text", "text": ...}]``, and not as a text.
        takes_system: whether a system message is written in front of the conversation.
        thoughts: the pairs of tags around a thought at the beginning of an assistant message.
        ends_of_thoughts: the tags before which the template takes all of an assistant message for a
            thought, wherever they stand.
    """

    tokenizer: Any
    now: datetime
    control_tokens: tuple[str, ...] = ()
    in_parts: frozenset[str] = frozenset()
    takes_system: bool = True
    thoughts: tuple[Thoughts, ...] = ()
    ends_of_thoughts: tuple[str, ...] = ()

    def write(self, messages: Sequence[tuple[str, str]]) -> str:
        """Return the text of a conversation, given as ``(role, content)`` of each message.

        Whatever the template raises is passed on.
        """
        return self.write_messages([{"role": role, "content": text} for role, text in messages])

    def write_messages(
        self,
        messages: Sequence[Mapping[str, Any]],
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the text of messages as the template itself takes them.

        Whatever the template raises is passed on.

        Args:
            messages: mappings with ``role`` and ``content``, and whatever else the template reads.
            arguments: what else the template takes, such as ``tools``, or
                ``add_generation_prompt``, which is false unless given.
        """
        chat = [
            {**message, "content": [{"type": "text", "text": message["content"]}]}
            if message.get("role") in self.in_parts and isinstance(message.get("content"), str)
            else dict(message)
            for message in messages
        ]
        more: dict[str, Any] = {"add_generation_prompt": False, **(arguments or {})}
        template = source(self.tokenizer)
        if has_date(template):
            more["chat_template"] = with_date(template, self.now)
        return str(self.tokenizer.apply_chat_template(chat, tokenize=False, **more))


def read_chat_template(
    tokenizer: PreTrainedTokenizerBase,
    *,
    thoughts: Thoughts | None = None,
    now: datetime | None = None,
) -> ChatTemplate:
    """Find out how a tokenizer's chat template writes conversations.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        thoughts: the tags around a thought at the beginning of an assistant message; None for those
            that the template itself takes for them, if it does.
        now: the date and time for templates that write it; None for this moment.

    Raises:
        EncodingError: the tokenizer cannot be used.
        ValueError: ``thoughts`` is no pair of tags.
    """
    check_tokenizer(tokenizer)
    if thoughts is not None:
        check_thoughts(thoughts)
    moment = datetime.now() if now is None else now
    key = source(tokenizer), tuple(sorted(map(str, tokenizer.special_tokens_map.items())))
    known = _KNOWN.get(tokenizer)
    if known is None or known[0] != key:
        known = _KNOWN[tokenizer] = (key, _found_out(tokenizer, key[0]))
    own = {} if thoughts is None else {"thoughts": ((thoughts[0], thoughts[1]),)}
    return ChatTemplate(tokenizer, moment, control_tokens(tokenizer), **{**known[1], **own})


# What was found out about the template that each tokenizer has had last. It takes up to a hundred
# conversations to find it out.
_KNOWN: WeakKeyDictionary[Any, tuple[tuple[Any, ...], dict[str, Any]]] = WeakKeyDictionary()


def check_tokenizer(tokenizer: Any) -> None:
    """Check that a tokenizer can mark the parts of a conversation.

    Raises:
        EncodingError: it is no fast tokenizer with a chat template.
    """
    name = type(tokenizer).__name__
    if not callable(getattr(tokenizer, "apply_chat_template", None)):
        raise EncodingError(
            f"{name} is no tokenizer of transformers; give AutoTokenizer.from_pretrained(...)"
        )
    if not hasattr(tokenizer, "is_fast") and hasattr(tokenizer, "tokenizer"):
        raise EncodingError(f"{name} is a processor; give its tokenizer, processor.tokenizer")
    check_fast(tokenizer)
    if not getattr(tokenizer, "chat_template", None):
        raise EncodingError(
            f"{name} ({getattr(tokenizer, 'name_or_path', '') or 'unnamed'}) has no chat template; "
            "set tokenizer.chat_template to the model's, or pass your own prompts with their "
            "masks to sra_fast.score"
        )


def check_fast(tokenizer: Any) -> None:
    """Check that a tokenizer can say which characters a token stands for.

    Raises:
        EncodingError: it is not one of the fast ones.
    """
    name = type(tokenizer).__name__
    if not getattr(tokenizer, "is_fast", False):
        raise EncodingError(
            f"{name} is a slow tokenizer and cannot say which characters a token stands for; load "
            "the fast one with AutoTokenizer.from_pretrained(..., use_fast=True), or convert it "
            "once to a tokenizer.json"
        )


def control_tokens(tokenizer: Any) -> tuple[str, ...]:
    """Return the texts that the tokenizer reads as a control token even inside a message."""
    added = tokenizer.added_tokens_decoder.values()
    return tuple(token.content for token in added if token.special and token.content)


def source(tokenizer: Any) -> str:
    """Return the text of the chat template that a tokenizer uses for a conversation.

    Raises:
        EncodingError: the tokenizer has several templates, and none of them is the default.
    """
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        raise EncodingError(
            f"{type(tokenizer).__name__} cannot say which of its chat templates to use ({error}); "
            "set tokenizer.chat_template to the one of the model"
        ) from error


# --- What is asked of the template -----------------------------------------------------------


def _found_out(tokenizer: Any, chat_template: str) -> dict[str, Any]:
    """Return the fields of a ``ChatTemplate`` that are told by asking the template."""
    asked = ChatTemplate(tokenizer, datetime(2000, 1, 1))
    asked = replace(asked, in_parts=_roles_in_parts(asked))
    thoughts, ends = thoughts_of_template(chat_template, asked)
    return {
        "in_parts": asked.in_parts,
        "takes_system": _takes_system(asked),
        "thoughts": thoughts,
        "ends_of_thoughts": ends,
    }


def _roles_in_parts(template: ChatTemplate) -> frozenset[str]:
    """Return the roles whose messages the template writes only if they are lists of parts.

    A template that takes texts gets texts, whatever else it takes.
    """
    counts = range(len(_ROLES) + 1)
    choices = [set(roles) for n in counts for roles in itertools.combinations(_ROLES, n)]
    for written in (_ROLES, _ROLES[1:]):  # some templates take no system message
        for roles in choices:
            tried = replace(template, in_parts=frozenset(roles))
            if _writes(tried, written):
                return tried.in_parts
    return frozenset()  # it spoils texts and parts alike; what it does is said of the conversation


def _writes(template: ChatTemplate, roles: Sequence[str]) -> bool:
    """Return whether messages of these roles are all written, each once and in order."""
    texts = [chr(PRIVATE_USE[0][i]) for i in range(len(roles))]
    written = _tried(template, list(zip(roles, texts, strict=True)))
    return [character for character in written if character in texts] == texts


def _takes_system(template: ChatTemplate) -> bool:
    """Return whether a system message is written in front of the conversation.

    Some templates raise an error at a system message, some leave it out in silence, and some append
    it to the last user message, where the earlier replies cannot attend to it. The template is
    asked once for all conversations, so that all of them are treated alike.
    """
    system, user, reply = (chr(PRIVATE_USE[0][i]) for i in range(3))
    roles = ("system", "user", "assistant", "user", "assistant")
    texts = (system, user, reply, user, reply)
    text = _tried(template, list(zip(roles, texts, strict=True)))
    return -1 < text.find(system) < text.find(user)


def _tried(template: ChatTemplate, messages: Sequence[tuple[str, str]]) -> str:
    """Return what a template writes, or an empty text if it raises an error."""
    try:
        return template.write(messages)
    except Exception:  # a template is a program: raise_exception, undefined names, anything
        return ""
