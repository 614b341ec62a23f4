"""Make conversations to look at, of the project's own, with attention drawn at random."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy

from sra_fast.report.viewer import ViewedConversation, ViewedReply, ViewedTurn

SMALL_TALK = (
    ("I keep putting my thesis off, and every week it gets harder to open the file.",
     "That sounds heavy. What happens in the minute before you would open it?"),
    ("My chest gets tight, and then I clean the kitchen instead.",
     "So the kitchen is spotless, and the thesis waits. What if you opened it for five minutes?"),
    ("Five minutes feels possible. What would I even do with them?",
     "Write one sentence about what comes next. It may be a bad one.\nThen close the file."),
    ("And when the sentence is terrible?",
     "Then tomorrow you have something to mend, which is easier than a blank page."),
)  # fmt: skip

WORLD = (
    ("مرحبا، أشعر بالتعب اليوم ولا أعرف من أين أبدأ.",
     "أهلا بك. هل تريد أن تخبرني بما حدث؟ خذ وقتك."),
    ("今天面试没有通过，我觉得自己什么都做不好。",
     "听起来你很失望。一次面试不能说明一切。你最想先谈哪一部分？"),
    ("נכשלתי במבחן, ואני מפחד לספר להורים שלי.",
     "זה נשמע קשה. מה הדבר שהכי מפחיד אותך בשיחה הזאת?"),
    ("試験が終わったのに、まだ眠れません。",
     "緊張が続いているのですね。家族の支えはありますか？"),
)  # fmt: skip

LONG_REPLIES = 20
"""The number of replies of a long conversation that are scored."""

_PIECE = re.compile(r" ?[^\W_]{1,6}|\s|[^\w\s]|_")


def pieces(text: str) -> list[str]:
    """Return a text cut as tokens are: words of six letters at most, with the space before them."""
    return _PIECE.findall(text)


def conversation(
    exchanges: Sequence[tuple[str, str]] = SMALL_TALK,
    *,
    title: str = "thesis",
    layers: int = 4,
    heads: int = 3,
    kind: str = "heads",
    strategy: str = "Offer Hope",
    scored: int | None = None,
    seed: int = 0,
) -> ViewedConversation:
    """Return a conversation with a scored reply to every user message.

    Args:
        exchanges: what the user says and what the assistant replies, in order.
        title: the conversation's name.
        layers, heads: L and H of the profiles.
        kind: "heads" for profiles ``[L, H, T]``, "layers" for ``[L, T]``, "mean" for ``[T]``.
        strategy: the name in the system message, which is the span "strategy".
        scored: how many replies are scored, the last ones; all of them if None.
        seed: seed of the attention.
    """
    tokens: list[str] = []
    turns: list[ViewedTurn] = []

    def say(role: str, text: str) -> None:
        tokens.extend(["<|im_start|>", role, "\n"])
        start = len(tokens)
        tokens.extend(pieces(text))
        turns.append(ViewedTurn(role, start, len(tokens)))
        tokens.extend(["<|im_end|>", "\n"])

    say("system", f"You are a careful listener. Follow the strategy “{strategy}” in every reply.")
    quote = tokens.index("“") + 1
    span = (quote, quote + len(pieces(strategy)))
    for user, assistant in exchanges:
        say("user", user)
        say("assistant", assistant)
    random = numpy.random.default_rng(seed)
    replies = []
    answers = [turn for turn in turns if turn.role == "assistant"]
    first = 0 if scored is None else len(answers) - scored
    for number, turn in enumerate(answers[first:], start=first + 1):
        profile = attention(random, (layers, heads), turn.end, span, number)
        heat = profile[:, :, span[0] : span[1]].sum(axis=-1)
        by_layer = heat.mean(axis=1)
        axes = {"heads": (), "layers": (1,), "mean": (0, 1)}[kind]
        replies.append(
            ViewedReply(
                turn=number,
                start=turn.start,
                end=turn.end,
                label=strategy,
                profile=profile.mean(axis=axes, dtype=numpy.float32) if axes else profile,
                scores={"mass": float(by_layer.mean()), "paper": float(by_layer.mean() / 3)},
                layer_scores={"mass": by_layer, "paper": by_layer / 3},
                spans={"strategy": (span,), "system": ((turns[0].start, turns[0].end),)},
                heat=heat,
            )
        )
    return ViewedConversation(title, tuple(tokens), tuple(turns), tuple(replies))


def attention(
    random: numpy.random.Generator,
    lead: tuple[int, ...],
    tokens: int,
    span: tuple[int, int],
    number: int,
) -> numpy.ndarray:
    """Return attention ``[*lead, tokens]`` float32: a sink, a fading span, what is near."""
    weights = random.gamma(0.35, size=(*lead, tokens)).astype(numpy.float32)
    weights *= numpy.exp(-numpy.arange(tokens)[::-1] / (0.2 * tokens + 30)).astype(numpy.float32)
    weights[..., 0] += 0.5 * weights.sum(axis=-1)
    weights[..., span[0] : span[1]] += weights.sum(axis=-1, keepdims=True) * 0.2 / number**1.5
    return weights / weights.sum(axis=-1, keepdims=True)


def long_conversation(tokens: int = 100_000, turns: int = 200) -> ViewedConversation:
    """Return a conversation of at least that many tokens, whose last replies are scored.

    Args:
        tokens: how many tokens it has at least.
        turns: how many messages of the user, and how many replies.

    Returns:
        The conversation, with profiles ``[T]`` of :data:`LONG_REPLIES` replies at most.
    """
    sentences = [text for pair in SMALL_TALK for text in pair]
    words = tokens // (2 * turns)
    exchanges = []
    for turn in range(turns):
        said, count = [f"This is message {turn + 1}."], 0
        while count < words:
            said.append(sentences[(turn + len(said)) % len(sentences)])
            count += len(pieces(said[-1]))
        lines = (" ".join(said[i : i + 6]) for i in range(0, len(said), 6))
        exchanges.append(("\n".join(lines), "\n\n".join(said)))
    return conversation(
        exchanges,
        title=f"{turns} turns",
        layers=1,
        heads=1,
        kind="mean",
        scored=min(turns, LONG_REPLIES),
    )
