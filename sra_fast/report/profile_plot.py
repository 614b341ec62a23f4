"""Draw what a response attends to, token by token, with its sources."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy
from torch import Tensor

from sra_fast.report.palette import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    GRID,
    ORANGE,
    PURPLE,
    SKY,
    YELLOW,
)
from sra_fast.report.paper_axes import figure_and_axes, labels_and_fonts
from sra_fast.report.viewer.token_pieces import pieces_of_ids
from sra_fast.tools.counted import counted

if TYPE_CHECKING:
    from sra_fast.result import SRAResult

_COLOURS = (ORANGE, SKY, GREEN, YELLOW, PURPLE, BLUE)
_HATCHES = ("", "//", "..", "\\\\", "xx", "++")
_MOST_LABELS = 80
_MOST_BARS = 200


def profile_plot(
    result: SRAResult,
    i: int,
    *,
    layer: int | None,
    head: int | None,
    by_layer: bool,
    tokens: tuple[int, int] | None,
    tokenizer: Any | None,
    log: bool,
    ax: Any | None,
) -> tuple[Any, Any]:
    """Draw the figure of :meth:`sra_fast.SRAResult.plot_profile`."""
    if by_layer and layer is not None:
        raise ValueError(f"layer={layer}: by_layer=True draws all layers; give one of the two")
    values = _by_layer(result, i, layer, head) if by_layer else _over_tokens(result, i, layer, head)
    start, end = _shown(tokens, values.shape[-1])
    shown = values[..., start:end].numpy()
    labels = None if tokenizer is None else _labels(result, i, tokenizer, start, end)
    width = min(14.0, max(5.6, 1.8 + 0.16 * (end - start)))
    height = 3.6 if not by_layer else 1.8 + 0.16 * max(len(result.layers), 10)
    figure, axes = figure_and_axes(ax, width, height)
    positions = numpy.arange(start, end)
    averaged = _averaged(result, layer, head)
    if by_layer:
        extent = (start - 0.5, end - 0.5, -0.5, len(shown) - 0.5)
        image = axes.imshow(
            shown,
            aspect="auto",
            cmap="cividis",
            origin="lower",
            extent=extent,
            interpolation="nearest",
            norm="log" if log else None,
        )
        step = -(-len(shown) // 12)
        axes.set_yticks(range(0, len(shown), step), [str(one) for one in result.layers[::step]])
        axes.set_ylabel("layer")
        bar = figure.colorbar(image, ax=axes, fraction=0.06, pad=0.02)
        bar.outline.set_visible(False)
        bar.set_label("share of attention")
    else:
        if end - start <= _MOST_BARS:
            axes.bar(positions, shown, width=0.8, color=BLACK, zorder=2)
        else:
            axes.plot(positions, shown, color=BLACK, linewidth=0.8, zorder=2)
        axes.set_ylabel("share of attention")
        axes.set_xlim(start - 0.5, end - 0.5)
        if log:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
    if labels is None:
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("token (position in the sequence)")
    else:
        texts, fonts = labels_and_fonts(labels)
        axes.set_xticks(positions, texts, rotation=90, fontsize=8, parse_math=False)
        for label in axes.get_xticklabels():
            label.set_fontfamily(fonts)
        axes.set_xlabel("token")
    _draw_sources(result, i, axes, start, end, above=by_layer)
    axes.set_title(f"response {i}; {averaged}", loc="left", fontsize=9.5, pad=16 if by_layer else 6)
    return figure, axes


def _over_tokens(result: SRAResult, i: int, layer: int | None, head: int | None) -> Tensor:
    """Return the profile of the layer and head, or its mean over them: float32 ``[T_i]``."""
    profile = result.profile(i)
    if layer is None and head is None:
        return profile.double().reshape(-1, profile.shape[-1]).mean(dim=0).float()
    of_layers = _by_layer(result, i, layer, head)
    if layer is None:
        return of_layers.double().mean(dim=0).float()
    return of_layers[result.layers.index(layer)]


def _by_layer(result: SRAResult, i: int, layer: int | None, head: int | None) -> Tensor:
    """Return the profile of the head, or its mean over heads, in each layer: ``[L, T_i]``.

    Raises:
        ValueError: the profiles were not kept by layer, or by head.
        KeyError: no such layer or head.
    """
    profile = result.profile(i)
    if profile.ndim == 1:
        raise ValueError(
            'the profiles are means over layers; call score with profile="layers" or "heads"'
        )
    if layer is not None and layer not in result.layers:
        raise KeyError(f"no layer {layer}; there are {', '.join(map(str, result.layers))}")
    if profile.ndim == 2:
        if head is not None:
            raise ValueError('the profiles are means over heads; call score with profile="heads"')
        return profile
    if head is None:
        return profile.double().mean(dim=1).float()
    if not 0 <= head < profile.shape[1]:
        raise KeyError(f"no head {head}; there are {profile.shape[1]}, which are numbered from 0")
    return profile[:, head]


def _averaged(result: SRAResult, layer: int | None, head: int | None) -> str:
    """Say which layers and heads the figure is of."""
    layers = counted(len(result.layers), "layer") if layer is None else f"layer {layer}"
    heads = "all heads" if head is None else f"head {head}"
    return f"{layers}, {heads}"


def _shown(tokens: tuple[int, int] | None, length: int) -> tuple[int, int]:
    start, end = (0, length) if tokens is None else tokens
    if not 0 <= start < end <= length:
        raise ValueError(
            f"tokens=({start}, {end}): give the first token and the one after the last, "
            f"between 0 and {length}"
        )
    return start, end


def _labels(result: SRAResult, i: int, tokenizer: Any, start: int, end: int) -> list[str]:
    """Return the text of each token that is shown."""
    if end - start > _MOST_LABELS:
        raise ValueError(
            f"{end - start} tokens have no room for their texts; give tokens=(start, end) with "
            f"{_MOST_LABELS} at most, or no tokenizer"
        )

    def decode(ids: Any) -> str:
        text: str = tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    ids = result.token_ids(i)[start:end].tolist()
    return [piece.strip(" ") or ("␣" if piece else "") for piece in pieces_of_ids(decode, ids)]


def _colours(ranked: list[int], shown: list[int]) -> dict[int, int]:
    """Return the number of the colour of each shown source that gets one.

    The largest sources of the response keep their colours in every figure of it; where some of them
    are not shown, the next ones that are get what is free.

    Args:
        ranked: all sources of the response, the largest first.
        shown: those that are shown, in the same order.
    """
    kept = {number: rank for rank, number in enumerate(ranked[: len(_COLOURS)]) if number in shown}
    free = [rank for rank in range(len(_COLOURS)) if rank not in kept.values()]
    others = [number for number in shown if number not in kept]
    return kept | dict(zip(others, free, strict=False))


def _draw_sources(
    result: SRAResult, i: int, axes: Any, start: int, end: int, *, above: bool
) -> None:
    """Shade where the sources stand; the six that get the most attention have colours.

    Args:
        above: whether to shade a strip above the axes instead of their background.
    """
    if result.profile_sources is None or not result.source_names[i]:
        return
    numbers = result.source_ids(i)[start:end].numpy()
    masses = result.source_masses(i).double().reshape(-1, len(result.source_names[i])).mean(dim=0)
    ranked = ((-masses).argsort(stable=True) + 1).tolist()
    shown = set(numbers.tolist())
    colours = _colours(ranked, [one for one in ranked if one in shown])
    inch = axes.figure.dpi / axes.get_window_extent().height  # in heights of the axes
    handles = {}
    for number in sorted(shown - {0}):
        rank = colours.get(number)
        name = "other sources" if rank is None else result.source_names[i][number - 1]
        edges = numpy.flatnonzero(numpy.diff(numpy.r_[0, numbers == number, 0])).reshape(-1, 2)
        for first, after in edges:
            handles[name] = axes.axvspan(
                start + first - 0.5,
                start + after - 0.5,
                *((1 + 0.03 * inch, 1 + 0.13 * inch) if above else (0, 1)),
                clip_on=not above,
                facecolor=GREY if rank is None else _COLOURS[rank],
                edgecolor="white",
                hatch="" if rank is None else _HATCHES[rank],
                alpha=1.0 if above else 0.4,
                linewidth=0,
                zorder=0,
            )
    if handles:
        names, fonts = labels_and_fonts(handles)
        legend = axes.legend(
            handles.values(),
            names,
            frameon=False,
            fontsize=9,
            ncols=min(3, len(names)),
            loc="lower right",
            bbox_to_anchor=(1.0, 1 + 0.16 * inch if above else 1.0),
            borderaxespad=0.2,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
            text.set_fontfamily(fonts)
