"""Figures of a result show its numbers, on new axes or given ones, and refuse what is not there."""

from __future__ import annotations

import functools
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure

from profiled_results import SOURCES, profiled_result
from sra_fast import SRAResult

WORDS = [
    "the",
    "字",
    "漢",
    "مرحبا",
    "שלום",
    "$x_1$",
    "\n",
    "<b>",
    "\x1b[31m",
    "\U0001f600",
    "\U000e0100",
]


class Words:
    """Stands in for a tokenizer: the text of a token is one of ``WORDS``."""

    def decode(self, ids: list[int], **settings: Any) -> str:
        return "".join(WORDS[one % len(WORDS)] for one in ids)


@functools.cache
def result() -> SRAResult:
    return profiled_result()


@functools.cache
def of_kind(profile: str) -> SRAResult:
    return profiled_result((29,), profile=profile)


DRAWINGS = {
    "layers and heads": lambda one, **given: one.plot_layers_heads(**given),
    "turns": lambda one, **given: one.plot_turns(**given),
    "mean of turns": lambda one, **given: one.plot_turns(mean=True, **given),
    "profile": lambda one, **given: one.plot_profile(0, **given),
    "profile by layer": lambda one, **given: one.plot_profile(0, by_layer=True, log=True, **given),
}


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_new_axes_and_given_ones_come_back_with_labels(draw: Any, tmp_path: Path) -> None:
    figure, axes = draw(result())
    assert axes.figure is figure
    assert axes.get_xlabel()
    assert axes.get_ylabel()
    figure.savefig(tmp_path / "one.png")
    given = Figure().subplots(1, 2)[1]
    assert draw(result(), ax=given) == (given.figure, given)


@pytest.mark.parametrize("i", [None, 0, -1])
@pytest.mark.parametrize("of", ["by_head", "mass"])
def test_the_heat_map_of_heads_holds_the_numbers(i: int | None, of: Any) -> None:
    found = result()
    kept = found.by_head if of == "by_head" else found.mass
    assert kept is not None
    wanted = kept[..., 0].double().nanmean(dim=0) if i is None else kept[i, ..., 0]
    shown = found.plot_layers_heads(i, of=of)[1].images[0].get_array()
    assert numpy.array_equal(shown, wanted.float().numpy())
    one = found.take([0]).plot_layers_heads(of=of)[1].get_title("left")
    assert one.endswith("mean of 1 response")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_head_without_a_finite_number_is_told(value: float) -> None:
    by_head = torch.full_like(result().mass[..., :1], value)
    by_head[:, 1:] = 0.5
    _, axes = replace(result(), by_head=by_head).plot_layers_heads()
    assert "white: no finite number" in axes.get_title("left")
    assert "white" not in result().plot_layers_heads()[1].get_title("left")


@pytest.mark.parametrize("definition", [None, "mass"])
def test_each_conversation_is_a_line_of_its_scores(definition: str | None) -> None:
    lines = result().plot_turns(definition)[1].lines
    assert len(lines) == 2
    for number, line in enumerate(lines):
        at = result().conversation == number
        assert line.get_xdata().tolist() == result().turn[at].tolist()
        assert numpy.array_equal(line.get_ydata(), result().score(definition)[at].numpy())


def test_the_mean_of_many_conversations_has_an_interval() -> None:
    many = profiled_result(tuple(range(29, 38)), profile=None, keep_rows=False, sources=False)
    _, axes = many.plot_turns()
    (line,) = axes.lines
    for turn, shown in zip(line.get_xdata(), line.get_ydata(), strict=True):
        assert shown == pytest.approx(many.sra[many.turn == turn].double().mean().item())
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() < line.get_ydata().min()
    assert "95% interval over conversations" in axes.get_title("left")
    assert "too few" in many.take(range(6)).plot_turns(mean=True)[1].get_title("left")


CHOICES = [
    ("mean", {}, lambda p: p),
    ("layers", {}, lambda p: p.mean(0)),
    ("layers", {"layer": 1}, lambda p: p[1]),
    ("heads", {}, lambda p: p.mean((0, 1))),
    ("heads", {"layer": 2, "head": 1}, lambda p: p[2, 1]),
    ("heads", {"head": 0}, lambda p: p[:, 0].mean(0)),
    ("heads", {"tokens": (3, 11), "log": True}, lambda p: p.mean((0, 1))[3:11]),
]


@pytest.mark.parametrize(("kind", "given", "wanted"), CHOICES)
def test_bars_are_the_profile(kind: str, given: Any, wanted: Any) -> None:
    found = of_kind(kind)
    _, axes = found.plot_profile(1, **given)
    heights = [bar.get_height() for bar in axes.containers[0]]
    numpy.testing.assert_allclose(heights, wanted(found.profile(1).double()).numpy(), rtol=1e-6)
    assert axes.get_yscale() == ("log" if given.get("log") else "linear")


def test_the_heat_map_of_tokens_is_the_profile_by_layer() -> None:
    _, axes = result().plot_profile(1, by_layer=True, head=1, log=True)
    assert numpy.array_equal(axes.images[0].get_array(), result().profile(1)[:, 1].numpy())
    assert type(axes.images[0].norm).__name__ == "LogNorm"


def test_bands_are_where_the_sources_stand() -> None:
    _, axes = result().plot_profile(0)
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert tuple(names) == SOURCES
    bars = {id(bar) for bar in axes.containers[0]}
    bands = [(one.get_x(), one.get_width()) for one in axes.patches if id(one) not in bars]
    assert bands == [(0.5, 7.0), (9.5, 3.0)]


def colours_of(axes: Any) -> dict[str, Any]:
    """Return the colours of the sources by their names, whatever lies beneath them."""
    legend = axes.get_legend()
    names = [text.get_text() for text in legend.get_texts()]
    shown = [one.get_facecolor()[:3] for one in legend.get_patches()]
    return dict(zip(names, shown, strict=True))


def test_a_source_has_one_colour_in_all_figures_of_a_response() -> None:
    ids = torch.zeros_like(result().profile_sources)
    ids[:29] = torch.arange(29) // 3  # of the first response: nothing, then nine sources
    names = tuple(f"part {number}" for number in range(1, 10))
    parts = replace(result(), profile_sources=ids, source_names=(names,) * len(result()))
    table = parts.sources(0)["source"].tolist()
    whole = colours_of(parts.plot_profile(0)[1])
    assert set(whole) == {*table[:6], "other sources"}
    assert colours_of(parts.plot_profile(0, by_layer=True)[1]) == whole
    for first in range(3, 24, 3):  # a window of two sources
        near = colours_of(parts.plot_profile(0, tokens=(first, first + 6))[1])
        assert len(near) == len(set(near.values())) == 2
        assert all(whole[name] == near[name] for name in near if name in table[:6])


@pytest.mark.parametrize("draw", ["bars", "heat map"])
def test_texts_of_any_script_are_labels(tmp_path: Path, draw: str) -> None:
    found = result()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure, axes = found.plot_profile(0, tokenizer=Words(), by_layer=draw == "heat map")
        figure.savefig(tmp_path / "one.png")
    labels = [one.get_text() for one in axes.get_xticklabels()]
    assert len(labels) == found.profile(0).shape[-1]
    assert "the" in labels
    assert "$x_1$" in labels
    assert not any("\x1b" in one or "\n" in one for one in labels)


WRONG = [
    (lambda r: replace(r, profiles=None).plot_profile(0), ValueError, "there are no profiles"),
    (lambda r: of_kind("mean").plot_profile(0, layer=0), ValueError, 'profile="layers" or "heads"'),
    (lambda r: of_kind("mean").plot_profile(0, by_layer=True), ValueError, "means over layers"),
    (lambda r: of_kind("layers").plot_profile(0, head=0), ValueError, "means over heads"),
    (lambda r: r.plot_profile(0, layer=77), KeyError, "no layer 77; there are 0, 1"),
    (lambda r: r.plot_profile(0, head=77), KeyError, "no head 77"),
    (lambda r: r.plot_profile(9), IndexError, "no response 9; the result has 4"),
    (lambda r: r.plot_profile(0, tokens=(5, 5)), ValueError, "the one after the last"),
    (lambda r: r.plot_profile(0, layer=0, by_layer=True), ValueError, "give one of the two"),
    (lambda r: replace(r, by_head=None).plot_layers_heads(), ValueError, "no scores by head"),
    (lambda r: r.plot_layers_heads(of="heads"), ValueError, "give 'by_head' or 'mass'"),
    (lambda r: r.plot_layers_heads(of="strategy"), ValueError, "chosen by span='strategy'"),
    (lambda r: r.plot_layers_heads(span="stratgy"), KeyError, "no span 'stratgy'"),
    (lambda r: r.plot_layers_heads(9), IndexError, "no response 9"),
    (lambda r: r.take([]).plot_layers_heads(), ValueError, "no responses"),
    (lambda r: r.take([]).plot_turns(), ValueError, "no responses"),
    (lambda r: r.plot_turns("log"), KeyError, "no definition 'log'"),
]


@pytest.mark.parametrize(("draw", "error", "says"), WRONG)
def test_what_is_not_there_is_named(draw: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        draw(result())


def test_too_many_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="97 tokens have no room for their texts"):
        profiled_result((97,), profile="mean").plot_profile(1, tokenizer=Words())
