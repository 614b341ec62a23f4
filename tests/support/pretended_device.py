"""Pretend that there are devices of type "cuda", and count what a program asks of them.

Inside :class:`PretendedDevices` tensors can be sent to ``cuda:0``, ``cuda:1``, … and are worked on
there. What a tensor on such a device holds lies on the CPU, so that results are right; or it is a
meta tensor, which takes no memory, so that a model of any size can be run for its counts alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

aten = torch.ops.aten

# These read a number or a size off the device, and the host waits for it.
WAITS = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten._unique2.default,
    aten.bincount.default,
}
# With a mask for an index, these wait for the number of its entries.
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default}
# These only make memory known, or give it another shape; nothing runs on the device.
NO_LAUNCH = {
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.empty_strided.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
    aten._unsafe_view.default,
    aten.lift_fresh.default,
}


@dataclass
class Counts:
    """Counts of the calls that were made to the devices.

    Attributes:
        launches: calls that run on a device, by name.
        waits: calls for whose result the host waits, by name.
        uploads, upload_bytes: copies from the host.
        downloads, download_bytes: copies to the host; each is a wait, too.
    """

    launches: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    uploads: int = 0
    upload_bytes: int = 0
    downloads: int = 0
    download_bytes: int = 0


class OnDevice(Tensor):
    """A tensor that says it is on a device, and holds its content in ``inner``."""

    inner: Tensor
    place: torch.device

    @staticmethod
    def __new__(cls, inner: Tensor, place: torch.device) -> OnDevice:
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device="meta",
        )
        made.inner, made.place = inner, place
        return made  # type: ignore[no-any-return]

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.place

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.__setitem__, torch.where) and not isinstance(args[2], Tensor):
            # C++, for which these are meta tensors, would lose the number.
            like = args[1] if func is torch.where else args[0]
            number = torch.full((), args[2], dtype=like.dtype, device=args[0].place)
            args = (*args[:2], number)
        if func is Tensor.new_tensor:
            return torch.tensor(args[1], dtype=args[0].dtype).to(args[0].place)
        if func is Tensor.tolist:
            return args[0].cpu().tolist()
        with torch._C.DisableTorchFunctionSubclass():  # results are not all of this class
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} on a pretended device, but outside of PretendedDevices")


def pretend(patch: pytest.MonkeyPatch) -> None:
    """Let torch believe that it may use GPUs: of AMD, for which no kernel is chosen unasked."""
    made = torch.tensor

    def tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
        return made(data, **options) if device is None else made(data, **options).to(device)

    patch.setattr(torch, "tensor", tensor)  # it goes past every mode
    patch.setattr(torch.cuda, "_lazy_init", lambda: None)
    patch.setattr(torch.version, "hip", "0.0")


class PretendedDevices(TorchDispatchMode):
    """Run calls on pretended devices, and count them in :attr:`counts`.

    A call that mixes tensors of two places is refused, as a real device does. Torch has to be told
    first (:func:`pretend`).

    Args:
        holds: where the content lies, ``"cpu"`` or ``"meta"``. From a meta tensor the host reads
            ones.
    """

    def __init__(self, holds: str = "cpu") -> None:
        super().__init__()
        self.holds = holds
        self.counts = Counts()

    @contextmanager
    def counting(self) -> Iterator[Counts]:
        """Give the counts of the block alone."""
        before, self.counts = self.counts, Counts()
        try:
            yield self.counts
        finally:
            self.counts = before

    def send(self, tensor: Tensor, place: str = "cuda:0") -> Tensor:
        """Return a tensor as if it had always been on a device."""
        return OnDevice(tensor.detach().to(self.holds), torch.device(place))

    def send_model(self, model: nn.Module, place: str = "cuda:0") -> nn.Module:
        """Put the parameters and buffers of a model on a device, and return the model."""
        for module in model.modules():
            for table in (module._parameters, module._buffers):
                for name, tensor in table.items():
                    if tensor is not None:
                        table[name] = self.send(tensor, place)  # type: ignore[assignment]
        return model

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)]
        places = {each.place for each in tensors if isinstance(each, OnDevice)}
        target = kwargs.get("device")
        target = None if target is None else _numbered(torch.device(target))
        if not places and (target is None or target.type != "cuda"):
            return func(*args, **kwargs)
        if func is aten._to_copy.default:
            return self._copy(args[0], target, kwargs)
        if func is aten.copy_.default and len({_place(each) for each in tensors}) > 1:
            self._count_copy(args[1], _place(args[0]))
            _inner(args[0]).copy_(self._content(args[1], _place(args[0])))
            return args[0]
        place = target or next(iter(places))
        elsewhere = [each for each in tensors if _place(each) != place and each.ndim > 0]
        if elsewhere:
            raise RuntimeError(f"{func}: tensors on {places | {_place(e) for e in elsewhere}}")
        if "device" in kwargs:
            kwargs = {**kwargs, "device": torch.device(self.holds)}
        self._count(func, args, kwargs)
        if self.holds == "meta" and func in WAITS:
            return _ones(func)
        out = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        known = {id(each.inner): each for each in tensors if isinstance(each, OnDevice)}

        def wrapped(each: Any) -> Any:
            if not isinstance(each, Tensor):
                return each
            return known[id(each)] if id(each) in known else OnDevice(each, place)

        return tree_map(wrapped, out)

    def _count(self, func: Any, args: Any, kwargs: dict[str, Any]) -> None:
        name = str(func)
        masked = func in INDEXING and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        sized = func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None
        if func in WAITS or masked or sized:
            self.counts.waits[name] += 1
        if not (func.is_view or func in NO_LAUNCH):
            self.counts.launches[name] += 1

    def _copy(self, tensor: Tensor, target: torch.device | None, kwargs: dict[str, Any]) -> Tensor:
        here = _place(tensor)
        target = target or here
        others = {
            name: each for name, each in kwargs.items() if name not in ("device", "non_blocking")
        }
        if target == here:
            same_dtype = others.get("dtype", tensor.dtype) == tensor.dtype
            if same_dtype and not others.get("memory_format"):
                return tensor  # C++ sees where the content lies, and takes it for another device
            self.counts.launches["aten._to_copy.default"] += 1
            return OnDevice(aten._to_copy.default(_inner(tensor), **others), here)
        self._count_copy(tensor, target)
        content = aten._to_copy.default(self._content(tensor, target), **others)
        return content if target.type == "cpu" else OnDevice(content, target)

    def _content(self, tensor: Tensor, target: torch.device) -> Tensor:
        """Return what a tensor holds, where tensors of ``target`` hold it."""
        inner = _inner(tensor)
        if target.type != "cpu":
            return inner.to(self.holds)
        return torch.ones(inner.shape, dtype=inner.dtype) if inner.is_meta else inner

    def _count_copy(self, tensor: Tensor, target: torch.device) -> None:
        size = tensor.numel() * tensor.element_size()
        if target.type == "cpu":
            self.counts.downloads += 1
            self.counts.download_bytes += size
            self.counts.waits["copy to the host"] += 1
        elif _place(tensor).type == "cpu":
            self.counts.uploads += 1
            self.counts.upload_bytes += size
        else:
            self.counts.launches["copy between devices"] += 1


def _numbered(device: torch.device) -> torch.device:
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def _place(tensor: Tensor) -> torch.device:
    return tensor.place if isinstance(tensor, OnDevice) else tensor.device


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, OnDevice) else value


def _ones(func: Callable[..., Any]) -> Any:
    """Return what the host reads from a device that holds nothing."""
    if func in (aten._local_scalar_dense.default, aten.equal.default):
        return True
    raise NotImplementedError(f"{func} has no result without content")
