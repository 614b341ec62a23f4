"""Names and default values that several parts of the library share.

Nothing is imported here, so that the command line starts at once.
"""

from __future__ import annotations

from typing import Literal

Definition = Literal["paper", "mass", "reference", "table1"]
"""The built-in definitions of SRA (:mod:`sra_fast.definitions` has their formulas)."""

Differentiable = Literal["paper", "mass"]
"""The definitions that training can raise: their gradient reaches every row of a response."""

Backend = Literal[
    "auto",
    "reference",
    "lse",
    "triton",
    "lse:flash_4",
    "lse:flash_3",
    "lse:cudnn",
    "lse:varlen",
    "lse:flex",
    "lse:fused",
    "lse:cpu_flash",
    "lse:blocks",
]
"""The built-in backends of the op, and ``"auto"``, which takes the fastest for the device.

``"lse:NAME"`` is ``"lse"`` with the attention of one provider
(:data:`sra_fast.kernels.providers.PROVIDERS`), or an error with the reason.
"""

DType = Literal["auto", "float32", "bfloat16", "float16"]
"""The number formats that a model is loaded in; ``"auto"`` is that of its stored weights."""

Device = Literal["auto", "cpu", "cuda"]
"""The devices a model is put on; ``"auto"`` is CUDA where there is one."""

Engine = Literal["process", "ray"]
"""The engines that score a file: the process of the command, or the workers of ray."""

Turns = Literal["all", "last"]
"""Which replies of a conversation are scored: all of them, or the last one only."""

TurnLayout = Literal["as_generated", "as_written"]
"""How the turns of a conversation are laid out: each as when its reply was generated and nothing
followed, or all as the chat template writes the whole conversation."""

SteeredTokens = Literal["all", "generated"]
"""Whose attention is steered: that of all tokens, or of those that predict a generated one."""

ProfileKind = Literal["mean", "layers", "heads"]
"""The detail of a profile: the mean over layers and heads, each layer's mean, or every head."""

SourceUnit = Literal["messages", "sentences", "documents"]
"""The units that a prompt is cut into, to tell the attention on each."""

RowChoice = Literal["response", "predicting", "last_prompt"]
"""The rows whose attention is averaged: a response's own, those one before each of them, which
predict them, or the last one of the prompt."""

TooLong = Literal["error", "drop", "cut_oldest_turns"]
"""The ways to treat a conversation that is longer than the limit of training."""

ClassifierKind = Literal["lexical", "embedding", "roberta"]
"""The kinds of strategy classifier: n-grams of words, sentence embeddings, or an encoder."""

TokenLimit = Literal["max_tokens", "max_completion_tokens"]
"""The names under which servers take the most tokens of an answer; newer ones take the second."""

FORWARD_TOKENS = 16384
"""The most tokens of one forward pass, unless one sequence is longer; it bounds the memory."""

TEST_SHARE, VALIDATION_SHARE = 100 / 1297, 50 / 1297
"""The paper's shares of the extended dialogues that are held out for test and validation."""

PROFILE_BYTES = 2 << 30
"""The most bytes that the profiles of one result take, unless more are allowed."""
