"""The result of a score: one entry per response, every definition, and the masses behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sra_fast.result_joining import concatenated, taken
from sra_fast.result_pictures import DrawnResult
from sra_fast.result_tables import response_table, source_table
from sra_fast.result_tensors import part
from sra_fast.saved_results import read_saved, write_saved
from sra_fast.tools.counted import counted
from sra_fast.tools.suggestions import did_you_mean

if TYPE_CHECKING:
    import pandas

PASSED = "passed"
SKIPPED = "skipped: "
UNCHECKED = f"{SKIPPED}measured without a self-check"


@dataclass(frozen=True, eq=False)
class SRAResult(DrawnResult):
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
            the predicting rows that leave more than 2⁻²⁰ (NaN if none does). Its mean over heads is
            not ``reference``, which divides means over heads. None in files of earlier versions.
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
        conversation_ids: for each response, the id of its conversation, or None where that is not
            known; empty if no id is known.
        meta: for each response, what else is known of its conversation, as JSON can say it; empty
            if nothing is.
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
    conversation_ids: tuple[str | None, ...] = ()
    meta: tuple[Mapping[str, Any], ...] = ()
    checked: str = UNCHECKED

    def __len__(self) -> int:
        return len(self.turn)

    def __repr__(self) -> str:
        return (
            f"SRAResult({counted(len(self), 'response')}, {counted(len(self.layers), 'layer')}, "
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
        position that predicts its first token, then its tokens in order. Where
        :func:`sra_fast.score` was given other ``rows``, they are these.

        Raises:
            ValueError: the rows were not kept.
            IndexError: no such response.
        """
        if self.row_masses is None or self.row_counts is None:
            raise ValueError("the rows were not kept; call score with keep_rows=True to keep them")
        return self.row_masses[part(self.row_counts, i)].transpose(0, 1)

    def profile(self, i: int) -> Tensor:
        """Return the mean attention of response ``i``'s rows on every token up to its last row.

        Returns:
            float32 ``[T_i]``, ``[L, T_i]`` or ``[L, H, T_i]``, as ``profile`` of
            :func:`sra_fast.score` said. Over the tokens it sums to 1 less the sinks' share.

        Raises:
            ValueError: no profile was asked for.
            IndexError: no such response.
        """
        profiles, counts = self._profiles()
        found = profiles[part(counts, i)]
        return found.permute(*range(1, found.ndim), 0)

    def token_ids(self, i: int) -> Tensor:
        """Return the ids of the tokens that :meth:`profile` of response ``i`` is over, ``[T_i]``.

        Raises:
            ValueError: no profile was asked for, or the batch had embeddings instead of tokens.
            IndexError: no such response.
        """
        _, counts = self._profiles()
        if self.profile_tokens is None:
            raise ValueError("the batch had `inputs_embeds` and no token ids")
        return self.profile_tokens[part(counts, i)]

    def source_ids(self, i: int) -> Tensor:
        """Return the number of the source of each token of response ``i``, int32 ``[T_i]``.

        Source ``s``, counted from 1, is called ``source_names[i][s - 1]``; 0 is none.

        Raises:
            ValueError: there are no sources, or no profile was asked for.
            IndexError: no such response.
        """
        _, counts = self._profiles()
        if self.profile_sources is None:
            raise ValueError(
                "there are no sources; give the batch `source_ids`, or mark it with sources="
            )
        return self.profile_sources[part(counts, i)]

    def source_masses(self, i: int) -> Tensor:
        """Return what response ``i`` pays to each source: the sum of its profile over the tokens.

        Returns:
            float32 ``[S]``, ``[L, S]`` or ``[L, H, S]``, in the order of ``source_names[i]``.

        Raises:
            ValueError: there are no sources, or no profile was asked for.
            IndexError: no such response.
        """
        numbers = self.source_ids(i).long()
        profile = self.profile(i).double()
        sums = profile.new_zeros(*profile.shape[:-1], len(self.source_names[i]) + 1)
        return sums.index_add_(-1, numbers, profile)[..., 1:].float()

    def sources(self, i: int, tokenizer: Any | None = None) -> pandas.DataFrame:
        """Return a table with one line per source of response ``i``, the largest mass first.

        Its columns are ``source``, ``tokens``, ``source_mass`` (the share of attention that the
        response pays to the source, as a mean over layers and heads), ``mass_per_token``, and
        ``largest_token``, the part of the mass that falls on the source's single largest token.
        Where it is most of the mass, that token is likely an attention sink: rank by
        ``source_mass - largest_token`` to see the others. :meth:`source_masses` has the masses by
        layer and head.

        Args:
            i: the response.
            tokenizer: what decodes the tokens of each source into a column ``text``; None for no
                such column.

        Raises:
            TypeError: the tokenizer decodes nothing.
            ValueError: there are no sources, no profile was asked for, or there are no token ids
                to decode.
            IndexError: no such response.
        """
        return source_table(self, i, tokenizer)

    def _profiles(self) -> tuple[Tensor, Tensor]:
        if self.profiles is None or self.profile_counts is None:
            raise ValueError(
                'there are no profiles; call score with profile="mean", "layers" or "heads"'
            )
        return self.profiles, self.profile_counts

    def take(self, indices: Sequence[int]) -> SRAResult:
        """Return a result with the responses at ``indices``, in that order.

        Raises:
            TypeError: the indices are no integers, such as a mask.
            IndexError: no such response.
        """
        return taken(self, indices)

    def to_pandas(self, meta: Sequence[Mapping[str, Any]] = ()) -> pandas.DataFrame:
        """Return a table with one line per response: where it is, its sizes, and all its scores.

        ``conversation`` is its index, and ``conversation_id`` its id, if ids are known. A column
        named like a definition holds its score; scores on further spans stand in columns
        ``span/definition``. ``attrs["checked"]`` of the table is :attr:`checked`.

        Args:
            meta: what else is known of each conversation, by its index, such as
                ``[one.meta for one in conversations]``, in the place of :attr:`meta`; either stands
                in columns ``meta/name``.

        Raises:
            ValueError: a response is of a conversation that ``meta`` does not reach.
        """
        return response_table(self, meta)

    def save(self, path: str | Path) -> None:
        """Write everything to one safetensors file, whole or not at all.

        Raises:
            OSError: the file cannot be written; the message has the path.
        """
        write_saved(self, path)

    @classmethod
    def load(cls, path: str | Path) -> SRAResult:
        """Read a result from a file that :meth:`save` wrote.

        Scores under definitions of your own are there without their registration.

        Raises:
            ValueError: the file is not a saved result.
            OSError: the file cannot be read; the message has the path.
        """
        return cls(**read_saved(path))

    @classmethod
    def concatenate(cls, results: Sequence[SRAResult], *, renumber: bool = False) -> SRAResult:
        """Join several results of one model and the same spans into one, in order.

        Conversations are told apart by their ids: where two results use a number for different
        ones, those of the later result are numbered on. Without ids their numbers tell them apart.

        Args:
            results: the results, each of other conversations, or of other turns of them.
            renumber: whether to take the conversations of each result for others than those before,
                whatever their ids, and number them on: for results that each count from 0.

        Raises:
            ValueError: there is nothing to join, the results do not belong together, or, without
                ``renumber``, two of them have the same turn of the same conversation, or the same
                number for one with an id and one without.
        """
        return concatenated(results, renumber=renumber)
