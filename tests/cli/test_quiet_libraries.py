"""What other libraries print stays away from a command's output, and ours does not."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import typer

from sra_fast.backends import check_backend
from sra_fast.cli.session import session
from sra_fast.tools.sra_warning import SRAWarning
from tiny_chat_model import save_tiny_model, talk, write_jsonl

CHOICES = ("TRANSFORMERS_VERBOSITY", "HF_HUB_VERBOSITY", "HF_HUB_DISABLE_PROGRESS_BARS")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quiet")
    save_tiny_model(folder / "tiny")
    write_jsonl(folder / "chats.jsonl", [talk(f"c{number}") for number in range(6)])
    return folder


def spoken(folder: Path, *arguments: str) -> list[str]:
    """The lines that a command prints for people, in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if k not in CHOICES}
    command = [sys.executable, "-m", "sra_fast", *arguments]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=environment, check=True
    )
    return [line for line in done.stderr.splitlines() if line.strip()]


def test_scoring_shows_its_own_lines_alone(folder: Path) -> None:
    arguments = ("score", "chats.jsonl", "--model", "tiny", "--out")
    progress, note, written = spoken(folder, *arguments, "quiet")
    assert "tokens, standard" in progress
    assert "interval" in note
    assert written == "written to quiet"
    assert "Loading weights" in "".join(spoken(folder, *arguments, "loud", "--debug"))


def test_training_shows_its_own_lines_alone(folder: Path) -> None:
    small = ("--max-steps", "1", "--accumulation", "1", "--rank", "2", "--eval-fraction", "0.5")
    lines = spoken(
        folder, "train", "chats.jsonl", "--model", "tiny", "--out", "run", "--merge", *small
    )
    beginnings = (
        "3 conversations to train on",
        "step 0 of 1: ",
        "step 1 of 1: ",
        "held-out loss",
        "no step has a lower held-out loss",
        "written to",
    )
    strange = [line for line in lines if not line.strip().startswith(beginnings)]
    assert not strange


@pytest.mark.parametrize("debug", [False, True])
def test_other_libraries_speak_under_debug_alone(debug: bool) -> None:
    import huggingface_hub.utils
    import transformers

    logger = logging.getLogger("transformers.modeling_utils")
    transformers.utils.logging.enable_progress_bar()
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        with session(False, debug, continues=True):
            assert transformers.utils.logging.is_progress_bar_enabled() is debug
            assert huggingface_hub.utils.are_progress_bars_disabled() is not debug
            assert logger.isEnabledFor(logging.WARNING) is debug
            assert logger.isEnabledFor(logging.ERROR)
            warnings.warn("theirs", FutureWarning, stacklevel=1)
        assert warnings.filters == filters
    assert len(shown) == (1 if debug else 0)
    assert transformers.utils.logging.is_progress_bar_enabled()
    assert logger.isEnabledFor(logging.WARNING)


def test_our_warnings_are_sentences_of_the_first_process(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with session(False, False, continues=True):
        warnings.warn("ours", SRAWarning, stacklevel=1)
    assert capsys.readouterr().err == "warning: ours\n"
    with session(False, False, continues=True, rank=1):
        warnings.warn("ours again", SRAWarning, stacklevel=1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("rank", "whose"), [(0, "error: "), (3, "process 3: error: ")])
def test_the_error_of_a_further_process_says_whose_it_is(
    rank: int, whose: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="no") as error:
        check_backend("no")
    with pytest.raises(typer.Exit), session(False, False, continues=True, rank=rank):
        check_backend("no")
    assert capsys.readouterr().err == f"{whose}{error.value}\n"


@pytest.mark.parametrize("rank", [0, 1])
def test_one_process_says_that_it_was_interrupted(
    rank: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit), session(False, False, continues=True, rank=rank):
        raise KeyboardInterrupt
    assert ("interrupted" in capsys.readouterr().err) is (rank == 0)


def test_a_users_choice_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "warning")
    with session(False, False, continues=True):
        assert os.environ["TRANSFORMERS_VERBOSITY"] == "warning"
        assert logging.getLogger("transformers").isEnabledFor(logging.WARNING)
        assert os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1"
    assert "HF_HUB_DISABLE_PROGRESS_BARS" not in os.environ
