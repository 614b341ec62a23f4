"""The command ``sra-fast view``, which writes a page that shows what replies attend to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sra_fast.cli import options
from sra_fast.cli.session import session

_MEGABYTE = 1_000_000


def view(
    result: Annotated[
        Path,
        options.existing_path(
            "RESULT",
            "The result to look at: the folder of a scoring run, or a file that SRAResult.save "
            "wrote. It must have been scored with --profile.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="PAGE.html",
            help="The page to write; without it, view.html in the folder of the result.",
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer",
            metavar="NAME",
            help="The model whose tokenizer made the tokens: a folder or a name, as for `score`. "
            "Without it, the tokenizer that a run keeps in its folder.",
            show_default=False,
        ),
    ] = None,
    max_mb: Annotated[
        float,
        typer.Option(
            "--max-mb",
            metavar="N",
            min=0.01,
            help="The largest page to write, in megabytes; what does not fit is left out: single "
            "heads first, then layers.",
        ),
    ] = 30,
    as_json: options.JsonOption = False,
    debug: options.DebugOption = False,
) -> None:
    """Write a page that shows how much attention each reply pays to every token.

    The page is one HTML file, which a browser opens without a server and without the network.
    """
    with session(as_json, debug, continues=False) as current:
        from sra_fast.files.models import find_model
        from sra_fast.files.score_folder import MASSES
        from sra_fast.report.viewer.page_writer import PageTooLargeError, write_page
        from sra_fast.report.viewer.result_files import read_result
        from sra_fast.report.viewer.tokenised_result import TokenisedResult
        from sra_fast.report.viewer.viewed_conversation import ViewError
        from sra_fast.report.viewer.viewed_result import NoProfileError, viewed
        from sra_fast.saved_results import NoSavedResultError

        try:
            read = read_result(result)
        except NoSavedResultError as error:
            raise NoSavedResultError(
                f"{error}; give the folder that `sra-fast score` wrote, or its {MASSES}"
            ) from error
        page = out or (result if result.is_dir() else result.parent) / "view.html"
        if read.result.profiles is None:
            raise NoProfileError(
                f"{result}: it was scored without profiles, which say how much attention every "
                "token gets; score again with profile='mean' (--profile mean) into another folder"
            )
        if tokenizer is None and read.tokenizer is None:
            raise ViewError(
                f"{result}: no tokenizer is kept beside it, so its tokens have no texts; name the "
                "model that it is of (--tokenizer), or score again with profiles (score --profile)"
            )
        try:
            if tokenizer is not None:
                made = find_model(tokenizer).tokenizer()
            else:
                made = _kept(read.tokenizer)
            found = TokenisedResult(read.result, made)
            left_out = write_page(
                viewed(found, read.titles, read.labels),
                page,
                int(max_mb * _MEGABYTE),
                definition=found.definition,
            )
        except PageTooLargeError as error:
            raise PageTooLargeError(f"{error} (--max-mb)") from error
        for sentence in left_out:
            current.say(sentence)
        size = page.stat().st_size
        current.say(f"written to {page}: {size / _MEGABYTE:.3g} MB; open it in a browser")
        current.result = {
            "command": "view",
            "out": str(page),
            "bytes": size,
            "left_out": list(left_out),
        }


def _kept(folder: Path | None) -> Any:
    """Return the tokenizer that a run keeps in its folder."""
    from transformers import AutoTokenizer

    from sra_fast.report.viewer.viewed_conversation import ViewError

    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ViewError(
            f"{folder}: the tokenizer that the run keeps cannot be read; name the model that it is "
            f"of (--tokenizer), or score again ({type(error).__name__})"
        ) from error
