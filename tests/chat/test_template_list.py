"""Test chat templates that others wrote: each encoding is right, or refused with a reason.

They are no part of the project. ``SRA_FAST_CHAT_TEMPLATES`` names a folder of ``.jinja`` files,
such as the one that comes with the sources of llama.cpp.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken

from chat_tokenizers import byte_level_bpe
from sra_fast.chat.chat_template import EncodingError, read_chat_template
from sra_fast.chat.encoding import EncodedPrompt, encode_prompts
from sra_fast.chat.thoughts import reply_start

FOLDER = os.environ.get("SRA_FAST_CHAT_TEMPLATES")
FILES = sorted(Path(FOLDER).glob("*.jinja")) if FOLDER else []
pytestmark = pytest.mark.skipif(
    not FILES, reason="no chat templates of others; name their folder in SRA_FAST_CHAT_TEMPLATES"
)

KNOWN_REASONS = (
    "it refuses the shortest conversation too",  # it wants tools, for example
    "it takes no conversation that opens with an assistant message",
    "for a thought; if it is one",
    "alters message 1 of the prompt (system)",  # it takes a switch such as "/think" out of a text
)
CONTROL = re.compile(r"<[^<>\s'{}]{1,40}>|\[/?[A-Z_]+\]")
REPLIES = (
    "That hurts.",
    "Rest first.  Then, in 2 weeks,\n\nor 14 days: try again!",
    'Yes - "hope" grows.',
)


def talk(*, thinks: bool, tags: tuple[str, str], greets: bool, mentions: str = "") -> Any:
    """Return a conversation of three turns."""
    messages = [{"role": "assistant", "content": "Hello, how are you?"}] if greets else []
    for number, reply in enumerate(REPLIES):
        thought = f"{tags[0]}\nI should be kind, {number}.\n{tags[1]}\n\n" if thinks else ""
        messages += [
            {"role": "user", "content": f"I feel low, day {number}."},
            {"role": "assistant", "content": f"{thought}{mentions}{reply}"},
        ]
    situation = "Failed an exam."
    return {"messages": messages, "strategy": "Offer Hope", "situation": situation}


CASES: Mapping[str, Mapping[str, Any]] = {
    "plain": {"thinks": False, "greets": False},
    "thinking": {"thinks": True, "greets": False},
    "greeting": {"thinks": False, "greets": True},
    "mentioning": {"thinks": False, "greets": False, "mentions": "Models write {end} then. "},
}


@pytest.mark.parametrize("template", ["standard", "c1_hf"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_encoding_is_right_or_refused_with_a_reason(
    file: Path, case: str, template: str
) -> None:
    source = file.read_text(encoding="utf-8")
    tokenizer = byte_level_bpe(source)
    found = read_chat_template(tokenizer)
    tags = found.thoughts[0] if found.thoughts else ("<think>", "</think>")
    control = sorted({one for one in CONTROL.findall(source) if one not in tags})
    tokenizer.add_tokens([AddedToken(one, special=True) for one in control])
    settings = dict(CASES[case])
    settings["mentions"] = settings.get("mentions", "").format(end=tags[1])
    record = talk(tags=tags, **settings)
    prompts, refusal = _encoded(tokenizer, record, template)
    if refusal:
        assert any(reason in refusal for reason in KNOWN_REASONS), refusal
        return
    said = [m["content"] for m in record["messages"] if m["role"] == "assistant"]
    scored = [turn for prompt in prompts for turn in prompt.turns]
    assert scored == list(range(1 + settings["greets"], len(said) + 1))
    for prompt in prompts:
        assert tokenizer.decode(prompt.input_ids[prompt.strategy_mask]).strip() == '"Offer Hope"'
        for k, turn in enumerate(prompt.turns, start=1):
            wanted = said[turn - 1][reply_start(said[turn - 1], found.thoughts) :]
            _check_reply(tokenizer, prompt, k, wanted)
            if template == "standard":
                end = (
                    1
                    + [i for i, m in enumerate(record["messages"]) if m["role"] != "user"][turn - 1]
                )
                own = {**record, "messages": record["messages"][:end]}
                (alone,) = encode_prompts(tokenizer, [own], template, turns="last")
                assert _up_to(prompt, k).equal(_up_to(alone, 1))


def _encoded(tokenizer: Any, record: Any, template: str) -> tuple[list[EncodedPrompt], str]:
    """Return the prompts of a conversation, and why there are none."""
    try:
        return encode_prompts(tokenizer, [record], template), ""
    except EncodingError as error:
        return [], str(error)


def _check_reply(tokenizer: Any, prompt: EncodedPrompt, k: int, wanted: str) -> None:
    at = (prompt.response_mask == k).nonzero().flatten()
    assert len(at) == at[-1] - at[0] + 1
    marked = tokenizer.decode(prompt.input_ids[at])
    # A token may reach into what the template writes around the reply.
    assert wanted in marked
    assert len(marked) <= len(wanted) + 2


def _up_to(prompt: EncodedPrompt, k: int) -> torch.Tensor:
    return prompt.input_ids[: int((prompt.response_mask == k).nonzero()[-1]) + 1]
