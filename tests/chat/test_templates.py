"""Test what a template's prompt holds, where the strategy stands, and which replies are scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sra_fast.chat.conversations import Conversation, ConversationError, Message
from sra_fast.chat.strategies import STRATEGIES
from sra_fast.chat.templates import (
    TEMPLATES,
    Prompt,
    PromptTemplate,
    PromptTemplateError,
    get_template,
    read_template,
    render_prompts,
)

PLAIN = 'Use the "{strategy}" strategy. {description}'


def conversation(
    messages: int, *, opens: str = "user", response: str | None = None, **changes: Any
) -> Conversation:
    """Return a conversation whose messages are m1, m2, ..., from user and assistant in turn."""
    roles = ("user", "assistant") if opens == "user" else ("assistant", "user")
    made = tuple(Message(roles[i % 2], f"m{i + 1}") for i in range(messages))  # type: ignore[arg-type]
    fields = {"id": "c7", "strategy": "Offer Hope", "situation": "Fired.", **changes}
    return Conversation(messages=made, response=response, **fields)


def chat(prompt: Prompt) -> list[str]:
    """Return a prompt's messages without the system's, and replies with turns: ["m1", "m2@1"]."""
    return [
        m.content if m.turn is None else f"{m.content}@{m.turn}"
        for m in prompt.messages
        if m.role != "system"
    ]


def quoted(prompt: Prompt) -> str:
    system = prompt.messages[0]
    assert system.strategy is not None
    return system.content[slice(*system.strategy)]


def test_the_seven_are_those_of_the_paper() -> None:
    kept = {name: (t.keep_turns, t.history) for name, t in TEMPLATES.items()}
    assert kept == {
        "standard": (None, None),
        "c1_hf": (1, "first"),
        "c3_hf": (3, "first"),
        "c5_hf": (5, "first"),
        "c1_hl": (1, "last"),
        "c3_hl": (3, "last"),
        "c5_hl": (5, "last"),
    }


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("situation", [None, "Fired."])
def test_the_quoted_name_is_followed_by_the_word_strategy_once(
    name: str, situation: str | None
) -> None:
    made = conversation(13, response="r", situation=situation)
    (prompt,) = render_prompts(made, TEMPLATES[name])
    text = prompt.messages[0].content
    assert text.count('"Offer Hope" strategy') == 1
    assert quoted(prompt) == '"Offer Hope"'
    assert STRATEGIES["Offer Hope"] in text
    assert ("Fired." in text) == (situation is not None)
    assert "{" not in text
    assert [m.strategy is None for m in prompt.messages] == [False] + [True] * (
        len(prompt.messages) - 1
    )


@pytest.mark.parametrize(
    ("messages", "opens", "response", "expected"),
    [
        (4, "user", None, ["m1", "m2@1", "m3", "m4@2"]),
        (5, "user", None, ["m1", "m2@1", "m3", "m4@2"]),  # nothing before m5 can see it
        (5, "assistant", None, ["m1", "m2", "m3@2", "m4", "m5@3"]),  # a greeting answers nothing
        (3, "user", "r", ["m1", "m2", "m3", "r@2"]),
        (2, "assistant", "r", ["m1", "m2", "r@2"]),
        (1, "user", "r", ["m1", "r@1"]),
    ],
)
def test_standard_is_one_prompt_with_every_scored_reply(
    messages: int, opens: str, response: str | None, expected: list[str]
) -> None:
    made = conversation(messages, opens=opens, response=response)
    (prompt,) = render_prompts(made, TEMPLATES["standard"])
    assert chat(prompt) == expected
    assert [f"@{turn}" for turn in prompt.turns] == [
        e[e.index("@") :] for e in expected if "@" in e
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("c1_hf", [["m1", "m2@1"], ["m3", "m4@2"], ["m5", "m6@3"]]),
        ("c3_hl", [["m1", "m2@1"], ["m1", "m2", "m3", "m4@2"], ["m3", "m4", "m5", "m6@3"]]),
    ],
)
def test_with_kept_turns_every_reply_has_a_prompt_of_its_own(
    name: str, expected: list[list[str]]
) -> None:
    prompts = render_prompts(conversation(7), TEMPLATES[name])
    assert [chat(prompt) for prompt in prompts] == expected
    assert [prompt.turns for prompt in prompts] == [(1,), (2,), (3,)]


@pytest.mark.parametrize("name", TEMPLATES)
def test_last_scores_the_last_reply_only(name: str) -> None:
    all_turns = render_prompts(conversation(7), TEMPLATES[name])
    (last,) = render_prompts(conversation(7), TEMPLATES[name], turns="last")
    assert last.turns == (3,)
    assert sum("@" in message for message in chat(last)) == 1
    assert last.messages[-1] == all_turns[-1].messages[-1]


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "standard"])
def test_older_messages_become_history_on_the_right_side(name: str) -> None:
    template = TEMPLATES[name]
    assert template.keep_turns is not None
    (prompt,) = render_prompts(conversation(9, response="r"), template)
    older = [f"{'User' if i % 2 else 'Assistant'}: m{i}" for i in range(1, 10)]
    history = "\n".join([template.history_heading, *older[: -template.keep_turns]])
    text = prompt.messages[0].content
    if template.history == "first":
        assert text.startswith(history + "\n\n")
    else:
        assert text.endswith("\n\n" + history)
    assert chat(prompt) == [f"m{i}" for i in range(10 - template.keep_turns, 10)] + ["r@5"]
    assert quoted(prompt) == '"Offer Hope"'


@pytest.mark.parametrize("messages", [1, 3, 5])
def test_a_conversation_within_the_kept_turns_has_no_history(messages: int) -> None:
    made = conversation(messages, response="r")
    systems = {
        name: render_prompts(made, TEMPLATES[name])[0].messages[0]
        for name in ("standard", "c5_hf", "c5_hl")
    }
    assert systems["c5_hf"] == systems["c5_hl"] == systems["standard"]


def test_a_line_with_the_situation_goes_where_there_is_none() -> None:
    template = PromptTemplate("own", f"Situation: {{situation}}\n\n{PLAIN}")
    (prompt,) = render_prompts(conversation(2, situation=None), template)
    assert prompt.messages[0].content.startswith('Use the "Offer Hope" strategy.')
    assert quoted(prompt) == '"Offer Hope"'


def test_text_of_a_conversation_is_never_a_placeholder() -> None:
    tricky = '{strategy} "{strategy}" {description} {0} {situation.__class__} %s \\1'
    made = conversation(3, situation=tricky, response=tricky)
    (prompt,) = render_prompts(made, TEMPLATES["c1_hl"])
    assert tricky in prompt.messages[0].content
    assert prompt.messages[-1].content == tricky
    assert quoted(prompt) == '"Offer Hope"'


def test_a_description_is_never_a_placeholder() -> None:
    own = {"Offer Hope": 'Say "{strategy}" and {situation}.'}
    (prompt,) = render_prompts(conversation(2), TEMPLATES["standard"], own)
    assert own["Offer Hope"] in prompt.messages[0].content
    assert quoted(prompt) == '"Offer Hope"'


def test_the_strategy_is_told_from_the_same_words_in_quotes_elsewhere() -> None:
    template = PromptTemplate("own", f"{{situation}}\n{PLAIN}")
    made = conversation(2, situation='They said "Offer Hope" strategy.')
    (prompt,) = render_prompts(made, template)
    system = prompt.messages[0]
    assert system.strategy is not None
    assert system.strategy[0] == system.content.rindex('"Offer Hope"')


def test_other_braces_of_an_own_template_stay() -> None:
    template = PromptTemplate("own", f'{PLAIN} Answer as {{ "reply": ... }}.')
    (prompt,) = render_prompts(conversation(2), template)
    assert '{ "reply": ... }' in prompt.messages[0].content


def test_an_unknown_strategy_is_named_with_its_conversation() -> None:
    made = conversation(2, strategy="Hope", where="chats.jsonl line 12")
    with pytest.raises(ConversationError) as caught:
        render_prompts(made, TEMPLATES["standard"])
    text = str(caught.value)
    assert text.startswith("conversation 'c7' (chats.jsonl line 12): strategy 'Hope' is not one of")
    assert "did you mean 'Offer Hope'?" in text
    assert text.endswith("? To use your own, give strategies that hold it")


def test_turns_takes_two_words_only() -> None:
    with pytest.raises(ValueError, match="'all' or 'last'"):
        render_prompts(conversation(2), TEMPLATES["standard"], turns="first")  # type: ignore[arg-type]


@pytest.mark.parametrize(("wrong", "right"), [("c1-hf", "c1_hf"), ("Standard", "standard")])
def test_an_unknown_template_is_refused_with_the_nearest(wrong: str, right: str) -> None:
    with pytest.raises(PromptTemplateError, match=f"did you mean '{right}'"):
        get_template(wrong)


def test_a_template_is_got_by_name_or_as_it_is() -> None:
    own = PromptTemplate("own", PLAIN)
    assert get_template(own) is own
    assert get_template("c1_hf") is TEMPLATES["c1_hf"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"instruction": "Use {strategy}."}, "in straight double quotes, exactly once"),
        ({"instruction": "Be nice."}, "exactly once"),
        ({"instruction": f"{PLAIN} {PLAIN}"}, "exactly once"),
        ({"instruction": f"{PLAIN} Again: {{strategy}}."}, "exactly once"),
        ({"instruction": f"{PLAIN} {{situatoin}}"}, "did you mean 'situation'"),
        ({"instruction": f"{PLAIN} {{situation}}"}, "on a line of its own"),
        ({"keep_turns": 0, "history": "first"}, "'keep_turns' must be a whole number"),
        ({"keep_turns": True, "history": "first"}, "'keep_turns' must be a whole number"),
        ({"keep_turns": "3", "history": "first"}, "'keep_turns' must be a whole number"),
        ({"keep_turns": 3}, "come together"),
        ({"history": "first"}, "come together"),
        ({"keep_turns": 3, "history": "middle"}, "'first' or 'last', found 'middle'"),
        ({"keep": 3}, "unknown field 'keep'"),
        ({"name": "standard"}, "choose another"),
        ({"name": 5}, "'name' must be a string"),
        ({"instruction": None}, "'instruction' must be a string"),
        ({"history_heading": ""}, "'history_heading' is empty"),
    ],
)
def test_a_bad_template_file_is_refused_with_its_name(
    tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"name": "own", "instruction": PLAIN, **changes}))
    with pytest.raises(PromptTemplateError) as caught:
        read_template(path)
    assert str(caught.value).startswith("mine.json")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"), [("{", "line 1"), ("[]", "found list"), ("{}", "'name' is missing")]
)
def test_a_file_that_is_no_template_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(PromptTemplateError, match=f"mine.json.*{says}"):
        read_template(path)


def test_an_own_template_is_read(tmp_path: Path) -> None:
    fields = {"name": "own", "instruction": PLAIN, "keep_turns": 3, "history": "last"}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(fields))
    assert read_template(path) == PromptTemplate("own", PLAIN, keep_turns=3, history="last")


# --- Strategies of single replies ---


def with_strategies(*strategies: str | None, **changes: Any) -> Conversation:
    """Return a conversation with that many replies, each with a strategy of its own or None."""
    messages = [m for n in range(len(strategies)) for m in (f"u{n + 1}", f"r{n + 1}")]
    made = tuple(
        Message("assistant", text, strategies[i // 2]) if i % 2 else Message("user", text)
        for i, text in enumerate(messages)
    )
    last = [strategy for strategy in strategies if strategy is not None][-1]
    return Conversation(id="c7", messages=made, strategy=last, **changes)


def test_replies_under_other_strategies_have_prompts_of_their_own() -> None:
    own = with_strategies("Question", "Question", "Offer Hope", None, "Question")
    prompts = render_prompts(own, TEMPLATES["standard"])
    assert [quoted(prompt) for prompt in prompts] == ['"Question"', '"Offer Hope"', '"Question"']
    assert [prompt.turns for prompt in prompts] == [(1, 2), (3,), (5,)]
    assert chat(prompts[1]) == ["u1", "r1", "u2", "r2", "u3", "r3@3"]
    assert chat(prompts[2])[-4:] == ["u4", "r4", "u5", "r5@5"]


@pytest.mark.parametrize("name", ["c1_hf", "c3_hl"])
def test_with_kept_turns_each_prompt_names_the_strategy_of_its_reply(name: str) -> None:
    own = with_strategies("Question", None, "Offer Hope")
    prompts = render_prompts(own, TEMPLATES[name])
    assert [(quoted(p), p.turns) for p in prompts] == [('"Question"', (1,)), ('"Offer Hope"', (3,))]


def test_one_strategy_for_all_replies_is_one_prompt_however_it_is_written() -> None:
    plain = with_strategies("Offer Hope", "Offer Hope").under("Offer Hope")
    (one,) = render_prompts(with_strategies("Offer Hope", "Offer Hope"), TEMPLATES["standard"])
    (other,) = render_prompts(plain, TEMPLATES["standard"])
    assert one == other


def test_the_last_turn_is_the_last_reply_with_a_strategy() -> None:
    own = with_strategies("Question", "Offer Hope", None)
    (prompt,) = render_prompts(own, TEMPLATES["standard"], turns="last")
    assert chat(prompt) == ["u1", "r1", "u2", "r2@2"]
    assert own.last_reply[1] == "r2"
    assert own.with_last_reply("new").strategy == "Offer Hope"


def test_only_the_strategies_that_are_scored_must_be_known() -> None:
    own = with_strategies("Greeting", "Offer Hope")
    with pytest.raises(ConversationError, match="'Greeting' is not one of"):
        render_prompts(own, TEMPLATES["standard"])
    assert len(render_prompts(own, TEMPLATES["standard"], turns="last")) == 1
