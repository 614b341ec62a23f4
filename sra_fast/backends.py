"""The backends of the op: the names of the built-in ones, and users' own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, get_args

import torch
from torch import Tensor

from sra_fast.kernels.contract import (
    LogitRule,
    SpanAttention,
    SpanMass,
    SpanQuery,
    accumulation_dtype,
)
from sra_fast.names import Backend
from sra_fast.tools.registry import BACKENDS_GROUP, Registry

_BUILT_IN: tuple[str, ...] = get_args(Backend)


class BackendModule(Protocol):
    """What a backend offers: a module, or any other object, with these two functions.

    Both are called with arguments that were checked, with autocast off and with at least one query.
    Shapes and dtypes are those of :func:`sra_fast.span_attention`; ``query`` is on q's device, and
    its rows and spans may be none; ``rule`` is a :class:`~sra_fast.kernels.contract.LogitRule`
    with the scale, the window, the softcap and the sinks: refuse what you do not serve.
    """

    def attention(
        self, q: Tensor, k: Tensor, v: Tensor, query: SpanQuery, rule: LogitRule, mass_grad: bool
    ) -> SpanAttention:
        """Return the attention and the masses, without a gradient of these if not mass_grad.

        A profile may be left None: then it is computed from the logsumexp. Where the call is
        steered, the output and the logsumexp are written into.
        """
        ...

    def mass_only(self, q: Tensor, k: Tensor, query: SpanQuery, rule: LogitRule) -> SpanMass:
        """Return the masses alone, and the logsumexp of the rows asked for."""
        ...


def _check_module(module: BackendModule) -> None:
    for name in ("attention", "mass_only"):
        if not callable(getattr(module, name, None)):
            raise TypeError(f"a backend has attention and mass_only; here is no function {name!r}")


_OWN: Registry[BackendModule] = Registry(BACKENDS_GROUP, built_in=_BUILT_IN, check=_check_module)


def register_backend(name: str, module: BackendModule) -> None:
    """Add a backend of your own, which every ``backend=`` then takes by its name.

    Here one that computes everything in float64, by way of the built-in reference::

        >>> import torch
        >>> import sra_fast
        >>> from sra_fast.kernels import reference

        >>> class Doubled:
        ...     def attention(self, q, k, v, query, rule, mass_grad):
        ...         q, k, v = q.double(), k.double(), v.double()
        ...         exact = reference.attention(q, k, v, query, rule, mass_grad)
        ...         return sra_fast.SpanAttention(
        ...             exact.out.float(), exact.mass.float(), exact.lse.float()
        ...         )
        ...
        ...     def mass_only(self, q, k, query, rule):
        ...         exact = reference.mass_only(q.double(), k.double(), query, rule)
        ...         return sra_fast.SpanMass(exact.mass.float(), exact.lse.float())
        >>> sra_fast.register_backend("doubled", Doubled())

        >>> q = k = v = torch.randn(1, 2, 8, 4)
        >>> labels = torch.tensor([[1, 1, 0, 0, 0, 0, 0, 0]], dtype=torch.int32)
        >>> whole = torch.tensor([[0, 0, 8]], dtype=torch.int32)  # one sequence
        >>> query = sra_fast.SpanQuery(labels, torch.tensor([6, 7]), whole, ("span",))
        >>> sra_fast.span_attention(q, k, v, query, backend="doubled").mass.shape
        torch.Size([2, 2, 1])

    Shapes, dtypes and devices of what it returns are checked at every call. ``"auto"`` never takes
    it. A package makes its own known without being imported, to the command line too, by an entry
    point in the group ``"sra_fast.backends"``: its name, and ``"package.module"`` or
    ``"package.module:object"``. It is loaded when ``backend=`` asks for it; a name registered here
    comes first.

    Args:
        name: a Python identifier, no keyword, that no other backend has.
        module: a module or an object as :class:`BackendModule` describes.

    Raises:
        ValueError: the name is taken by another backend, or cannot be one.
        TypeError: one of the two functions is missing.
    """
    _OWN.register(name, module)


def registered_backends() -> Mapping[str, BackendModule]:
    """Return the backends of users' own that are registered by now, sorted by name."""
    return _OWN.registered


def check_backend(name: str) -> str:
    """Return ``name`` if it is a backend, and register it if an installed package offers it.

    Raises:
        ValueError: there is no such backend, what a package offers cannot be used, or the name is a
            built-in one and a package offers another backend under it.
    """
    if name in _BUILT_IN:
        _OWN.check_built_in(name)
    else:
        own_backend(name)
    return name


def own_backend(name: str) -> BackendModule:
    """Return a registered backend, or one that a package offers; what it returns is checked.

    Raises:
        ValueError: there is no such backend, or what a package offers cannot be used.
    """
    module = _OWN.find(name)
    if module is None:
        raise ValueError(_OWN.unknown(name))
    return _Checked(name, module)


class _Checked:
    """A backend whose results are refused if they have not the promised shapes and dtypes."""

    def __init__(self, name: str, module: BackendModule) -> None:
        self._name = name
        self._module = module

    def attention(
        self, q: Tensor, k: Tensor, v: Tensor, query: SpanQuery, rule: LogitRule, mass_grad: bool
    ) -> SpanAttention:
        result = self._module.attention(q, k, v, query, rule, mass_grad)
        self._check_type(result, SpanAttention)
        out, lse = (*q.shape[:3], v.shape[3]), tuple(q.shape[:3])
        self._check("out [B, Hq, M, Dv]", result.out, out, v.dtype, q)
        self._check_mass(result.mass, q, query)
        self._check("lse [B, Hq, M]", result.lse, lse, accumulation_dtype(q.dtype), q)
        return result

    def mass_only(self, q: Tensor, k: Tensor, query: SpanQuery, rule: LogitRule) -> SpanMass:
        result = self._module.mass_only(q, k, query, rule)
        self._check_type(result, SpanMass)
        self._check_mass(result.mass, q, query)
        lse = (len(query.rows), q.shape[1])
        self._check("lse [R, Hq]", result.lse, lse, accumulation_dtype(q.dtype), q)
        return result

    def _check_type(self, result: object, expected: type) -> None:
        if not isinstance(result, expected):
            raise ValueError(
                f"backend {self._name!r} returned {type(result).__name__}; "
                f"expected {expected.__name__}"
            )

    def _check_mass(self, mass: Tensor, q: Tensor, query: SpanQuery) -> None:
        shape = (len(query.rows), q.shape[1], len(query.names))
        self._check("mass [R, Hq, G]", mass, shape, accumulation_dtype(q.dtype), q)

    def _check(
        self, what: str, tensor: object, shape: tuple[int, ...], dtype: torch.dtype, q: Tensor
    ) -> None:
        if not isinstance(tensor, Tensor):
            raise ValueError(
                f"backend {self._name!r} returned {what} as {type(tensor).__name__}; "
                f"expected a tensor {list(shape)} {dtype} on {q.device}"
            )
        if tensor.shape != shape or tensor.dtype != dtype or tensor.device != q.device:
            raise ValueError(
                f"backend {self._name!r} returned {what} as {list(tensor.shape)} {tensor.dtype} on "
                f"{tensor.device}; expected {list(shape)} {dtype} on {q.device}"
            )
