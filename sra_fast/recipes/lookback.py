"""Tell replies that leave their context by how much they look back at it.

Lookback Lens (arXiv 2407.07071): at the row that predicts the t-th new token, for layer l and head
h, with N tokens of context and the t − 1 new tokens before it,

    A_lh(context) = 1/N · Σ_{i in context} α_lh,i        A_lh(new) = 1/(t − 1) · Σ_{j < t} α_lh,j
    ratio_lht     = A_lh(context) / (A_lh(context) + A_lh(new))

The row that predicts the first new token has none before it, and a ratio of 1. The features of a
reply are its ratios' means over rows, ``L·H`` numbers, which a logistic model is fitted to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sra_fast.scoring import score
from sra_fast.tools.missing_extra import needed

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

CONTEXT, NEW = "context", "new"


def lookback_ratios(
    model: nn.Module, batch: Mapping[str, Any], context: str = CONTEXT
) -> tuple[Tensor, ...]:
    """Return the lookback ratios of each reply, one row per token that it consists of.

    Args:
        model: a model that :func:`sra_fast.score` takes.
        batch: a batch with one reply per row and the context in ``span_masks``, as
            :func:`sra_fast.mark` makes it.
        context: name of the span that holds the context.

    Returns:
        float32 ``[R_i, L, H]`` of each reply, in [0, 1]; NaN where a window reaches neither.

    Raises:
        KeyError: there is no such span.
        ValueError: a row has no reply or several, a span is called "new", or as
            :func:`sra_fast.score`.
    """
    spans = dict(batch.get("span_masks", {}))
    if context not in spans:
        raise KeyError(f"no span {context!r}; there are {', '.join(spans) or 'none'}")
    if NEW in spans:
        raise ValueError(
            f"span_masks: {NEW!r} is what the reply's own tokens are called here; rename that span"
        )
    if "response_mask" not in batch:
        raise KeyError("the batch needs `response_mask`, which marks the reply")
    replies = batch["response_mask"]
    if int(replies.max()) > 1:
        raise ValueError("response_mask: give each reply a row of its own, marked by 1")
    if not bool((replies > 0).any(dim=1).all()):
        row = int((replies > 0).any(dim=1).logical_not().nonzero()[0])
        raise ValueError(f"row {row}: it has no reply, so no ratios; mark its reply too")
    marked = {**batch, "span_masks": {context: spans[context], NEW: replies.bool()}}
    result = score(model, marked, rows="predicting", definition="mass", keep_rows=True)
    wanted, new = (result.names.index(name) for name in (context, NEW))
    found = []
    for i in range(len(result)):
        masses = result.rows(i).double()  # [L, R, H, G]
        before = torch.arange(masses.shape[1], dtype=torch.float64)[:, None]  # new tokens so far
        of_context = masses[..., wanted] / result.span_tokens[i, 0]
        of_new = masses[..., new] / before.clamp(min=1)
        found.append((of_context / (of_context + of_new)).transpose(0, 1).float())
    return tuple(found)


def lookback_features(ratios: Sequence[Tensor]) -> Tensor:
    """Return the mean ratios of each reply, float32 ``[n, L·H]``, from ``[R_i, L, H]`` each."""
    return torch.stack([rows.double().mean(dim=0).flatten().float() for rows in ratios])


def fit_lookback(features: Tensor, faithful: Sequence[bool]) -> LogisticRegression:
    """Return a logistic model of scikit-learn's that tells faithful replies from others.

    Args:
        features: ``[n, L·H]`` as :func:`lookback_features` gives them.
        faithful: whether each reply keeps to its context; both must occur.

    Raises:
        ValueError: numbers that do not agree, or replies of one kind only.
        MissingExtraError: scikit-learn is not installed.
    """
    if len(faithful) != len(features):
        raise ValueError(f"{len(features)} replies and {len(faithful)} labels")
    if len(set(faithful)) < 2:
        raise ValueError("a model needs replies that keep to their context and others that do not")
    with needed("pipeline", "sklearn"):
        from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=1000).fit(features.numpy(), list(faithful))
