"""A result with profiles becomes what the page shows, and one without is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy
import pytest
import torch
from torch import Tensor

import sra_fast
from chat_tokenizers import byte_level_bpe
from marked_batches import marked_batch
from model_families import DENSE
from sra_fast.report.viewer.tokenised_result import TokenisedResult
from sra_fast.report.viewer.viewed_conversation import ViewError
from sra_fast.report.viewer.viewed_result import NoProfileError, viewed

LAYERS, HEADS = 2, 3
PROMPT = ("<s>", "Be", " kind", ".", "Hi", "Hello", "Bye", "Farewell", "friend")


@dataclass(frozen=True)
class Stand:
    """A stand-in for a result: two replies in one prompt, and one in a prompt of its own."""

    definition: str = "paper"
    spans: tuple[str, ...] = ("strategy",)
    names: tuple[str, ...] = ("strategy", "strategy_head", "null")
    layers: tuple[int, ...] = (1, 3)
    conversation: Tensor = torch.tensor([0, 0, 5])  # noqa: RUF009
    turn: Tensor = torch.tensor([1, 2, 1])  # noqa: RUF009
    texts: bool = True
    roles: bool = True

    def __len__(self) -> int:
        return len(self.turn)

    @property
    def by_layer(self) -> dict[str, Tensor]:
        values = torch.arange(len(self) * LAYERS, dtype=torch.float32).view(len(self), 1, LAYERS)
        return {"mass": values / 10, "paper": values / 20}

    @property
    def scores(self) -> dict[str, Tensor]:
        return {name: value[:, 0].mean(dim=1) for name, value in self.by_layer.items()}

    @property
    def mass(self) -> Tensor:
        return torch.arange(len(self) * LAYERS * HEADS * 3).view(len(self), LAYERS, HEADS, 3) / 60

    def prompts(self) -> Sequence[Sequence[int]]:
        return [[0, 1], [2]]

    def response(self, i: int) -> tuple[int, int]:
        return [(5, 6), (7, 9), (5, 6)][i]

    def profile(self, i: int) -> Tensor:
        tokens = self.response(i)[1]
        return torch.full((LAYERS, HEADS, tokens), 1 / tokens)

    def tokens(self, i: int) -> tuple[str, ...] | None:
        return PROMPT[: self.response(i)[1]] if self.texts else None

    def messages(self, i: int) -> Sequence[tuple[str, int, int]] | None:
        whole = [("system", 1, 4), ("user", 4, 5), ("assistant", 5, 6), ("user", 6, 7)]
        known = [*whole, ("assistant", 7, 9)] if i == 1 else whole[:3]
        return known if self.roles else None

    def source_ranges(self, i: int) -> dict[str, list[tuple[int, int]]]:
        return {}

    def span_ranges(self, i: int) -> dict[str, list[tuple[int, int]]]:
        return {"strategy": [(1, 3)]}


def test_replies_of_one_prompt_share_it() -> None:
    shared, own = viewed(Stand(), {0: "c-a", 5: "c-b"}, ["Hope", "Hope", "Care"])
    assert (shared.title, own.title) == ("c-a", "c-b")
    assert shared.tokens == PROMPT
    assert [reply.turn for reply in shared.replies] == [1, 2]
    assert [turn.role for turn in shared.turns][-1] == "assistant"
    assert own.tokens == PROMPT[:6]
    assert [reply.label for reply in shared.replies] == ["Hope", "Hope"]
    assert [reply.label for reply in own.replies] == ["Care"]


def test_numbers_are_those_of_the_result() -> None:
    result = Stand()
    reply = viewed(result)[0].replies[1]
    assert reply.scores == {name: result.scores[name][1].item() for name in ("paper", "mass")}
    assert next(iter(reply.scores)) == "paper"
    assert torch.equal(torch.from_numpy(reply.profile), result.profile(1))
    assert reply.heat is not None
    assert torch.equal(torch.from_numpy(reply.heat), result.mass[1, :, :, 0])
    assert torch.equal(torch.from_numpy(reply.layer_scores["mass"]), result.by_layer["mass"][1, 0])
    assert reply.spans == {"strategy": ((1, 3),)}


def test_without_messages_prompt_and_replies_are_told_apart() -> None:
    turns = [(t.role, t.start, t.end) for t in viewed(Stand(roles=False))[0].turns]
    assert turns == [("prompt", 0, 5), ("reply", 5, 6), ("prompt", 6, 7), ("reply", 7, 9)]


def test_a_result_without_profiles_is_refused() -> None:
    plain = sra_fast.score(DENSE[0].build(), marked_batch((20,)))
    with pytest.raises(NoProfileError, match="score again with profile='mean'"):
        TokenisedResult(plain, byte_level_bpe())


def test_a_result_of_embeddings_is_refused() -> None:
    with pytest.raises(ViewError, match="response 0 does not have its tokens"):
        viewed(replace(Stand(), texts=False))


def test_a_result_brings_its_texts_messages_and_ranges() -> None:
    tokenizer = byte_level_bpe()
    chat = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "I am low. Why?"},
        {"role": "assistant", "content": "Rest 你好 first."},
        {"role": "user", "content": "Then?"},
        {"role": "assistant", "content": "Go."},
    ]
    batch = sra_fast.mark(tokenizer, chat, {"rule": "kind"}, response=[2, 4], sources="messages")
    model = DENSE[0].build()
    model.resize_token_embeddings(len(tokenizer))
    result = sra_fast.score(model, batch, profile="layers")
    (shown,) = viewed(TokenisedResult(result, tokenizer))
    text = tokenizer.decode(batch["input_ids"][0])
    assert text.startswith("".join(shown.tokens))
    said = ["".join(shown.tokens[turn.start : turn.end]) for turn in shown.turns]
    assert [turn.role for turn in shown.turns] == [message["role"] for message in chat]
    assert said == [message["content"] for message in chat]
    for reply, message, number in zip(shown.replies, (chat[2], chat[4]), (0, 1), strict=True):
        assert "".join(shown.tokens[reply.start : reply.end]) == message["content"]
        (rule,) = reply.spans["rule"]
        assert "".join(shown.tokens[slice(*rule)]).strip() == "kind"
        numpy.testing.assert_array_equal(reply.profile, result.profile(number).numpy())


def test_sources_that_are_no_messages_are_passed_on() -> None:
    tokenizer = byte_level_bpe()
    chat = [{"role": "user", "content": "A b. C d."}, {"role": "assistant", "content": "E."}]
    batch = sra_fast.mark(tokenizer, chat, {"x": "b"}, sources={"one": "A b.", "two": "C d."})
    model = DENSE[0].build()
    model.resize_token_embeddings(len(tokenizer))
    (shown,) = viewed(TokenisedResult(sra_fast.score(model, batch, profile="mean"), tokenizer))
    (reply,) = shown.replies
    assert set(reply.sources) == {"one", "two"}
    assert "".join(shown.tokens[slice(*reply.sources["two"][0])]).strip() == "C d."
