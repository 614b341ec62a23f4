"""Measure how well a score tells the responses that adhere from those that do not (AUC).

P_s are the responses of stratum s that adhere, N_s those that do not, and x_i the score of i:

    AUC = Σ_s Σ_{i∈P_s} Σ_{j∈N_s} ([x_i > x_j] + [x_i = x_j]/2)  /  Σ_s |P_s|·|N_s|

Only pairs within a stratum are compared, so that differences between strata do not look like
prediction. In an evaluation a stratum is a condition of Table 1 together with a strategy. With a
single stratum this is the area under the ROC curve.

With the midranks r_i in the strata the numerator is Σ_s (Σ_{i∈P_s} r_i − |P_s|·(|P_s| + 1)/2),
which is fast for many scores and many labellings at once.

scikit-learn's ``roc_auc_score`` knows no strata, and takes one score, one labelling and one set of
weights at a time; here there are thousands of each.
"""

from __future__ import annotations

import numpy
from numpy.typing import NDArray

from sra_fast.tools.coefficients import Floats
from sra_fast.tools.estimates import Estimate, too_few
from sra_fast.tools.grouped import Integers, leave_out_weights, numbered
from sra_fast.tools.intervals import jackknife_limits
from sra_fast.tools.missing_extra import needed

Booleans = NDArray[numpy.bool_]
Ranks = NDArray[numpy.float32]  # multiples of 0.5, which are exact up to 2²³

_AT_ONCE = 4096  # responses that are in float64 at once; bounds the memory


def auc(
    scores: Floats, positive: Booleans, strata: Integers, dialogue: Integers, chosen: Booleans
) -> Estimate:
    """Compute the AUC of a score for adherence, with its interval over dialogues.

    Args:
        scores: ``[n]`` the score of each response; NaN leaves a response out.
        positive: ``[n]`` whether the response adheres.
        strata: ``[n]`` the number of its stratum, from 0.
        dialogue: ``[n]`` the number of its dialogue, from 0.
        chosen: ``[n]`` whether the response counts.

    Returns:
        The AUC, or None with the reason; its ``n`` is the number of responses that count.
    """
    at = (chosen & ~numpy.isnan(scores)).nonzero()[0]
    labels = positive[at]
    if not len(at):
        return Estimate(None, None, None, 0, "no response with a value")
    if labels.all() or not labels.any():
        which = "every" if labels.all() else "no"
        return Estimate(None, None, None, len(at), f"{which} response adheres, so AUC is undefined")
    value = float(weighted_auc(scores[at], labels, strata[at], numpy.ones((1, len(at))))[0])
    if numpy.isnan(value):
        why = (
            "no condition and strategy has both responses that adhere and others, so AUC is "
            "undefined"
        )
        return Estimate(None, None, None, len(at), why)
    index, names = numbered(dialogue[at].tolist())
    few = too_few(len(names))
    if few:
        return Estimate(value, None, None, len(at), few)
    without = [
        weighted_auc(scores[at], labels, strata[at], weights)
        for weights in leave_out_weights(index, len(names))
    ]
    low, high, no_interval = jackknife_limits(value, numpy.concatenate(without), "logit")
    return Estimate(value, low, high, len(at), no_interval)


def weighted_auc(scores: Floats, positive: Booleans, strata: Integers, weights: Floats) -> Floats:
    """Compute the AUC of n responses for each set of weights, ``[k]``; NaN without a pair.

    Args:
        scores: ``[n]`` the score of each response, without NaN; n ≥ 1.
        positive: ``[n]`` whether the response adheres.
        strata: ``[n]`` the number of its stratum, from 0.
        weights: ``[k, n]`` how many times each response counts, from 0.
    """
    order = numpy.lexsort((scores, strata))
    x, s, y = scores[order], strata[order], positive[order]
    begins = numpy.concatenate([[True], s[1:] != s[:-1]])  # where a stratum begins
    ties = (begins | numpy.concatenate([[True], x[1:] != x[:-1]])).nonzero()[0]
    ordered = weights[:, order]
    every = numpy.add.reduceat(ordered, ties, axis=1)
    hits = numpy.add.reduceat(ordered * y, ties, axis=1)  # [k, ties], as what follows
    misses = every - hits
    below = numpy.cumsum(misses, axis=1) - misses  # in this stratum and all before it
    firsts = begins[ties].nonzero()[0]
    sizes = numpy.diff(numpy.append(firsts, len(ties)))
    below -= numpy.repeat(below[:, firsts], sizes, axis=1)
    wins = (hits * (below + misses / 2)).sum(axis=1)
    positives = numpy.add.reduceat(hits, firsts, axis=1)
    negatives = numpy.add.reduceat(misses, firsts, axis=1)
    pairs = (positives * negatives).sum(axis=1)
    return numpy.where(pairs > 0, wins / numpy.maximum(pairs, 1.0), numpy.nan)


def stratum_ranks(scores: NDArray[numpy.floating], strata: Integers) -> Ranks:
    """Rank each column of ``scores [n, H]`` within strata ``[n]``: midranks ``[n, H]``.

    The scores must not be NaN.
    """
    with needed("pipeline", "scipy"):
        from scipy.stats import rankdata

    ranks = numpy.empty(scores.shape, dtype=numpy.float32)
    for stratum in numpy.unique(strata):
        mine = (strata == stratum).nonzero()[0]
        ranks[mine] = rankdata(scores[mine], axis=0)
    return ranks


def aucs_of_ranks(ranks: Ranks, positive: Booleans, strata: Integers) -> Floats | None:
    """Compute the AUCs of H scores for k labellings of the same n responses, ``[k, H]``.

    Args:
        ranks: ``[n, H]`` the ranks of the scores, from :func:`stratum_ranks`.
        positive: ``[k, n]`` whether a response adheres by each labelling, k ≥ 1; all labellings
            have the same number of adherent responses in a stratum.
        strata: ``[n]`` the number of each response's stratum, from 0.

    Returns:
        The AUCs, or None where no stratum has both kinds of responses.
    """
    number = numpy.bincount(strata)
    adherent = numpy.bincount(strata, weights=positive[0], minlength=len(number))
    pairs = float((adherent * (number - adherent)).sum())
    if not pairs:
        return None
    offset = float((adherent * (adherent + 1) / 2).sum())
    sums = numpy.zeros((len(positive), ranks.shape[1]))
    for begin in range(0, len(ranks), _AT_ONCE):
        part = slice(begin, begin + _AT_ONCE)
        sums += positive[:, part].astype(numpy.float64) @ ranks[part].astype(numpy.float64)
    return (sums - offset) / pairs
