"""Say how conversations of files are scored, and why one of them cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from sra_fast.backends import check_backend
from sra_fast.chat.strategies import DEFAULT_STRATEGIES
from sra_fast.chat.thoughts import Thoughts
from sra_fast.definitions import check_definition
from sra_fast.names import (
    FORWARD_TOKENS,
    PROFILE_BYTES,
    Device,
    DType,
    ProfileKind,
    SourceUnit,
    TurnLayout,
)
from sra_fast.tools.argument_error import ArgumentError


class ScoringError(ArgumentError):
    """Raised when something cannot be scored.

    The message names the conversation, its place and the way out.
    """


@dataclass(frozen=True)
class ScoringOptions:
    """The options that scores depend on besides conversations, model and template.

    Attributes:
        definition: the definition that the column ``sra`` gives.
        strategies: mapping of strategy names to descriptions.
        batch_tokens: the most tokens of one forward pass, unless one prompt is longer.
        dtype, device: number format and place of the model's weights.
        backend: backend of the op.
        layout, thoughts: the arguments of those names of :func:`sra_fast.encode`.
        profile: what is kept of the attention on every token; None for nothing.
        profile_bytes: the most bytes that the profiles of all replies may take.
        sources: what the messages are cut into to tell the attention on each, with a profile; None
            without one.
        check: whether the model is checked before its first score (no score depends on it).
        share_prefixes: the argument of that name of :func:`sra_fast.score`.
        layerwise: whether the model runs layer by layer, with the weights of one layer in memory;
            ``batch_tokens`` are then those that go through each layer before the next is read.

    Raises:
        KeyError: there is no such definition.
        ValueError: there is no such backend.
    """

    definition: str = "paper"
    strategies: Mapping[str, str] = field(default_factory=lambda: DEFAULT_STRATEGIES)
    batch_tokens: int = FORWARD_TOKENS
    dtype: DType = "auto"
    device: Device = "auto"
    backend: str = "auto"
    layout: TurnLayout = "as_generated"
    thoughts: Thoughts | None = None
    profile: ProfileKind | None = None
    profile_bytes: int = PROFILE_BYTES
    sources: SourceUnit | None = None
    check: bool = True
    share_prefixes: bool = True
    layerwise: bool = False

    def __post_init__(self) -> None:
        check_definition(self.definition)
        check_backend(self.backend)

    def settings(self) -> dict[str, Any]:
        """Return the options that scores depend on, as the settings of a run.

        Those that runs of earlier versions do not have are left out if they are the usual ones, so
        that such a run goes on.
        """
        without_effect = ("check", "profile_bytes")
        later: dict[str, Any] = {
            "layout": "as_generated",
            "thoughts": None,
            "profile": None,
            "sources": None,
            "share_prefixes": True,
            "layerwise": False,
        }
        found = {
            one.name: getattr(self, one.name)
            for one in fields(self)
            if one.name not in without_effect
            and (one.name not in later or getattr(self, one.name) != later[one.name])
        }
        return {**found, "strategies": dict(self.strategies)}
