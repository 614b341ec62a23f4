"""Definitions of one's own: registered, found in packages, checked, scored and saved."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sra_fast
from marked_batches import marked_batch
from model_families import DENSE
from sra_fast import SRAResult, definitions
from sra_fast.definitions import DEFINITIONS, DefinitionError, RowMasses, check_definition
from sra_fast.measure.spans import BatchRowError

pytestmark = pytest.mark.usefixtures("own_names")


def peak(rows: RowMasses) -> Tensor:
    """The largest share of attention on the span in any row: ``[L, P]``."""
    return rows.tokens.amax(dim=1)


def scored(definition: str = "paper", **options: Any) -> SRAResult:
    return sra_fast.score(
        DENSE[0].build(), marked_batch((40, 29)), definition=definition, **options
    )


def test_the_example_of_the_documentation_runs() -> None:
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(sra_fast.register_definition, "register_definition", globs={})
    assert doctest.DocTestRunner().run(example) == (0, len(example.examples))
    assert len(example.examples) > 5


def test_a_registered_definition_is_scored_beside_the_built_in_ones() -> None:
    before = scored()
    sra_fast.register_definition("peak", peak)
    result = scored("peak", keep_rows=True)
    assert list(result.scores) == [*DEFINITIONS, "peak"]
    assert torch.equal(result.sra, result.scores["peak"])
    for name in DEFINITIONS:
        assert torch.equal(result.scores[name], before.scores[name])
    own_rows = [result.rows(i)[:, 1:, :, 0].double().mean(dim=2) for i in range(len(result))]
    wanted = torch.stack([rows.amax(dim=1).mean() for rows in own_rows]).float()
    torch.testing.assert_close(result.sra, wanted, rtol=0, atol=1e-7)
    assert result.to_pandas()["peak"].tolist() == result.sra.tolist()


def test_monitor_takes_it_too() -> None:
    sra_fast.register_definition("peak", peak)
    model, batch = DENSE[0].build(), marked_batch((40,))
    with sra_fast.monitor(model, definition="peak") as recorder:
        model(**batch)
    assert recorder.results[0].definition == "peak"
    torch.testing.assert_close(
        recorder.results[0].sra, sra_fast.score(model, batch, definition="peak").sra
    )


def test_a_saved_result_is_loaded_without_the_registration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sra_fast.register_definition("peak", peak)
    sra_fast.register_definition("again", peak)
    saved = scored("peak")
    saved.save(tmp_path / "own.safetensors")
    monkeypatch.setattr(definitions._OWN, "_things", {})
    loaded = SRAResult.load(tmp_path / "own.safetensors")
    assert list(loaded.by_layer) == list(saved.by_layer) == [*DEFINITIONS, "again", "peak"]
    assert torch.equal(loaded.sra, saved.sra)
    assert repr(loaded) == repr(saved)
    loaded.save(tmp_path / "again.safetensors")
    first, second = (tmp_path / f"{name}.safetensors" for name in ("own", "again"))
    assert first.read_bytes() == second.read_bytes()
    with pytest.raises(KeyError, match="no definition 'peak'"):
        scored("peak")


def test_a_result_from_before_the_registration_has_no_score_under_it(tmp_path: Path) -> None:
    older = scored()
    sra_fast.register_definition("peak", peak)
    with pytest.raises(KeyError, match="no definition 'peak'; there are paper, mass, reference"):
        older.score("peak")
    with pytest.raises(ValueError, match="only some of the results have scores under peak"):
        SRAResult.concatenate([older, scored()])


@pytest.mark.parametrize(
    "name",
    ["paper", "auto", "two words", "", "1st", "sra", "turn", "my-own", "class", "None", 3, None],
)
def test_names_that_cannot_be_are_refused(name: Any) -> None:
    with pytest.raises(ValueError, match=r"is taken by|is reserved|must be a Python identifier"):
        sra_fast.register_definition(name, peak)
    assert not definitions._OWN.registered


def test_a_name_is_given_once() -> None:
    sra_fast.register_definition("peak", peak)
    sra_fast.register_definition("peak", peak)
    with pytest.raises(ValueError, match="the name 'peak' is taken by another definition"):
        sra_fast.register_definition("peak", lambda rows: rows.counts)


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(TypeError, match="a definition is a function of RowMasses, got float"):
        sra_fast.register_definition("peak", 0.5)  # type: ignore[arg-type]


def test_an_unknown_definition_names_the_nearest() -> None:
    sra_fast.register_definition("peak", peak)
    with pytest.raises(KeyError, match=r"paper, mass, .*, peak; did you mean 'peak'\?"):
        scored("peek")
    with pytest.raises(KeyError, match=r"did you mean 'paper'\?"):
        sra_fast.monitor(DENSE[0].build(), definition="papers").__enter__()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda rows: 0.5, "returned float"),
        (lambda rows: rows.tokens, r"returned \[3, 4, 1\] torch.float64"),
        (lambda rows: rows.tokens.mean(dim=(1, 2)), r"returned \[3\] torch.float64"),
        (lambda rows: rows.tokens.sum(dim=1) > 0, r"returned \[3, 1\] torch.bool"),
        (lambda rows: rows.tokens.sum(dim=1).to("meta"), "on meta"),
    ],
)
def test_what_a_function_returns_is_checked(wrong: Any, told: str) -> None:
    sra_fast.register_definition("wrong", wrong)
    with pytest.raises(ValueError, match=rf"definition 'wrong' .*{told}.*; expected .*\[3, 1\]"):
        scored()


def test_an_error_inside_a_function_names_the_definition_and_the_response() -> None:
    sra_fast.register_definition("divided", lambda rows: 1 / 0)  # type: ignore[arg-type, return-value]
    told = "row 0: at turn 1, definition 'divided' failed: ZeroDivisionError: division by zero"
    with pytest.raises(BatchRowError, match=told) as caught:
        scored()
    causes = caught.value.__cause__, getattr(caught.value.__cause__, "__cause__", None)
    assert [type(cause) for cause in causes] == [DefinitionError, ZeroDivisionError]


def test_an_infinite_score_is_refused_with_the_definition_and_the_response() -> None:
    def divided(rows: RowMasses) -> Tensor:
        return rows.tokens.mean(dim=1) / torch.tensor(5 - rows.tokens.shape[1])

    assert scored().response_tokens.tolist() == [4, 5, 4, 5]
    sra_fast.register_definition("divided", divided)
    with pytest.raises(BatchRowError, match="row 0: at turn 2, definition 'divided' gives an inf"):
        scored()


def test_nan_says_that_a_response_has_no_score() -> None:
    sra_fast.register_definition("nothing", lambda rows: rows.tokens.mean(dim=1) * torch.nan)
    assert bool(scored("nothing").sra.isnan().all())


def test_what_a_function_writes_reaches_nothing_else() -> None:
    before = scored()

    def overwriting(rows: RowMasses) -> Tensor:
        for tensor in (rows.tokens, rows.head, rows.rest, rows.counts):
            tensor.fill_(1)
        return rows.tokens[:, 0]

    sra_fast.register_definition("a_first", overwriting)
    sra_fast.register_definition("peak", peak)
    result = scored()
    assert torch.equal(result.span_tokens, before.span_tokens)
    for name in DEFINITIONS:
        assert torch.equal(result.scores[name], before.scores[name])
    assert not bool((result.scores["peak"] == 1).any())


POINTS = {"definitions": "theirs = theirs:half\nbroken = theirs:nothing\nnumber = theirs:NUMBER"}
CODE = "NUMBER = 3\n\ndef half(rows):\n    return rows.tokens.mean(dim=1) / 2\n"


def test_an_installed_package_adds_one_when_it_is_asked_for(
    installed: Callable[..., None],
) -> None:
    installed(CODE, **POINTS)
    assert "theirs" not in scored().scores
    result = scored("theirs")
    assert torch.equal(result.sra, result.scores["mass"] / 2)
    assert check_definition("theirs") == "theirs"


@pytest.mark.parametrize(
    ("name", "told"),
    [("broken", "AttributeError: module 'theirs' has no"), ("number", "function of RowMasses")],
)
def test_what_a_package_offers_wrongly_is_named(
    name: str, told: str, installed: Callable[..., None]
) -> None:
    installed(CODE, **POINTS)
    with pytest.raises(
        ValueError, match=rf"definition '{name}' .*cannot be used \(theirs:.*{told}"
    ):
        check_definition(name)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("paper", "the name 'paper' is taken by the built-in definition"),
        ("sra", "the name 'sra' is reserved"),
        ("bad-name", "must be a Python identifier and no keyword, got 'bad-name'"),
        ("class", "must be a Python identifier and no keyword, got 'class'"),
    ],
)
def test_a_package_cannot_offer_a_name_that_cannot_be(
    name: str, told: str, installed: Callable[..., None]
) -> None:
    installed(CODE, definitions=f"{name} = theirs:half\ntheirs = theirs:half")
    with pytest.raises(ValueError, match=f"{told}.*package 'theirs' offers .*theirs:half"):
        scored(name)
    assert check_definition("mass") == "mass"
    with pytest.raises(KeyError, match="there are paper, mass, reference, table1, theirs"):
        check_definition("unknown")


def test_one_name_of_two_packages_is_refused(
    installed: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(CODE, **POINTS)
    info = tmp_path / "other" / "others-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sra_fast.definitions]\ntheirs = others:half\n")
    monkeypatch.syspath_prepend(str(info.parent))
    with pytest.raises(
        ValueError, match=r"offered more than once: others:half and theirs:half .*'theirs'"
    ):
        check_definition("theirs")
