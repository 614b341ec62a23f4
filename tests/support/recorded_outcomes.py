"""Hold what is recorded of a family's `generate` against its own eager maps, step by step."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

import sra_fast
from family_outcomes import SPAN, WRITTEN_OUT, own_maps
from shrunken_families import TEXT_TOKENS, shrunken
from sra_fast.measure.served import serve

TOLERANCE = 1e-5
LENGTHS, NEW = (24, 19), 4

RecordedEnd = Literal["equal", "equal but for score", "does not generate", "wrong"]


@dataclass(frozen=True)
class RecordedOutcome:
    """The outcome of recording a family's `generate`.

    Attributes:
        end: what became of it; "equal but for score" where the family's own `generate` computes
            other maps than its own forward pass over the same ids, so that `score` does too.
        detail: the error with which the family itself does not generate; what is wrong; or how
            many layers were compared.
        difference: the largest difference of a mass from the model's own maps.
        from_score: the largest difference of a reply's masses from `score` of the same ids.
    """

    end: RecordedEnd
    detail: str
    difference: float = 0.0
    from_score: float = 0.0


def prompts() -> dict[str, Tensor]:
    """Make two prompts of different lengths, padded on the left, each with a span."""
    shape = (len(LENGTHS), max(LENGTHS))
    batch = {
        "input_ids": torch.zeros(shape, dtype=torch.int64),
        "attention_mask": torch.zeros(shape, dtype=torch.int64),
        "strategy_mask": torch.zeros(shape, dtype=torch.bool),
    }
    generator = torch.Generator().manual_seed(0)
    for row, length in enumerate(LENGTHS):
        first = shape[1] - length
        tokens = torch.randint(TEXT_TOKENS.start, TEXT_TOKENS.stop, (length,), generator=generator)
        batch["input_ids"][row, first:] = tokens
        batch["attention_mask"][row, first:] = 1
        batch["strategy_mask"][row, [first + at for at in SPAN]] = True
    return batch


def recorded_outcome(kind: str, model_type: str) -> RecordedOutcome:
    """Build a family's tiny model, let it generate, and compare."""
    model, batch = shrunken(kind, model_type), prompts()
    arguments: dict[str, Any] = dict(
        max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, pad_token_id=0
    )
    try:
        own, ids = own_steps(model, batch, **arguments)
    except Exception as error:
        return RecordedOutcome("does not generate", f"{type(error).__name__}: {error}"[:120])
    try:
        replies = sra_fast.generate(model, batch, keep_rows=True, **arguments)
    except Exception as error:
        return RecordedOutcome("wrong", f"is not recorded: {type(error).__name__}: {error}")
    if not torch.equal(replies.sequences, ids):
        return RecordedOutcome("wrong", "it generates other tokens")
    maps = [[one[layer] for layer in _chosen(one, replies.layers)] for one in own]
    wanted = torch.stack(
        [_of_span(maps, row, length) for row, length in enumerate(LENGTHS)]
    )  # [S, n, L, H]
    found = torch.stack(replies.masses)[..., 0].double()
    difference = float((found - wanted).abs().max())
    if not difference < TOLERANCE:
        return RecordedOutcome("wrong", f"differs by {difference:.1e}", difference)
    scored, layers = _scored(model, batch, replies), f"{len(replies.layers)} layers"
    ours = torch.stack([replies.scored.rows(row) for row in range(len(LENGTHS))])
    apart = float((ours - scored).abs().max())
    if apart < TOLERANCE:
        return RecordedOutcome("equal", layers, difference, apart)
    in_one_pass = _in_one_pass(model, batch, replies)
    predicting = scored[:, :, :-1, :, 0].transpose(1, 2)
    if float((predicting - in_one_pass).abs().max()) < TOLERANCE and not torch.allclose(
        in_one_pass, wanted, atol=TOLERANCE, rtol=0
    ):
        return RecordedOutcome("equal but for score", layers, difference, apart)
    return RecordedOutcome("wrong", f"differs by {apart:.1e} from score", difference, apart)


def own_steps(model: Any, batch: dict[str, Tensor], **arguments: Any) -> tuple[list[Any], Tensor]:
    """Return the maps of each step of a model's own eager `generate`, and the sequences.

    Eager attention of some families leaves its sinks out of the maps that it gives away: there the
    softmax is written out.
    """
    own = copy.deepcopy(model)
    sinks = any(name.endswith("sinks") for name, _ in serve(own).decoder.named_parameters())
    own.set_attn_implementation("eager")
    given = {name: batch[name] for name in ("input_ids", "attention_mask")}
    asked = dict(output_attentions=True, return_dict_in_generate=True, **arguments)
    out = own.generate(**given, **asked)
    if sinks and all(abs(float(one.sum(-1).max()) - 1) < 1e-3 for one in out.attentions[0]):
        own.set_attn_implementation(WRITTEN_OUT)
        out = own.generate(**given, **asked)
    return [[one for one in step if one is not None] for step in out.attentions], out.sequences


def _chosen(maps: list[Tensor], layers: tuple[int, ...]) -> list[int]:
    """Return which maps are those of the layers: layers with linear attention give some, too."""
    return list(range(len(maps))) if len(maps) == len(layers) else list(layers)


def _of_span(maps: list[list[Tensor]], row: int, length: int) -> Tensor:
    """Return the mass of the last row of each step's maps ``[S, H, M, N]`` on the span, [n, L, H].

    A layer's cache may hold only the last keys, so keys are counted from the end.
    """
    found = []
    first = max(LENGTHS) - length + SPAN.start
    for step, layers in enumerate(maps):
        for one in layers:
            unseen = max(LENGTHS) + step - one.shape[-1]
            low, high = (max(0, at - unseen) for at in (first, first + len(SPAN)))
            found.append(one[row, :, -1, low:high].double().sum(-1))
    return torch.stack(found).unflatten(0, (len(maps), -1))


def _in_one_pass(model: Any, batch: dict[str, Tensor], replies: Any) -> Tensor:
    """Return the same masses from one eager pass of the model's own over each sequence."""
    found = []
    for row, length in enumerate(LENGTHS):
        ids = replies.sequences[row : row + 1, max(LENGTHS) - length :]
        rows = own_maps(model, ids, replies.layers)[:, :, length - 1 : length - 1 + NEW]
        found.append(rows[..., list(SPAN)].sum(-1).permute(2, 0, 1))
    return torch.stack(found)


def _scored(model: Any, batch: dict[str, Tensor], replies: Any) -> Tensor:
    """Return the masses of the replies' rows by `score` of the same ids, `[S, L, n + 1, H, G]`."""
    more = replies.sequences.shape[1] - batch["input_ids"].shape[1]
    whole = {name: torch.nn.functional.pad(each, (0, more)) for name, each in batch.items()}
    whole["attention_mask"][:, -more:] = 1
    whole["input_ids"] = replies.sequences
    whole["response_mask"] = torch.zeros_like(whole["strategy_mask"])
    whole["response_mask"][:, -more:] = True
    found = sra_fast.score(model, whole, keep_rows=True)
    return torch.stack([found.rows(row) for row in range(len(LENGTHS))])
