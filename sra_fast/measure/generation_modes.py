"""Read what a call of ``generate`` asks for, and refuse by name what cannot be recorded.

A setting is the argument of the call, else that of the given ``generation_config``, else that of
the model's own, as transformers takes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any, NoReturn

import torch
from transformers import StaticCache

_BEAMS = "beam search, whose sequences change places,"
_ASSISTED = "assisted decoding, whose forward passes hold guesses,"
_GUIDED = "guidance, which calls the model again in each step,"
_PAGED = "continuous batching, whose cache is paged,"
_STATIC_WORDS = ("static", "hybrid")
_DYNAMIC = "leave it out, and the cache is a dynamic one"

_UNSET = (None, False)
REFUSED: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("num_beams", (None, 1), _BEAMS),
    ("num_beam_groups", (None, 1), _BEAMS),
    ("constraints", _UNSET, _BEAMS),
    ("force_words_ids", _UNSET, _BEAMS),
    ("assistant_model", _UNSET, _ASSISTED),
    ("prompt_lookup_num_tokens", _UNSET, _ASSISTED),
    ("assistant_early_exit", _UNSET, _ASSISTED),
    ("use_mtp", _UNSET, _ASSISTED),
    ("guidance_scale", (None, 1, 1.0), _GUIDED),
    ("negative_prompt_ids", _UNSET, _GUIDED),
    ("prefill_chunk_size", _UNSET, "a prompt in chunks"),
    ("penalty_alpha", (None, 0, 0.0), "contrastive search"),
    ("dola_layers", _UNSET, "DoLa decoding"),
    ("custom_generate", _UNSET, "another decoding loop than transformers' own"),
    ("token_healing", _UNSET, "token healing, which changes the prompt,"),
)
"""Each setting, the values under which it does nothing, and what it asks for otherwise."""


class UnservedGenerationError(ValueError):
    """Raised when a call of ``generate`` asks for what cannot be recorded; it is named."""


class GenerationSettings:
    """The settings of one call of ``generate``.

    Args:
        model: the model that generates.
        given: the call's arguments by name.
    """

    def __init__(self, model: Any, given: Mapping[str, Any]) -> None:
        self._model = model
        self._given = given

    def value(self, name: str) -> Any:
        """Return a setting of the call; None if nobody set it, or the call switches it off."""
        if name in self._given:
            return self._given[name]
        found = None
        for config in (self._given.get("generation_config"), self._model.generation_config):
            if found is None:
                found = getattr(config, name, None)
        return found

    def check(self) -> None:
        """Refuse what cannot be recorded.

        Raises:
            UnservedGenerationError: the call asks for it.
        """
        for name, harmless, what in REFUSED:
            value = self.value(name)
            if not any(value is each or (_is_number(value) and value == each) for each in harmless):
                _refuse(name, value, what)
        if self.value("output_attentions"):
            _refuse("output_attentions", True, "a map of attention", "ask for a profile")
        cached = self.value("use_cache")
        if cached is not None and not cached:
            _refuse("use_cache", cached, "a step without a cache, which computes every row again,")
        cache = self._given.get("past_key_values")
        if isinstance(cache, StaticCache):
            _refuse(
                "past_key_values", type(cache).__name__, "a static cache", "give a DynamicCache"
            )
        kind = self.value("cache_implementation")
        if kind == "paged":
            _refuse("cache_implementation", kind, _PAGED, _DYNAMIC)
        if isinstance(kind, str) and any(word in kind for word in _STATIC_WORDS):
            _refuse("cache_implementation", kind, "a static cache", _DYNAMIC)

    def sequences_of_each(self) -> int:
        """Return how many sequences each prompt gets."""
        return int(self.value("num_return_sequences") or 1)

    def most_new_tokens(self, prompt: int) -> int:
        """Return how many tokens may come after a prompt of so many, padding included."""
        most = self.value("max_new_tokens")
        if most is not None:
            return int(most)
        longest = self.value("max_length")
        return 20 if longest is None else max(1, int(longest) - prompt)

    def end_markers(self) -> torch.Tensor:
        """Return the token ids that end a sequence, ``[e]`` int64."""
        ids: Any = self.value("eos_token_id")
        for criterion in self._given.get("stopping_criteria") or ():
            ids = getattr(criterion, "eos_token_id", ids)  # it replaces transformers' own
        return torch.as_tensor([] if ids is None else ids, dtype=torch.int64).cpu().flatten()


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)  # NumPy's too


def _refuse(
    name: str,
    value: Any,
    what: str,
    way_out: str = "leave it out, or generate unrecorded and score the sequences afterwards",
) -> NoReturn:
    shown = f"={value!r}" if isinstance(value, (bool, int, float, str)) else ""
    raise UnservedGenerationError(f"{name}{shown}: {what} is not recorded; {way_out}")
