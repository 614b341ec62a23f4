"""Join training examples into a batch: packed into one row, or padded to a row each.

A packed row needs no padding and no mask: ``position_ids`` that start anew tell where an example
begins, and attention stays within it. ``why_not_packed`` says for which models that is exact.
Batches of either kind carry the masks from which SRA is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sra_fast.measure.batch_keys import IGNORED_LABEL

_LISTS = ("input_ids", "labels", "strategy_mask", "response_mask")


@dataclass(frozen=True)
class PackingCollator:
    """A collator that packs training examples into a batch of one row, one after the other.

    Calls of the model with such a batch need ``use_cache=False`` (``Trainer`` sees to it).
    """

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Pack examples, as :func:`~sra_fast.training.training_examples` makes them, into one row.

        Args:
            examples: mappings that have ``input_ids``, ``labels``, ``strategy_mask``,
                ``response_mask`` (lists, arrays or tensors of one length) and ``strategy``; other
                columns are left out.

        Returns:
            ``[1, T]`` each: ``input_ids``, ``position_ids`` (from 0 in every example) and
            ``labels`` (-100 at the first token of every example, so that no loss crosses a border)
            int64, ``strategy_mask`` bool, ``response_mask`` int32 (k at the tokens of the row's
            k-th response, else 0). And ``strategies``, a list of str, one for each response.

        Raises:
            KeyError: a column is missing.
            ValueError: there is no example, or one has columns of several lengths or no response.
        """
        parts = _read(examples)
        count = 0
        for part in parts:
            here = part["response_mask"]
            part["response_mask"] = here + count * (here > 0).int()
            count += int(here.max())
        positions = torch.cat([torch.arange(len(part["input_ids"])) for part in parts])
        batch: dict[str, Any] = {
            name: torch.cat([part[name] for part in parts])[None] for name in _LISTS
        }
        return {**batch, "position_ids": positions[None], "strategies": _strategies(parts)}


@dataclass(frozen=True)
class PaddingCollator:
    """A collator that pads examples on the right, one per row, for models that cannot pack exactly.

    Attributes:
        pad_token_id: the token id to pad with; it is masked.
    """

    pad_token_id: int = 0

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Pad examples to one length; arguments and errors are as in :class:`PackingCollator`.

        Returns:
            As there, but ``[B, T]`` each, with ``attention_mask`` int64 in place of
            ``position_ids``, and responses numbered from 1 in every row.
        """
        parts = _read(examples)
        batch: dict[str, Any] = {
            name: torch.nn.utils.rnn.pad_sequence(
                [part[name] for part in parts], batch_first=True, padding_value=padding
            )
            for name, padding in zip(_LISTS, (self.pad_token_id, IGNORED_LABEL, 0, 0), strict=True)
        }
        lengths = torch.tensor([len(part["input_ids"]) for part in parts])
        inside = torch.arange(int(lengths.max())) < lengths[:, None]
        return {**batch, "attention_mask": inside.long(), "strategies": _strategies(parts)}


def _read(examples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Read the columns of examples as tensors ``[T]``, and number each one's responses from 1."""
    if not examples:
        raise ValueError("there is no example to make a batch of; give at least one")
    return [_tensors(example, index) for index, example in enumerate(examples)]


def _tensors(example: Mapping[str, Any], index: int) -> dict[str, Any]:
    missing = [name for name in (*_LISTS, "strategy") if name not in example]
    if missing:
        raise KeyError(
            f"example {index} has no {', '.join(missing)}; sra_fast.training.training_examples "
            "makes these columns, and TrainingArguments(remove_unused_columns=False) keeps them"
        )
    ids, labels, span, responses = (torch.as_tensor(example[name]).long() for name in _LISTS)
    lengths = [len(column) for column in (ids, labels, span, responses)]
    if len(set(lengths)) > 1:
        given = ", ".join(f"{n} {length}" for n, length in zip(_LISTS, lengths, strict=True))
        raise ValueError(f"example {index}: the columns differ in length: {given}")
    numbers = responses.unique()
    numbers = numbers[numbers > 0]
    if not len(numbers):
        raise ValueError(f"example {index}: response_mask marks no token")
    labels = labels.clone()
    labels[0] = IGNORED_LABEL
    # At the tokens of a response: 1 + the place of its number among the numbers above 0.
    ranked = (torch.searchsorted(numbers, responses) + 1) * (responses > 0)
    return {
        "input_ids": ids,
        "labels": labels,
        "strategy_mask": span.bool(),
        "response_mask": ranked.int(),
        "strategies": [str(example["strategy"])] * len(numbers),
    }


def _strategies(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    return [name for part in parts for name in part["strategies"]]
