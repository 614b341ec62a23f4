"""Define Strategy Relevant Attention in four ways, all cheap functions of the same masses.

``A[m, h, r, l]`` is the attention of layer m, head h, from position r to key l; the span has
``n`` tokens. Every definition is linear in the masses or a ratio of head means, so none needs the
map. All are computed per row and layer, then averaged (a ratio of means is no mean of ratios).

==============  ==========================================================================
``paper``       arXiv 2402.10453, Eq. 5, over the response's tokens: mean over layers, heads,
                rows of ``Σ_span A / n``. (Their denominator is one less than the terms of
                their sum; here it is the number of tokens.)
``mass``        the same without ``/ n``: the share of attention on the span, in [0, 1].
``reference``   what the authors' code computes: the rows that *predict* the response's
                tokens; head means; key 0 set to zero and the row divided by what remains;
                mean over the span's tokens except the last.
``table1``      ``reference`` on the one row that predicts the first token, as in their
                table of results.
==============  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sra_fast.names import Definition


@dataclass(frozen=True)
class RowMasses:
    """The masses of one response's r rows on P spans, averaged over heads, in float64.

    Attributes:
        tokens: ``[L, r, P]``, rows of the response's own tokens, mass on each span.
        head: ``[L, r, P]``, rows that predict these tokens, mass on each span without its last.
        rest: ``[L, r, 1]``, rows that predict these tokens, mass on all keys but key 0.
        counts: ``[P]``, number of tokens of each span.
    """

    tokens: Tensor
    head: Tensor
    rest: Tensor
    counts: Tensor


def paper(rows: RowMasses) -> Tensor:
    """Return the mean attention per token of each span, ``[L, P]``."""
    return rows.tokens.mean(dim=1) / rows.counts


def mass(rows: RowMasses) -> Tensor:
    """Return the share of attention on each span, ``[L, P]``."""
    share = rows.tokens.mean(dim=1)
    return share.masked_fill(rows.counts == 0, torch.nan)


def reference(rows: RowMasses) -> Tensor:
    """Return what the authors' code computes over all generated tokens, ``[L, P]``.

    It is NaN for a span of one token.
    """
    return _without_null(rows).mean(dim=1)


def table1(rows: RowMasses) -> Tensor:
    """Return what the authors' table script computes, at the first generated token, ``[L, P]``.

    It is NaN for a span of one token.
    """
    return _without_null(rows)[:, 0]


def _without_null(rows: RowMasses) -> Tensor:
    terms = (rows.counts - 1).clamp(min=0)  # of a single token nothing is left: 0/0
    return rows.head / rows.rest / terms


DEFINITIONS: dict[Definition, Callable[[RowMasses], Tensor]] = {
    "paper": paper,
    "mass": mass,
    "reference": reference,
    "table1": table1,
}
