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

Definitions of your own are added by :func:`register_definition`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sra_fast.tools.registry import DEFINITIONS_GROUP, Registry


class DefinitionError(ValueError):
    """Raised when a registered definition fails, or returns what is not a score.

    The message names the definition.
    """


@dataclass(frozen=True)
class RowMasses:
    """The masses of one response's r rows on P spans, averaged over heads.

    They are float64, or float32 on a device that has no float64.

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

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over the rows: ``[L, r, P]`` -> ``[L, P]``."""
        return values.mean(dim=1)

    def first(self, values: Tensor) -> Tensor:
        """Return the first row's values: ``[L, r, P]`` -> ``[L, P]``."""
        return values[:, 0]


def paper(rows: RowMasses) -> Tensor:
    """Return the mean attention per token of each span, ``[L, P]``."""
    return rows.mean(rows.tokens) / rows.counts


def mass(rows: RowMasses) -> Tensor:
    """Return the share of attention on each span, ``[L, P]``."""
    share = rows.mean(rows.tokens)
    return share.masked_fill(rows.counts == 0, torch.nan)


def reference(rows: RowMasses) -> Tensor:
    """Return what the authors' code computes over all generated tokens, ``[L, P]``.

    It is NaN for a span of one token.
    """
    return rows.mean(rows.head / rows.rest) / _terms(rows)


def table1(rows: RowMasses) -> Tensor:
    """Return what the authors' table script computes, at the first generated token, ``[L, P]``.

    It is NaN for a span of one token.
    """
    return rows.first(rows.head / rows.rest) / _terms(rows)


def _terms(rows: RowMasses) -> Tensor:
    """Return how many tokens of each span are averaged over; of a single one none is left: 0/0."""
    return (rows.counts - 1).clamp(min=0)


DEFINITIONS: dict[str, Callable[[RowMasses], Tensor]] = {
    "paper": paper,
    "mass": mass,
    "reference": reference,
    "table1": table1,
}
"""The built-in definitions."""


def _check_function(function: Callable[[RowMasses], Tensor]) -> None:
    if not callable(function):
        raise TypeError(f"a definition is a function of RowMasses, got {type(function).__name__}")


_OWN: Registry[Callable[[RowMasses], Tensor]] = Registry(
    DEFINITIONS_GROUP, built_in=tuple(DEFINITIONS), check=_check_function
)


def register_definition(name: str, function: Callable[[RowMasses], Tensor]) -> None:
    """Add a definition of SRA of your own, which every score then has beside the built-in ones.

    It is called once per response, with the masses of all layers, and costs no forward pass::

        >>> import torch
        >>> import sra_fast
        >>> from transformers import LlamaConfig, LlamaForCausalLM

        >>> def peak(rows):
        ...     "The attention per token of the span, of the row that gives it most: [L, P]."
        ...     return rows.tokens.amax(dim=1) / rows.counts
        >>> sra_fast.register_definition("peak", peak)

        >>> sizes = {"hidden_size": 32, "intermediate_size": 32, "vocab_size": 100}
        >>> config = LlamaConfig(**sizes, num_hidden_layers=2, num_attention_heads=4)
        >>> ids = torch.arange(12)[None]  # one conversation, told by its masks
        >>> strategy, response = (ids >= 1) & (ids < 5), ids >= 8
        >>> batch = {"input_ids": ids, "strategy_mask": strategy, "response_mask": response}
        >>> result = sra_fast.score(LlamaForCausalLM(config), batch, definition="peak")
        >>> bool(result.sra > result.scores["paper"])
        True

    A package makes its own known without being imported, to the command line too, by an entry point
    in the group ``"sra_fast.definitions"``: its name, and ``"package.module:function"``. It is
    loaded when ``definition=`` asks for it; a name registered here comes first.

    Args:
        name: a Python identifier, no keyword, that no other definition and no column of the results
            has.
        function: takes a :class:`RowMasses` of P spans and returns ``[L, P]``, floating point, on
            the device of the masses. The masses are copies of its own. NaN means that nothing is
            left to average: the response has no score then. Training by ``SRACallback`` calls it
            without a gradient.

    Raises:
        ValueError: the name is taken by another definition, or cannot be one.
        TypeError: the function cannot be called.
    """
    _OWN.register(name, function)


def known_definitions() -> dict[str, Callable[[RowMasses], Tensor]]:
    """Return all definitions: the built-in ones, then the registered ones sorted by name."""
    return {**DEFINITIONS, **_OWN.registered}


def check_definition(name: str) -> str:
    """Return ``name`` if it is a definition, and register it if an installed package offers it.

    Raises:
        KeyError: there is no such definition.
        ValueError: what a package offers under the name cannot be used, or the name is a built-in
            one and a package offers another definition under it.
    """
    _function(name)
    if name in DEFINITIONS:
        _OWN.check_built_in(name)
    return name


def layer_scores(name: str, rows: RowMasses) -> Tensor:
    """Return the scores of one response under a definition, by layer and span: ``[L, P]``.

    Raises:
        KeyError: there is no such definition.
        DefinitionError: a registered function failed, or returned something else than ``[L, P]``.
    """
    function = _function(name)
    if name in DEFINITIONS:
        return function(rows)
    given = (rows.tokens, rows.head, rows.rest, rows.counts)
    copies = RowMasses(*(each.clone(memory_format=torch.contiguous_format) for each in given))
    try:
        scores = function(copies)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        raise DefinitionError(f"definition {name!r} failed: {problem}") from error
    _check_scores(name, scores, rows)
    return scores


def _check_scores(name: str, scores: Tensor, rows: RowMasses) -> None:
    expected = [rows.tokens.shape[0], rows.tokens.shape[2]]
    wanted = f"a floating-point tensor [L, P] = {expected} on {rows.tokens.device}"
    if not isinstance(scores, Tensor):
        raise DefinitionError(
            f"definition {name!r} returned {type(scores).__name__}; expected {wanted}"
        )
    fits = list(scores.shape) == expected and scores.is_floating_point()
    if not fits or scores.device != rows.tokens.device:
        raise DefinitionError(
            f"definition {name!r} returned {list(scores.shape)} {scores.dtype} on "
            f"{scores.device}; expected {wanted}"
        )


def _function(name: str) -> Callable[[RowMasses], Tensor]:
    function = DEFINITIONS.get(name) or _OWN.find(name)
    if function is None:
        raise KeyError(_OWN.unknown(name))
    return function
