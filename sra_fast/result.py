"""The result of a score: one entry per response, every definition, and the masses behind them."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sra_fast.definitions import DEFINITIONS
from sra_fast.tools.atomic import replaced_atomically
from sra_fast.tools.missing_extra import needed
from sra_fast.tools.suggestions import did_you_mean

if TYPE_CHECKING:
    import pandas

_FORMAT = "sra_fast.SRAResult/1"
PASSED = "passed"
SKIPPED = "skipped: "
UNCHECKED = f"{SKIPPED}measured without a self-check"


@dataclass(frozen=True, eq=False)
class SRAResult:
    """The Strategy Relevant Attention of ``n`` responses, under every definition.

    Compare two results with ``torch.equal`` per field.

    Attributes:
        definition: the definition that :attr:`sra` gives.
        spans: names of the P spans scored; :attr:`sra` and :attr:`scores` are of the first.
        by_layer: per definition, float32 ``[n, P, L]``; every score is its mean over layers.
        mass: float32 ``[n, L, H, G]``, mean over the response's own rows of the share of attention
            on each of the G key sets :attr:`names`.
        names: names of the G key sets: each span, each span without its last token, and key 0
            ("null").
        layers: the ``layer_idx`` of the L attention layers.
        conversation: int64 ``[n]``, index of the conversation (of the batch row, if none is given).
        turn: int64 ``[n]``, number of the reply among its conversation's assistant messages.
        response_tokens: int64 ``[n]``, number of tokens of each response.
        as_written: bool ``[n]``, whether the chat template writes the prompt of a response unlike
            when it was the last reply, because later turns stand in it (layout "as_written" of
            :func:`sra_fast.encode`); None if the batch does not say.
        span_tokens: int64 ``[n, P]``, number of tokens of each span.
        row_masses: float32 ``[ΣR_i, L, H, G]`` if the rows were kept, else None; see :meth:`rows`.
        row_counts: int64 ``[n]``, the ``R_i``, if the rows were kept, else None.
        by_head: float32 ``[n, L, H, P]``, the authors' share of each head: its attention on a span
            without the last token, divided by what key 0 and the sinks leave, then the mean over
            the predicting rows. Its mean over heads is not ``reference``, which divides means over
            heads. None in files of earlier versions.
        profiles: float32 ``[ΣT_i]``, ``[ΣT_i, L]`` or ``[ΣT_i, L, H]`` if a profile was asked for,
            else None; see :meth:`profile`.
        profile_counts: int64 ``[n]``, the ``T_i`` of the profiles: how many tokens there are from
            the beginning of the sequence to the last row.
        profile_tokens: int32 ``[ΣT_i]``, the ids of these tokens; None without token ids.
        profile_spans: int32 ``[ΣT_i]``, bit p set at the tokens of the p-th span.
        response_ranges: int64 ``[n, 2]``, the first token of each response in its sequence, and the
            one after its last; only with profiles.
        profile_sources: int32 ``[ΣT_i]``, the number of each token's source, 0 for none; None
            without sources.
        source_names: for each response, the names of its sources; see :meth:`sources`.
        checked: "passed" if the masses of the model were compared with its own eager attention
            on a few tokens (:mod:`sra_fast.measure.self_check`), else "skipped: " and why;
            separated by semicolons where results were joined that differ in this.
    """

    definition: str
    spans: tuple[str, ...]
    by_layer: dict[str, Tensor]
    mass: Tensor
    names: tuple[str, ...]
    layers: tuple[int, ...]
    conversation: Tensor
    turn: Tensor
    response_tokens: Tensor
    span_tokens: Tensor
    as_written: Tensor | None = None
    row_masses: Tensor | None = None
    row_counts: Tensor | None = None
    by_head: Tensor | None = None
    profiles: Tensor | None = None
    profile_counts: Tensor | None = None
    profile_tokens: Tensor | None = None
    profile_spans: Tensor | None = None
    profile_sources: Tensor | None = None
    response_ranges: Tensor | None = None
    source_names: tuple[tuple[str, ...], ...] = ()
    checked: str = UNCHECKED

    def __len__(self) -> int:
        return len(self.turn)

    def __repr__(self) -> str:
        return (
            f"SRAResult({len(self)} responses, {len(self.layers)} layers, "
            f"definition={self.definition!r}, mean {self.sra.nanmean().item():.6g})"
        )

    @property
    def sra(self) -> Tensor:
        """The score of each response on the first span, under :attr:`definition`: ``[n]``."""
        return self.scores[self.definition]

    @property
    def scores(self) -> dict[str, Tensor]:
        """The scores of all responses on the first span, per definition: float32 ``[n]`` each."""
        return {name: self.score(name) for name in self.by_layer}

    def score(self, definition: str | None = None, span: str | None = None) -> Tensor:
        """Return the score of each response, float32 ``[n]``, under one definition and on one span.

        NaN where a definition leaves nothing to average: a span with no token, or, under
        ``reference`` and ``table1``, with a single one.

        Args:
            definition: name of the definition; :attr:`definition` if None.
            span: name of the span; the first if None.

        Raises:
            KeyError: nothing was scored under this definition, or no such span.
        """
        name = definition or self.definition
        if name not in self.by_layer:
            raise KeyError(
                f"no definition {name!r}; there are {', '.join(self.by_layer)}"
                f"{did_you_mean(name, self.by_layer)}"
            )
        if span is not None and span not in self.spans:
            raise KeyError(f"no span {span!r}; there are {', '.join(self.spans)}")
        index = 0 if span is None else self.spans.index(span)
        return self.by_layer[name][:, index].double().mean(dim=1).float()

    def rows(self, i: int) -> Tensor:
        """Return the masses of each row of response ``i``: float32 ``[L, R_i, H, G]``.

        Its rows are its tokens and the position before each: for a response without gaps, the
        position that predicts its first token, then its tokens in order.

        Raises:
            ValueError: the rows were not kept.
            IndexError: no such response.
        """
        if self.row_masses is None or self.row_counts is None:
            raise ValueError("the rows were not kept; call score with keep_rows=True to keep them")
        return self.row_masses[self._part(self.row_counts, i)].transpose(0, 1)

    def profile(self, i: int) -> Tensor:
        """Return the mean attention of response ``i``'s rows on every token up to its last row.

        Returns:
            float32 ``[T_i]``, ``[L, T_i]`` or ``[L, H, T_i]``, as ``profile`` of
            :func:`sra_fast.score` said. Over the tokens it sums to 1 less the sinks' share.

        Raises:
            ValueError: no profile was asked for.
            IndexError: no such response.
        """
        found = self._profiles()[self._part(self.profile_counts, i)]
        return found.permute(*range(1, found.ndim), 0)

    def token_ids(self, i: int) -> Tensor:
        """Return the ids of the tokens that :meth:`profile` of response ``i`` is over, ``[T_i]``.

        Raises:
            ValueError: no profile was asked for, or the batch had embeddings instead of tokens.
            IndexError: no such response.
        """
        self._profiles()
        if self.profile_tokens is None:
            raise ValueError("the batch had `inputs_embeds` and no token ids")
        return self.profile_tokens[self._part(self.profile_counts, i)]

    def source_masses(self, i: int) -> Tensor:
        """Return what response ``i`` pays to each source: the sum of its profile over the tokens.

        Returns:
            float32 ``[S]``, ``[L, S]`` or ``[L, H, S]``, in the order of ``source_names[i]``.

        Raises:
            ValueError: there are no sources, or no profile was asked for.
            IndexError: no such response.
        """
        numbers = self._source_ids(i).long()
        profile = self.profile(i).double()
        sums = profile.new_zeros(*profile.shape[:-1], len(self.source_names[i]) + 1)
        return sums.index_add_(-1, numbers, profile)[..., 1:].float()

    def sources(self, i: int) -> pandas.DataFrame:
        """Return a table with one line per source of response ``i``, the largest mass first.

        Its columns are ``source``, ``tokens``, ``mass`` (the share of attention that the response
        pays to the source, as a mean over layers and heads) and ``mass_per_token``.
        :meth:`source_masses` has the masses by layer and head.

        Raises:
            ValueError: there are no sources, or no profile was asked for.
            IndexError: no such response.
        """
        with needed("cli", "pandas"):
            import pandas

        names = self.source_names[i] if self.source_names else ()
        counts = torch.bincount(self._source_ids(i).long(), minlength=len(names) + 1)[1:]
        masses = self.source_masses(i)
        mass = masses.reshape(-1, len(names)).double().mean(dim=0)
        table: pandas.DataFrame = pandas.DataFrame(
            {
                "source": list(names),
                "tokens": counts.numpy(),
                "mass": mass.numpy(),
                "mass_per_token": (mass / counts).numpy(),
            }
        )
        ordered: pandas.DataFrame = table.sort_values(
            "mass", ascending=False, kind="stable", ignore_index=True
        )
        return ordered

    def show(self, tokenizer: Any, *, height: int = 720) -> Any:
        """Return a page that shows in a notebook what each response attends to.

        Args:
            tokenizer: the tokenizer whose tokens were scored.
            height: height of the page in pixels.

        Raises:
            ValueError: no profile was asked for, or the batch had embeddings instead of tokens.
        """
        # The viewer is made of results, so it is found when it is asked for.
        viewer = importlib.import_module("sra_fast.report.viewer.notebook_page")
        return viewer.result_page(self, tokenizer, height=height)

    def _profiles(self) -> Tensor:
        if self.profiles is None:
            raise ValueError(
                'there are no profiles; call score with profile="mean", "layers" or "heads"'
            )
        return self.profiles

    def _source_ids(self, i: int) -> Tensor:
        self._profiles()
        if self.profile_sources is None:
            raise ValueError(
                "there are no sources; give the batch `source_ids`, or mark it with sources="
            )
        return self.profile_sources[self._part(self.profile_counts, i)]

    def _part(self, counts: Tensor | None, i: int) -> slice:
        """Return where the part of response ``i`` lies, given how long each one's is."""
        if counts is None or not -len(self) <= i < len(self):
            raise IndexError(
                f"there is no response {i}; the result has {len(self)}, which are numbered from 0"
            )
        end = int(counts[: i % len(self) + 1].sum())
        return slice(end - int(counts[i]), end)

    def take(self, indices: Sequence[int]) -> SRAResult:
        """Return a result with the responses at ``indices``, in that order."""
        at = torch.tensor(list(indices), dtype=torch.int64)
        if torch.equal(at, torch.arange(len(self))):
            return self
        changed: dict[str, Any] = {
            name: getattr(self, name)[at]
            for name in _TENSORS
            if name not in _IN_PARTS and getattr(self, name) is not None
        }
        for name, counts in _IN_PARTS.items():
            whole = getattr(self, name)
            if whole is not None:
                parts = [whole[self._part(getattr(self, counts), i)] for i in at.tolist()]
                changed[name] = torch.cat(parts) if parts else whole[:0]
        if self.source_names:
            changed["source_names"] = tuple(self.source_names[i] for i in at.tolist())
        changed["by_layer"] = {name: value[at] for name, value in self.by_layer.items()}
        return replace(self, **changed)

    def to_pandas(self, meta: Sequence[Mapping[str, Any]] = ()) -> pandas.DataFrame:
        """Return a table with one line per response: where it is, its sizes, and all its scores.

        Scores on further spans stand in columns ``span/definition``. ``attrs["checked"]`` of the
        table is :attr:`checked`.

        Args:
            meta: what else is known of each conversation, by its index, such as
                ``[one.meta for one in conversations]``; it stands in columns ``meta/name``.

        Raises:
            ValueError: a response is of a conversation that ``meta`` does not reach.
        """
        with needed("cli", "pandas"):
            import pandas

        columns: dict[str, Any] = {
            "conversation": self.conversation.numpy(),
            "turn": self.turn.numpy(),
            "response_tokens": self.response_tokens.numpy(),
        }
        if self.as_written is not None:
            names = ("as_generated", "as_written")
            columns["layout"] = [names[int(one)] for one in self.as_written]
        for index, span in enumerate(self.spans):
            prefix = "" if index == 0 else f"{span}/"
            columns[f"{prefix}span_tokens"] = self.span_tokens[:, index].numpy()
            for name in self.by_layer:
                columns[f"{prefix}{name}"] = self.score(name, span).numpy()
        places = self.conversation.tolist()
        if meta and max(places, default=0) >= len(meta):
            raise ValueError(
                f"meta is of {len(meta)} conversations, and the result has number {max(places)}, "
                "counted from 0; give that of all conversations, in the order they were encoded in"
            )
        for name in dict.fromkeys(name for one in meta for name in one):
            columns[f"meta/{name}"] = [meta[place].get(name) for place in places]
        table: pandas.DataFrame = pandas.DataFrame(columns)
        table.attrs["checked"] = self.checked
        return table

    def save(self, path: str | Path) -> None:
        """Write everything to one safetensors file, whole or not at all.

        Raises:
            OSError: the file cannot be written; the message has the path.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        file = Path(path)
        if file.is_dir():
            raise IsADirectoryError(f"{path}: this is a folder; give the path of a file in it")
        if not file.parent.is_dir():
            raise FileNotFoundError(f"{path}: there is no folder {file.parent}; make it first")
        tensors = {f"by_layer/{name}": value for name, value in self.by_layer.items()}
        for name in _TENSORS:
            value = getattr(self, name)
            if value is not None:
                tensors[name] = value
        kept = ("definition", "spans", "names", "layers", "checked")
        names = {name: getattr(self, name) for name in kept}
        if self.source_names:
            sets = list(dict.fromkeys(self.source_names))
            names["sources"] = sets
            names["source_sets"] = [sets.index(one) for one in self.source_names]
        # One key: safetensors writes several in any order, and equal results are equal files.
        metadata = {"sra_fast": json.dumps({"format": _FORMAT, **names})}
        copies = {
            name: tensor.clone(memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        }
        with replaced_atomically(file) as temporary:
            try:
                save_file(copies, temporary, metadata)
            except SafetensorError as error:  # it names a temporary file, or none
                raise OSError(f"{path}: cannot be written ({error})") from error

    @classmethod
    def load(cls, path: str | Path) -> SRAResult:
        """Read a result from a file that :meth:`save` wrote.

        Scores under definitions of your own are there without their registration.

        Raises:
            ValueError: the file is not a saved result.
            OSError: the file cannot be read; the message has the path.
        """
        from safetensors import SafetensorError, safe_open

        with Path(path).open("rb"):
            pass  # its errors name the path, those of safetensors do not always
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path}: not a safetensors file ({error})") from error
        names = _names_in(metadata)
        if names is None:
            raise ValueError(f"{path}: not a result saved by SRAResult.save")
        saved = {key.removeprefix("by_layer/") for key in tensors if key.startswith("by_layer/")}
        own = sorted(saved - set(DEFINITIONS))
        missing = {*_ALWAYS, *(f"by_layer/{name}" for name in DEFINITIONS)} - tensors.keys()
        if missing:
            raise ValueError(f"{path}: {', '.join(sorted(missing))} is missing")
        problem = _misshapen(tensors, names)
        if problem is not None:
            raise ValueError(f"{path}: {problem}; the file is damaged, so save the result again")
        return cls(
            definition=names["definition"],
            spans=tuple(names["spans"]),
            names=tuple(names["names"]),
            layers=tuple(names["layers"]),
            checked=names.get("checked", UNCHECKED),
            by_layer={name: tensors[f"by_layer/{name}"] for name in (*DEFINITIONS, *own)},
            source_names=_source_names(names),
            **{name: tensors.get(name) for name in _TENSORS},  # type: ignore[arg-type]
        )

    @classmethod
    def concatenate(cls, results: Sequence[SRAResult], *, renumber: bool = False) -> SRAResult:
        """Join several results of one model and the same spans into one, in order.

        Args:
            results: the results, each of other conversations, or of other turns of them.
            renumber: whether to number the conversations of each result on from those of the one
                before it, where each counts from 0 and they are different ones.

        Raises:
            ValueError: there is nothing to join, the results do not belong together, or, without
                ``renumber``, two of them have the same turn of the same conversation.
        """
        if renumber:
            return joined(_renumbered(results))
        whole = joined(results)
        seen: dict[tuple[int, int], int] = {}
        for index, result in enumerate(results):
            for pair in zip(result.conversation.tolist(), result.turn.tolist(), strict=True):
                if seen.setdefault(pair, index) != index:
                    raise ValueError(
                        f"turn {pair[1]} of conversation {pair[0]} is in results {seen[pair]} and "
                        f"{index}, so they cannot be told apart once joined; if these are "
                        "different conversations, give each batch its own numbers in "
                        "`conversation`, or take concatenate(results, renumber=True)"
                    )
        return whole


def joined(results: Sequence[SRAResult]) -> SRAResult:
    """Join results as :meth:`SRAResult.concatenate` does, whatever their conversations are called.

    Raises:
        ValueError: there is nothing to join, or the results do not belong together.
    """
    if not results:
        raise ValueError("no results to join")
    first = results[0]
    for other in results[1:]:
        if (other.layers, other.names) != (first.layers, first.names):
            raise ValueError("results of different models or spans cannot be joined")
        if other.definition != first.definition:
            raise ValueError("results under different definitions cannot be joined")
        if apart := set(other.by_layer) ^ set(first.by_layer):
            raise ValueError(
                f"only some of the results have scores under {', '.join(sorted(apart))}, so "
                "they cannot be joined; register the same definitions for all of them"
            )
        if (other.row_masses is None) != (first.row_masses is None):
            raise ValueError("results with and without their rows cannot be joined")
        if (other.as_written is None) != (first.as_written is None):
            raise ValueError("results with and without a known layout cannot be joined")
        for name in ("by_head", "profiles", "profile_tokens", "profile_sources"):
            ours, theirs = getattr(first, name), getattr(other, name)
            kinds = [None if one is None else one.shape[1:] for one in (ours, theirs)]
            if kinds[0] != kinds[1]:
                raise ValueError(
                    f"only some of the results have {name}, or of another kind, so they cannot be "
                    "joined"
                )

    def together(name: str) -> Tensor | None:
        if getattr(first, name) is None:
            return None
        return torch.cat([getattr(result, name) for result in results])

    changed: dict[str, Any] = {name: together(name) for name in _TENSORS}
    changed["by_layer"] = {
        name: torch.cat([result.by_layer[name] for result in results]) for name in first.by_layer
    }
    changed["source_names"] = tuple(names for result in results for names in result.source_names)
    changed["checked"] = "; ".join(dict.fromkeys(result.checked for result in results))
    return replace(first, **changed)


def _renumbered(results: Sequence[SRAResult]) -> list[SRAResult]:
    """Shift the conversations of each result behind those of the one before it."""
    shifted: list[SRAResult] = []
    following: int | None = None
    for result in results:
        numbers = result.conversation
        if following is not None and len(result):
            numbers = numbers + (following - int(numbers.min()))
        if len(result):
            following = int(numbers.max()) + 1
        shifted.append(replace(result, conversation=numbers))
    return shifted


_ALWAYS = ("mass", "conversation", "turn", "response_tokens", "span_tokens")
_TENSORS = (
    *_ALWAYS,
    "as_written",
    "row_masses",
    "row_counts",
    "by_head",
    "profiles",
    "profile_counts",
    "profile_tokens",
    "profile_spans",
    "profile_sources",
    "response_ranges",
)
# Tensors whose first axis is that of all responses' parts, and what says how long each part is.
_IN_PARTS = {
    "row_masses": "row_counts",
    "profiles": "profile_counts",
    "profile_tokens": "profile_counts",
    "profile_spans": "profile_counts",
    "profile_sources": "profile_counts",
}


def _source_names(names: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    sets = [tuple(one) for one in names.get("sources", [])]
    return tuple(sets[index] for index in names.get("source_sets", []))


def _names_in(metadata: dict[str, str]) -> dict[str, Any] | None:
    """Return what a saved file says of its definition, spans, key sets and layers, if it is one."""
    try:
        names = json.loads(metadata.get("sra_fast", "{}"))
    except ValueError:
        return None
    if not isinstance(names, dict) or names.get("format") != _FORMAT:
        return None
    lists = all(isinstance(names.get(name), list) for name in ("spans", "names", "layers"))
    return names if lists and isinstance(names.get("definition"), str) else None


def _misshapen(tensors: dict[str, Tensor], names: dict[str, Any]) -> str | None:
    """Return which tensor of a saved file does not fit the others, in words, or None."""
    n, spans, layers = tensors["turn"].numel(), len(names["spans"]), len(names["layers"])
    wanted: dict[str, tuple[int | None, ...]] = {
        **{name: (n,) for name in ("conversation", "turn", "response_tokens")},
        "span_tokens": (n, spans),
        "mass": (n, layers, None, len(names["names"])),
        **{name: (n, spans, layers) for name in tensors if name.startswith("by_layer/")},
    }
    if "row_counts" in tensors or "row_masses" in tensors:
        rows = int(tensors["row_counts"].sum()) if "row_counts" in tensors else None
        wanted |= {"row_counts": (n,), "row_masses": (rows, layers, None, len(names["names"]))}
    if "by_head" in tensors:
        wanted["by_head"] = (n, layers, None, spans)
    if "response_ranges" in tensors:
        wanted["response_ranges"] = (n, 2)
    if "profile_counts" in tensors or "profiles" in tensors:
        kept = int(tensors["profile_counts"].sum()) if "profile_counts" in tensors else None
        further = tensors["profiles"].ndim - 1 if "profiles" in tensors else 0
        wanted |= {"profile_counts": (n,), "profiles": (kept, *(layers, None)[:further])}
        of_tokens = ("profile_tokens", "profile_spans", "profile_sources")
        wanted |= {name: (kept,) for name in of_tokens if name in tensors}
    if f"by_layer/{names['definition']}" not in tensors:
        return f"by_layer/{names['definition']} is missing"
    for name, shape in wanted.items():
        found = tuple(tensors[name].shape) if name in tensors else ()
        if len(found) != len(shape) or any(
            want not in (None, have) for want, have in zip(shape, found, strict=True)
        ):
            return f"{name} has the shape {list(found)}, which does not fit the other tensors"
    return None
