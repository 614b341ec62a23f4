"""Test which settings of `generate` are served and which are refused, over transformers' list."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import GenerationConfig

from sra_fast.measure.generation_modes import (
    REFUSED,
    GenerationSettings,
    UnservedGenerationError,
)

# Settings that choose tokens, say when to stop or what to keep: the rows are those of any step.
CHOOSE_TOKENS = {
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "top_h",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
    "repetition_penalty",
    "encoder_repetition_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "renormalize_logits",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "remove_invalid_values",
    "exponential_decay_length_penalty",
    "suppress_tokens",
    "begin_suppress_tokens",
    "sequence_bias",
    "watermarking_config",
    "num_return_sequences",
}
STOP = {
    "max_length",
    "max_new_tokens",
    "min_length",
    "min_new_tokens",
    "max_time",
    "stop_strings",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "decoder_start_token_id",
}
KEEP = {
    "output_hidden_states",
    "output_scores",
    "output_logits",
    "return_dict_in_generate",
    "cache_config",  # of a cache that is quantised or offloaded: its places are the same
}
# Settings that do nothing without one that is refused: beams, an assistant, a static cache.
ONLY_WITH_REFUSED_ONES = {
    "early_stopping",
    "length_penalty",
    "diversity_penalty",
    "low_memory",
    "is_assistant",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "assistant_confidence_threshold",
    "max_matching_ngram_size",
    "assistant_lookbehind",
    "target_lookbehind",
    "assistant_ensemble_weight",
    "speculation_type",
    "max_cache_len",
    "compile_config",
    "disable_compile",
    "continuous_batching_config",
}
READ_BY_VALUE = {"output_attentions", "use_cache", "cache_implementation"}
SERVED = CHOOSE_TOKENS | STOP | KEEP | ONLY_WITH_REFUSED_ONES

VALUES: dict[str, Any] = {name: 2 for name, _, _ in REFUSED}
VALUES |= {"assistant_model": object(), "constraints": [object()], "dola_layers": "low"}
VALUES |= {"output_attentions": True, "use_cache": False, "cache_implementation": "static"}


def settings(**given: Any) -> GenerationSettings:
    return GenerationSettings(SimpleNamespace(generation_config=GenerationConfig()), given)


def test_every_setting_of_transformers_is_served_or_refused() -> None:
    """A setting that is new in transformers must be looked at, before it is served by accident."""
    known = SERVED | READ_BY_VALUE | {name for name, _, _ in REFUSED}
    own = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    assert own - known == {"transformers_version"}
    assert not SERVED & ({name for name, _, _ in REFUSED} | READ_BY_VALUE)


@pytest.mark.parametrize("name", VALUES)
def test_a_refused_setting_is_named_with_a_way_out(name: str) -> None:
    with pytest.raises(UnservedGenerationError, match=rf"^{name}\b.* is not recorded; \w+"):
        settings(**{name: VALUES[name]}).check()


@pytest.mark.parametrize(("name", "harmless"), [(name, each) for name, each, _ in REFUSED])
def test_a_value_that_does_nothing_is_served(name: str, harmless: tuple[Any, ...]) -> None:
    for value in harmless:
        settings(**{name: value}).check()


def test_settings_that_are_served_pass() -> None:
    settings(**dict.fromkeys(SERVED, 1), use_cache=True, cache_implementation="dynamic").check()
