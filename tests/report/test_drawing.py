"""Figures: one style for a name wherever it is drawn, and files that are whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from sra_fast.report.drawing import new_figure, save_figure, title
from sra_fast.report.palette import TEMPLATE_STYLES, style_of


def test_a_figure_is_written_as_png(tmp_path: Path) -> None:
    figure = new_figure(3.0, 2.0, 2)
    title(figure, "a title", "$not math$")
    save_figure(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert len(figure.axes) == 2


def test_a_figure_that_fails_leaves_the_file_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(b"before")
    figure = new_figure(3.0, 2.0)

    def half(path: Path, **settings: object) -> None:
        path.write_bytes(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(figure, "savefig", half)
    with pytest.raises(OSError, match="full"):
        save_figure(figure, tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"before"


def test_names_are_told_apart_and_known_ones_keep_their_style() -> None:
    names = ["standard", "mine", "c1_hf", *(f"own {i}" for i in range(8)), "fine-tuned"]
    assert style_of("c1_hf", names) == style_of("c1_hf", ["c1_hf"]) == TEMPLATE_STYLES["c1_hf"]
    assert len({style_of(name, names) for name in names}) == len(names)
