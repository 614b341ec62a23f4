"""Draw which layers and heads attend to a span."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy
from torch import Tensor

from sra_fast.report.paper_axes import figure_and_axes
from sra_fast.tools.counted import counted
from sra_fast.tools.printable import shortened
from sra_fast.tools.suggestions import did_you_mean

if TYPE_CHECKING:
    from sra_fast.result import SRAResult

HeadQuantity = Literal["by_head", "mass"]
_LABELS = {
    "by_head": "SRA of the head (share of attention beyond key 0)",
    "mass": "attention mass (share of attention)",
}


def layers_heads_plot(
    result: SRAResult,
    i: int | None,
    *,
    span: str | None,
    of: HeadQuantity,
    log: bool,
    ax: Any | None,
) -> tuple[Any, Any]:
    """Draw the heat map of :meth:`sra_fast.SRAResult.plot_layers_heads`."""
    values = layers_and_heads(result, i, span=span, of=of).numpy()
    layers, heads = values.shape
    figure, axes = figure_and_axes(ax, 2.4 + 0.22 * max(heads, 8), 1.4 + 0.13 * max(layers, 14))
    image = axes.imshow(
        values, aspect="auto", cmap="cividis", origin="lower", norm="log" if log else None
    )
    axes.set_facecolor("white")  # a cell that is NaN or infinite is clear
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    axes.xaxis.get_major_locator().set_params(integer=True)
    step = -(-layers // 12)
    axes.set_yticks(range(0, layers, step), [str(one) for one in result.layers[::step]])
    bar = figure.colorbar(image, ax=axes, fraction=0.06, pad=0.03)
    bar.outline.set_visible(False)
    bar.set_label(_LABELS[of])
    whose = f"mean of {counted(len(result), 'response')}" if i is None else f"response {i}"
    not_finite = "\nwhite: no finite number" if not numpy.isfinite(values).all() else ""
    axes.set_title(
        f"{shortened(span or result.spans[0], 30)}; {whose}{not_finite}",
        loc="left",
        fontsize=9.5,
        parse_math=False,
    )
    return figure, axes


def layers_and_heads(result: SRAResult, i: int | None, *, span: str | None, of: str) -> Tensor:
    """Return what is drawn: float32 ``[L, H]``, a mean over responses without those that are NaN.

    Raises:
        ValueError: the result has no scores by head, or no responses, or ``of`` is unknown.
        KeyError: no such span or key set.
        IndexError: no such response.
    """
    if of not in _LABELS:
        way = did_you_mean(of, _LABELS)
        if of in result.names:
            way = f"; the span is chosen by span={of!r}"
        raise ValueError(f"of={of!r}: give 'by_head' or 'mass'{way}")
    if of == "by_head" and result.by_head is None:
        raise ValueError(
            "there are no scores by head, as in files of earlier versions; score again, or take "
            "of='mass'"
        )
    kept, names = (result.mass, result.names) if of == "mass" else (result.by_head, result.spans)
    assert kept is not None
    name = result.spans[0] if span is None else span
    if name not in names:
        raise KeyError(f"no span {name!r}; there are {', '.join(names)}{did_you_mean(name, names)}")
    if not len(result):
        raise ValueError("the result has no responses, so there is nothing to draw")
    if i is not None and not -len(result) <= i < len(result):
        raise IndexError(
            f"there is no response {i}; the result has {len(result)}, which are numbered from 0"
        )
    of_span = kept[..., names.index(name)].double()
    return (of_span.nanmean(dim=0) if i is None else of_span[i]).float()
