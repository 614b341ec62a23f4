"""Test training data: what is learned from a conversation, what the limit does, how it is split."""

from __future__ import annotations

import itertools
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from chat_tokenizers import CHATML, DROPS_SYSTEM, LLAMA_2, QWEN_3, SOUND_TEMPLATES, byte_level_bpe
from conversation_files import FILES
from esconv_data import ESCONV, WHY_ABSENT
from sra_fast.chat.chat_template import EncodingError
from sra_fast.chat.conversations import ConversationError, read_conversations
from sra_fast.chat.conversion import convert
from sra_fast.chat.encoding import encode
from sra_fast.training import split_by_conversation, training_examples
from sra_fast.training.data.examples import TrainingDataError
from tiny_chat_model import talk, write_jsonl

datasets = pytest.importorskip("datasets", reason="needs the package datasets (extra 'train')")

TOKENIZER = byte_level_bpe()
LONG = 10_000


def examples_of(records: Any, **options: Any) -> Any:
    tokenizer = options.pop("tokenizer", TOKENIZER)
    return training_examples(records, tokenizer, **{"max_length": LONG, **options}).dataset


def labelled(tokenizer: Any, example: Mapping[str, Any]) -> str:
    return str(tokenizer.decode([label for label in example["labels"] if label != -100]))


def marked(tokenizer: Any, example: Mapping[str, Any], mask: str) -> str:
    pairs = zip(example["input_ids"], example[mask], strict=True)
    return str(tokenizer.decode([token for token, inside in pairs if inside]))


def test_the_package_is_light_and_every_name_is_there() -> None:
    import sra_fast.training

    for name in sra_fast.training.__all__:
        assert getattr(sra_fast.training, name) is not None
        assert name in dir(sra_fast.training)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sra_fast.training.nothing  # noqa: B018
    code = "import sys, sra_fast.training; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "transformers", "datasets", "peft", "accelerate"} & set(loaded)


# --- What is learned ---


def test_the_last_reply_and_its_end_marker_are_labelled_and_nothing_else() -> None:
    (example,) = examples_of([talk("a", 3)])
    assert labelled(TOKENIZER, example) == "Hope grows slowly, a 3.<|im_end|>"
    assert marked(TOKENIZER, example, "response_mask") == "Hope grows slowly, a 3."
    assert marked(TOKENIZER, example, "strategy_mask") == ' "Offer Hope"'
    assert example["length"] == len(example["input_ids"])
    names = (example["strategy"], example["conversation"], example["dialogue"])
    assert names == ("Offer Hope", "a", "a")


@pytest.mark.parametrize("chat", SOUND_TEMPLATES)
def test_labels_end_with_the_first_control_token_after_the_reply(chat: str) -> None:
    tokenizer = byte_level_bpe(SOUND_TEMPLATES[chat])
    (example,) = examples_of([talk("a")], tokenizer=tokenizer)
    reply, _, marker = labelled(tokenizer, example).rpartition(".")
    assert reply.strip() == "Hope grows slowly, a 2"
    assert marker.strip() in ("<|im_end|>", "<end_turn>", "</s>")


def test_all_control_tokens_that_end_a_reply_together_are_labelled() -> None:
    ended_twice = byte_level_bpe(CHATML.replace("<|im_end|>", "<end_turn><|im_end|>"))
    (example,) = examples_of([talk("a")], tokenizer=ended_twice)
    assert labelled(ended_twice, example) == "Hope grows slowly, a 2.<end_turn><|im_end|>"


def test_an_end_marker_of_plain_text_is_labelled_whole() -> None:
    plain = byte_level_bpe(CHATML.replace("<|im_end|>", " ###"))
    (example,) = examples_of([talk("a")], tokenizer=plain)
    assert labelled(plain, example) == "Hope grows slowly, a 2. ###\n"


def test_tokens_and_masks_are_those_of_encode() -> None:
    records = [talk("a"), talk("b", 3, situation="Fired.")]
    batch = encode(TOKENIZER, records, "c1_hf", turns="last")
    for row, example in enumerate(examples_of(records, template="c1_hf")):
        inside = batch["attention_mask"][row].bool()
        assert example["input_ids"] == batch["input_ids"][row, inside].tolist()
        assert example["strategy_mask"] == batch["strategy_mask"][row, inside].tolist()
        assert example["response_mask"] == (batch["response_mask"][row, inside] == 1).tolist()


def test_a_response_is_the_reply_and_what_follows_the_last_reply_is_left_out() -> None:
    messages = talk("a")["messages"]
    given = talk("a", messages=messages[:3], response="Yes.")
    assert labelled(TOKENIZER, examples_of([given])[0]) == "Yes.<|im_end|>"
    followed = talk("b", messages=[*messages, {"role": "user", "content": "Thanks."}])
    (example,) = examples_of([followed])
    assert labelled(TOKENIZER, example) == "Hope grows slowly, a 2.<|im_end|>"
    assert "Thanks." not in TOKENIZER.decode(example["input_ids"])


def test_the_last_reply_with_a_strategy_of_its_own_is_learned_under_it() -> None:
    messages = talk("a", 3)["messages"]
    messages[1]["strategy"], messages[3]["strategy"] = "Question", "Chit Chat"
    given = talk("a", messages=messages)
    del given["strategy"]
    (example,) = examples_of([given])
    assert labelled(TOKENIZER, example) == "Hope grows slowly, a 2.<|im_end|>"
    assert marked(TOKENIZER, example, "strategy_mask") == ' "Chit Chat"'
    assert example["strategy"] == "Chit Chat"


def test_thoughts_carry_no_loss() -> None:
    tokenizer = byte_level_bpe(QWEN_3)
    record = talk(
        "a", messages=talk("a")["messages"][:1], response="<think>\nHm.\n</think>\n\nYes."
    )
    assert labelled(tokenizer, examples_of([record], tokenizer=tokenizer)[0]) == "Yes.<|im_end|>"


def test_a_template_without_an_end_marker_is_refused() -> None:
    unended = CHATML.replace("+ '<|im_end|>\n'", "+ ('' if loop.last else '<|im_end|>\n')")
    with pytest.raises(TrainingDataError, match=r"'a'.*nothing after the last reply.*end-of-turn"):
        examples_of([talk("a")], tokenizer=byte_level_bpe(unended))


# --- Bad input ---


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"strategy": None}, r"line 2.*'strategy'"),
        ({"strategy": "Hope"}, r"line 2.*'Hope' is not one of.*did you mean 'Offer Hope'"),
        ({"messages": talk("b")["messages"][:1]}, r"line 2.*holds no assistant message"),
        ({"messages": []}, r"line 2.*'messages' is empty"),
    ],
)
def test_bad_records_are_refused_with_their_line(
    tmp_path: Path, changes: dict[str, Any], says: str, streaming: bool
) -> None:
    file = write_jsonl(tmp_path / "chats.jsonl", [talk("a"), talk("b", **changes)])
    with pytest.raises(ConversationError, match=says):
        list(examples_of(file, streaming=streaming))


@pytest.mark.parametrize("streaming", [False, True])
def test_files_without_conversations_are_refused(tmp_path: Path, streaming: bool) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(ConversationError, match=r"empty\.jsonl: holds no conversation"):
        examples_of(empty, streaming=streaming)
    listed = tmp_path / "list.jsonl"
    listed.write_text("[]")
    with pytest.raises(ConversationError, match=r"list\.jsonl.*list"):
        examples_of(listed, streaming=streaming)
    with pytest.raises(FileNotFoundError):
        examples_of(tmp_path / "none.jsonl", streaming=streaming)
    foreign = FILES["ShareGPT in gzip"][0](tmp_path)
    with pytest.raises(ConversationError, match=r"s\.jsonl\.gz: this is .* ShareGPT keeps them"):
        examples_of(foreign, streaming=streaming)


def test_no_conversation_at_all_is_refused() -> None:
    with pytest.raises(ConversationError, match="give at least one"):
        examples_of([])
    with pytest.raises(TrainingDataError, match="give their paths"):
        examples_of([talk("a")], streaming=True)


def test_a_strategy_that_the_chat_template_alters_is_refused() -> None:
    shouts = CHATML.replace("m['content']", "m['content'] | upper")
    with pytest.raises(EncodingError, match=r"'a'.*alters the strategy \"Offer Hope\""):
        examples_of([talk("a")], tokenizer=byte_level_bpe(shouts))
    examples_of([talk("a")], tokenizer=byte_level_bpe(DROPS_SYSTEM))  # goes to the user's message


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"too_long must be one of .*'drop'"):
        examples_of([talk("a")], too_long="cut")
    with pytest.raises(ValueError, match="max_length must be"):
        examples_of([talk("a")], max_length=0)


# --- The limit ---


def lengths(turns: Sequence[int], **options: Any) -> list[int]:
    return list(examples_of([talk(f"c{n}", n) for n in turns], **options)["length"])


def test_what_is_too_long_is_refused_unless_a_policy_is_chosen() -> None:
    (two,) = lengths([2])
    records = [talk(f"c{i}", 2 + (i > 1)) for i in range(9)]
    with pytest.raises(TrainingDataError) as refused:
        examples_of(records, max_length=two)
    said = str(refused.value)
    assert "7 of 9 conversations are longer" in said
    assert "conversation 'c2' (conversations[2])" in said
    assert "and 2 more" in said
    assert "raise max_length, or choose too_long 'drop' or 'cut_oldest_turns'" in said
    assert refused.value.arguments == ("max_length", "too_long")


def test_what_is_dropped_is_counted_and_named() -> None:
    (two,) = lengths([2])
    with pytest.warns(UserWarning, match=r"1 of 2 .* were left out: conversation 'b'"):
        made = training_examples(
            [talk("a"), talk("b", 3)], TOKENIZER, max_length=two, too_long="drop"
        )
    assert made.dataset["conversation"][:] == ["a"]
    assert made.report is not None
    assert made.report.dropped == ("conversation 'b' (conversations[1])",)
    with pytest.raises(TrainingDataError, match=r"1 of 1 .* raise max_length$") as refused:
        examples_of([talk("b", 3)], max_length=two, too_long="drop")
    assert refused.value.arguments == ("max_length",)


@pytest.mark.parametrize("chat", SOUND_TEMPLATES)
@pytest.mark.parametrize("template", ["standard", "c1_hf"])
@pytest.mark.parametrize("greeted", [False, True])
def test_cutting_takes_the_fewest_oldest_turns_in_whole(
    chat: str, template: str, greeted: bool
) -> None:
    tokenizer = byte_level_bpe(SOUND_TEMPLATES[chat])
    record = talk("a", 6)
    if greeted and chat not in ("llama_2", "gemma", "mistral"):
        greeting = {"role": "assistant", "content": "Hello there."}
        record["messages"] = [greeting, *record["messages"]]
    options: dict[str, Any] = {"tokenizer": tokenizer, "template": template}
    # What remains is encoded like a conversation of its own that begins so many turns later.
    tails = {
        turns: list(
            examples_of([{**record, "messages": record["messages"][-2 * turns :]}], **options)
        )
        for turns in range(1, 7)
    }
    for turns in range(1, 6):
        limit = tails[turns][0]["length"] + 5
        with pytest.warns(
            UserWarning, match=r"1 of 1 .* lost their oldest turns: conversation 'a'"
        ):
            (cut,) = examples_of([record], max_length=limit, too_long="cut_oldest_turns", **options)
        assert cut == tails[turns][0]


def test_cutting_leaves_what_fits_alone_and_refuses_what_never_fits() -> None:
    (one,) = lengths([1])
    with pytest.warns(UserWarning, match="1 of 2"):
        made = training_examples(
            [talk("c1", 1), talk("c2", 3)], TOKENIZER, max_length=one, too_long="cut_oldest_turns"
        )
    assert made.report is not None
    assert made.report.cut == ("conversation 'c2' (conversations[1])",)
    assert len(made.dataset) == 2
    with pytest.raises(
        TrainingDataError,
        match=rf"'c1'.*longest has {one}.*choose too_long 'drop' to leave them out$",
    ):
        examples_of([talk("c1", 2)], max_length=one - 1, too_long="cut_oldest_turns")


def test_llama_2s_order_of_roles_survives_the_cut() -> None:
    tokenizer = byte_level_bpe(LLAMA_2)
    (whole,) = examples_of([talk("a", 4)], tokenizer=tokenizer)
    limit = whole["length"] - 1
    with pytest.warns(UserWarning, match="lost their oldest turns"):
        (cut,) = examples_of(
            [talk("a", 4)], tokenizer=tokenizer, max_length=limit, too_long="cut_oldest_turns"
        )
    text = tokenizer.decode(cut["input_ids"])
    assert '"Offer Hope"' in text
    assert "day 1" not in text
    assert "day 2" in text


# --- Streaming ---


def test_streaming_gives_the_same_examples_pass_after_pass(tmp_path: Path) -> None:
    files = [
        write_jsonl(tmp_path / name, [talk(f"{name}{i}", 1 + i % 3) for i in range(70)])
        for name in ("a.jsonl", "b.jsonl")
    ]
    streamed = examples_of(files, streaming=True)
    wanted = list(examples_of(files))
    assert isinstance(streamed, datasets.IterableDataset)
    assert list(streamed) == wanted
    assert list(streamed) == wanted
    loader = DataLoader(streamed, batch_size=10, num_workers=2, collate_fn=list)
    found = [example for batch in loader for example in batch]
    assert sorted(e["conversation"] for e in found) == sorted(e["conversation"] for e in wanted)


def test_streaming_reads_no_further_than_it_must(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "chats.jsonl", [talk(f"c{i}", 1) for i in range(200)])
    with file.open("a") as lines:
        lines.write("{broken\n")
    reached = iter(examples_of(file, streaming=True))
    assert len(list(itertools.islice(reached, 100))) == 100
    with pytest.raises(ConversationError, match=r"chats\.jsonl line 201"):
        list(reached)


def test_streaming_names_what_is_too_long(tmp_path: Path) -> None:
    (two,) = lengths([2])
    file = write_jsonl(tmp_path / "chats.jsonl", [talk("a"), talk("b", 3), talk("c")])
    with pytest.raises(TrainingDataError, match=r"'b' \(chats.jsonl line 2\).*cut_oldest_turns"):
        list(examples_of(file, streaming=True, max_length=two))
    with pytest.warns(UserWarning, match=r"1 of 3 .* were left out: conversation 'b'"):
        kept = list(examples_of(file, streaming=True, max_length=two, too_long="drop"))
    assert [example["conversation"] for example in kept] == ["a", "c"]


# --- Splitting ---


def cuts(dialogues: int) -> list[dict[str, Any]]:
    """Return several conversations of each dialogue."""
    return [
        talk(f"d{d}-t{t}", t, dialogue=f"d{d}")
        for d in range(dialogues)
        for t in range(1, 2 + d % 3)
    ]


def test_cuts_of_a_dialogue_stay_on_one_side() -> None:
    records = cuts(10)
    examples = examples_of(records)
    for rest, held_out, key in (
        (*split_by_conversation(records, 0.2, seed=1), "id"),
        (*split_by_conversation(examples, 0.2, seed=1), "conversation"),
    ):
        sides = [{one["dialogue"] for one in side} for side in (rest, held_out)]
        assert not sides[0] & sides[1]
        assert [len(side) for side in sides] == [8, 2]
        names = [one[key] for one in (*rest, *held_out)]
        assert sorted(names) == sorted(record["id"] for record in records)
    assert [one["conversation"] for one in held_out] == [
        one["id"] for one in split_by_conversation(records, 0.2, seed=1)[1]
    ]


def test_a_split_follows_its_seed_and_is_never_empty() -> None:
    records = [talk(f"c{i}", 1) for i in range(20)]
    held_out = [tuple(r["id"] for r in split_by_conversation(records, 0.3, s)[1]) for s in range(5)]
    assert held_out[0] == tuple(r["id"] for r in split_by_conversation(records, 0.3, 0)[1])
    assert len(set(held_out)) > 1
    assert len(split_by_conversation(records, 0.001)[1]) == 1
    assert len(split_by_conversation(records, 0.999)[0]) == 1


def test_what_cannot_be_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        split_by_conversation(cuts(3), 1.0)
    with pytest.raises(TrainingDataError, match="3 conversations of 1 dialogue"):
        split_by_conversation([talk(f"c{i}", dialogue="d") for i in range(3)], 0.5)
    file = write_jsonl(tmp_path / "chats.jsonl", cuts(3))
    with pytest.raises(TrainingDataError, match="split the conversations into two files"):
        split_by_conversation(examples_of(file, streaming=True), 0.5)


# --- Real conversations ---


@pytest.mark.skipif(not ESCONV.is_dir(), reason=WHY_ABSENT)
def test_real_conversations_become_examples_whole(tmp_path: Path) -> None:
    records = convert(ESCONV / "esconv_valid_130.json").records
    conversations = read_conversations(write_jsonl(tmp_path / "chats.jsonl", records[:120]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = training_examples(conversations, TOKENIZER, max_length=20_000)
    for conversation, example in zip(conversations, made.dataset, strict=True):
        assert labelled(TOKENIZER, example) == f"{conversation.response}<|im_end|>"
        assert marked(TOKENIZER, example, "response_mask") == conversation.response
        assert example["strategy"] == conversation.strategy
    rest, held_out = split_by_conversation(made.dataset, 0.25)
    assert not set(rest["dialogue"]) & set(held_out["dialogue"])
