"""scikit-learn's logistic regression, kept as its coefficients instead of a pickle.

    p(k | x) = softmax_k(W x + b),   x [D] the features of a response, W [K, D], b [K]

With two classes scikit-learn keeps one row for both: W [1, D], p(1 | x) = sigmoid(W x + b).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy
from numpy.typing import NDArray

from sra_fast.tools.missing_extra import needed

_MOST_STEPS = 2000


def fit_logistic(features: Any, strategies: Sequence[str], *, c: float) -> Any:
    """A fitted ``LogisticRegression`` (L2, lbfgs, deterministic).

    Args:
        features: float64 [n, D], sparse or dense.
        c: inverse strength of the L2 penalty.
    """
    with needed("pipeline", "sklearn"):
        from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=c, max_iter=_MOST_STEPS).fit(features, strategies)
    model.coef_ = numpy.ascontiguousarray(model.coef_)  # as it is read again: sums keep their order
    return model


def logistic_tensors(model: Any) -> dict[str, NDArray[numpy.float64]]:
    """What :func:`restored_logistic` needs: coefficients [K, D] and intercepts [K]."""
    return {"coefficients": model.coef_, "intercepts": model.intercept_}


def logistic_shapes(classes: int, features: int | None) -> dict[str, tuple[int | None, ...]]:
    """The shapes of :func:`logistic_tensors`."""
    rows = 1 if classes == 2 else classes
    return {"coefficients": (rows, features), "intercepts": (rows,)}


def restored_logistic(classes: Sequence[str], tensors: dict[str, NDArray[numpy.float64]]) -> Any:
    """The fitted ``LogisticRegression`` again, equal to the last bit."""
    with needed("pipeline", "sklearn"):
        from sklearn.linear_model import LogisticRegression

    model = LogisticRegression()
    model.classes_ = numpy.array(classes)
    model.coef_, model.intercept_ = tensors["coefficients"], tensors["intercepts"]
    model.n_features_in_ = model.coef_.shape[1]
    return model
