"""Fit scikit-learn's logistic regression, and keep it as its coefficients instead of a pickle.

    p(k | x) = softmax_k(W x + b),   x [D] the features of a response, W [K, D], b [K]

With two classes scikit-learn keeps one line for both: W [1, D], p(1 | x) = sigmoid(W x + b).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy
from numpy.typing import NDArray

from sra_fast.tools.missing_extra import needed

_MOST_STEPS = 2000


def fit_logistic(features: Any, strategies: Sequence[str], *, c: float) -> Any:
    """Fit a ``LogisticRegression`` with an L2 penalty (lbfgs, without randomness).

    Args:
        features: float64 ``[n, D]``, sparse or dense.
        strategies: the n strategies.
        c: the inverse strength of the L2 penalty.
    """
    with needed("pipeline", "sklearn"):
        from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=c, max_iter=_MOST_STEPS).fit(features, strategies)
    # The layout it is read back in: sums keep their order.
    model.coef_ = numpy.ascontiguousarray(model.coef_)
    return model


def logistic_tensors(model: Any) -> dict[str, NDArray[numpy.float64]]:
    """Return what :func:`restored_logistic` needs: coefficients ``[K, D]``, intercepts ``[K]``."""
    return {"coefficients": model.coef_, "intercepts": model.intercept_}


def logistic_shapes(classes: int, features: int | None) -> dict[str, tuple[int | None, ...]]:
    """Return the shapes of :func:`logistic_tensors`.

    Args:
        classes: the number K of strategies.
        features: the number D of features, or None where any will do.
    """
    lines = 1 if classes == 2 else classes
    return {"coefficients": (lines, features), "intercepts": (lines,)}


def restored_logistic(classes: Sequence[str], tensors: dict[str, NDArray[numpy.float64]]) -> Any:
    """Rebuild a fitted ``LogisticRegression``, equal to the last bit.

    Args:
        classes: the K strategies.
        tensors: the result of :func:`logistic_tensors`.
    """
    with needed("pipeline", "sklearn"):
        from sklearn.linear_model import LogisticRegression

    model = LogisticRegression()
    model.classes_ = numpy.array(classes)
    model.coef_, model.intercept_ = tensors["coefficients"], tensors["intercepts"]
    model.n_features_in_ = model.coef_.shape[1]
    return model
