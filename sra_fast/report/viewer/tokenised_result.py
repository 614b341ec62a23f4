"""Give the page what it needs of a result: the texts of its tokens, its messages, its ranges."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sra_fast.report.viewer.token_pieces import pieces_of_ids
from sra_fast.report.viewer.viewed_conversation import TokenRange, ViewError
from sra_fast.report.viewer.viewed_result import NoProfileError
from sra_fast.result import SRAResult
from sra_fast.result_tensors import part

# What a message is called as a source, and a sentence of one.
_MESSAGE = re.compile(r"message (?P<number>\d+) \((?P<role>.+?)\)(?P<sentence>, sentence \d+)?")


class TokenisedResult:
    """A result with profiles, and the tokenizer whose tokens they are over.

    Args:
        result: the result.
        tokenizer: the tokenizer that the responses were scored with.

    Raises:
        NoProfileError: the result was scored without profiles.
        ViewError: it has tokens that the tokenizer does not have, so it is another model's.
    """

    def __init__(self, result: SRAResult, tokenizer: Any) -> None:
        if result.profiles is None or result.response_ranges is None:
            raise NoProfileError(
                "the result was scored without profiles, which say how much attention every token "
                "gets; score again with profile='mean'"
            )
        ids = result.profile_tokens
        if ids is not None and len(ids) and int(ids.max()) >= len(tokenizer):
            raise ViewError(
                f"the result has token {int(ids.max())}, and the tokenizer only {len(tokenizer)} "
                "tokens; give the tokenizer of the model that was scored"
            )
        self._result = result
        self._tokenizer = tokenizer
        self._pieces: dict[int, tuple[str, ...]] = {}
        self.definition = result.definition
        self.spans, self.names, self.layers = result.spans, result.names, result.layers
        self.by_layer, self.mass = result.by_layer, result.mass
        self.conversation, self.turn = result.conversation, result.turn
        self.scores = result.scores

    def __len__(self) -> int:
        return len(self._result)

    def prompts(self) -> Sequence[Sequence[int]]:
        """Return the responses of each prompt: those of a conversation that share their tokens."""
        return list(dict.fromkeys(self._prompt_of.values()))

    def profile(self, i: int) -> Tensor:
        """Return the attention on every token: ``[T_i]``, ``[L, T_i]`` or ``[L, H, T_i]``."""
        return self._result.profile(i)

    def tokens(self, i: int) -> tuple[str, ...] | None:
        """Return the pieces of the tokens up to the response's last one, or None without ids."""
        if self._result.profile_tokens is None:
            return None
        ids = self._result.token_ids(i)
        longest = self._longest(i)
        if longest not in self._pieces:
            whole = self._result.token_ids(longest).tolist()
            self._pieces[longest] = pieces_of_ids(self._decoded, whole)
        return self._pieces[longest][: len(ids)]

    def response(self, i: int) -> TokenRange:
        """Return the tokens of the response, from its first to the one after its last.

        Tokens are kept up to the last row, so those behind it are left out: under other rows than
        the response's own the last one is, or all are.
        """
        assert self._result.response_ranges is not None
        known = len(self._result.token_ids(self._longest(i)))
        start, end = self._result.response_ranges[i].clamp(max=known).tolist()
        return start, end

    def messages(self, i: int) -> Sequence[tuple[str, int, int]] | None:
        """Return role, start and end of every message; None if the sources do not tell them.

        Sources that are messages do, and so do sentences of messages: a message goes from its first
        sentence to its last, but for a reply between them.
        """
        sources = self._all_sources(i)
        matches = [_MESSAGE.fullmatch(name) for name in sources]
        if not matches or None in matches:
            return None
        parts = [
            (*at, match["role"], match["number"])
            for match, ranges in zip(matches, sources.values(), strict=True)
            for at in ranges
            if match
        ]
        known, last = len(self._result.token_ids(i)), 0
        for start, end in sorted({self.response(other) for other in self._prompt_of[i]}):
            if end <= known:  # one that begins within another has what is left of it
                parts.append((max(last, start), max(last, end), "assistant", ""))
                last = parts[-1][1]
        found: list[tuple[str, int, int]] = []
        before = ""
        for start, end, role, number in sorted(parts):
            if number and number == before:
                found[-1] = (role, found[-1][1], end)
            else:
                found.append((role, start, end))
            before = number
        return found

    def span_ranges(self, i: int) -> Mapping[str, Sequence[TokenRange]]:
        """Return the token ranges of each span."""
        if self._result.profile_spans is None:
            return {}
        assert self._result.profile_counts is not None
        bits = self._result.profile_spans[part(self._result.profile_counts, i)]
        return {name: _runs((bits >> p) & 1) for p, name in enumerate(self.spans)}

    def source_ranges(self, i: int) -> Mapping[str, Sequence[TokenRange]]:
        """Return the token ranges of each source; none if they are whole messages."""
        sources = self._all_sources(i)
        matches = [_MESSAGE.fullmatch(name) for name in sources]
        whole = all(match and not match["sentence"] for match in matches)
        return {} if whole else sources

    def _all_sources(self, i: int) -> dict[str, tuple[TokenRange, ...]]:
        if self._result.profile_sources is None:
            return {}
        numbers = self._result.source_ids(i)
        names = self._result.source_names[i]
        return {name: _runs(numbers == number) for number, name in enumerate(names, 1)}

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(
            self._tokenizer.decode(
                list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    @functools.cached_property
    def _prompt_of(self) -> dict[int, tuple[int, ...]]:
        """The responses of the prompt that each response stands in, prompt by prompt.

        Two responses of a conversation share a prompt if their tokens are the same as far as both
        go. Without token ids each has a prompt of its own.
        """
        if self._result.profile_tokens is None:
            return {i: (i,) for i in range(len(self))}
        prompts: dict[int, list[tuple[Tensor, list[int]]]] = {}
        for i, number in enumerate(self.conversation.tolist()):
            ids = self._result.token_ids(i)
            own = prompts.setdefault(number, [])
            for place, (known, members) in enumerate(own):
                shorter = min(len(known), len(ids))
                if torch.equal(known[:shorter], ids[:shorter]):
                    own[place] = (max(known, ids, key=len), [*members, i])
                    break
            else:
                own.append((ids, [i]))
        groups = [tuple(members) for own in prompts.values() for _, members in own]
        return {i: members for members in groups for i in members}

    def _longest(self, i: int) -> int:
        """Return the response that has the most tokens of those that share a prompt with ``i``."""
        return max(self._prompt_of[i], key=lambda other: len(self._result.token_ids(other)))


def _runs(marked: Tensor) -> tuple[TokenRange, ...]:
    """Return the ranges of a mask ``[T]``."""
    edges = torch.nn.functional.pad(marked.to(torch.int8), (1, 1)).diff().nonzero().flatten()
    ends = edges.tolist()
    return tuple(zip(ends[::2], ends[1::2], strict=True))
