"""Show a result as tables: one line per response, or one per source of a response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from sra_fast.tools.counted import counted
from sra_fast.tools.missing_extra import needed

if TYPE_CHECKING:
    import pandas

    from sra_fast.result import SRAResult


def response_table(result: SRAResult, meta: Sequence[Mapping[str, Any]]) -> pandas.DataFrame:
    """Return the table of :meth:`sra_fast.SRAResult.to_pandas`, one line per response.

    Raises:
        ValueError: a response is of a conversation that ``meta`` does not reach.
    """
    with needed("cli", "pandas"):
        import pandas

    columns: dict[str, Any] = {
        "conversation": result.conversation.numpy(),
        **({"conversation_id": list(result.conversation_ids)} if result.conversation_ids else {}),
        "turn": result.turn.numpy(),
        "response_tokens": result.response_tokens.numpy(),
    }
    if result.as_written is not None:
        names = ("as_generated", "as_written")
        columns["layout"] = [names[int(one)] for one in result.as_written]
    for index, span in enumerate(result.spans):
        prefix = "" if index == 0 else f"{span}/"
        columns[f"{prefix}span_tokens"] = result.span_tokens[:, index].numpy()
        for name in result.by_layer:
            columns[f"{prefix}{name}"] = result.score(name, span).numpy()
    places = result.conversation.tolist()
    if meta and max(places, default=0) >= len(meta):
        raise ValueError(
            f"meta is of {counted(len(meta), 'conversation')}, and the result has number "
            f"{max(places)}, counted from 0; give that of all conversations, in the order they "
            "were encoded in"
        )
    known = [meta[place] for place in places] if meta else result.meta
    for name in dict.fromkeys(name for one in meta or result.meta for name in one):
        columns[f"meta/{name}"] = [one.get(name) for one in known]
    table: pandas.DataFrame = pandas.DataFrame(columns)
    table.attrs["checked"] = result.checked
    return table


def source_table(result: SRAResult, i: int, tokenizer: Any | None) -> pandas.DataFrame:
    """Return the table of :meth:`sra_fast.SRAResult.sources`, one line per source of response i.

    Raises:
        TypeError: the tokenizer decodes nothing.
        ValueError: there are no sources, no profile was asked for, or there are no token ids.
        IndexError: no such response.
    """
    with needed("cli", "pandas"):
        import pandas

    if tokenizer is not None and not callable(getattr(tokenizer, "decode", None)):
        raise TypeError(f"tokenizer: expected the tokenizer of the model, got {tokenizer!r}")
    numbers = result.source_ids(i).long()  # it says what is missing, if something is
    names = result.source_names[i]
    profile = result.profile(i)
    by_token = profile.reshape(-1, profile.shape[-1]).double().mean(dim=0)
    none = by_token.new_zeros(len(names) + 1)
    counts = torch.bincount(numbers, minlength=len(names) + 1)[1:]
    mass = none.index_add(0, numbers, by_token)[1:]
    largest = none.scatter_reduce(0, numbers, by_token, "amax")[1:]
    columns: dict[str, Any] = {
        "source": list(names),
        "tokens": counts.numpy(),
        "source_mass": mass.numpy(),
        "mass_per_token": (mass / counts).numpy(),
        "largest_token": largest.numpy(),
    }
    if tokenizer is not None:
        ids = result.token_ids(i)
        columns["text"] = [
            tokenizer.decode(ids[numbers == number].tolist()) for number in range(1, len(names) + 1)
        ]
    table: pandas.DataFrame = pandas.DataFrame(columns)
    ordered: pandas.DataFrame = table.sort_values(
        "source_mass", ascending=False, kind="stable", ignore_index=True
    )
    return ordered
