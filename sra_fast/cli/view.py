"""The command ``sra-fast view``, which writes a page that shows what replies attend to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from sra_fast.cli import options
from sra_fast.cli.session import session

if TYPE_CHECKING:
    from sra_fast.report.viewer.viewed_result import ProfiledResult

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
    max_mb: Annotated[
        float,
        typer.Option(
            "--max-mb",
            metavar="N",
            min=0.1,
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
        from sra_fast.report.viewer.page_writer import PageTooLargeError, write_page
        from sra_fast.report.viewer.result_files import read_result
        from sra_fast.report.viewer.viewed_result import NoProfileError, viewed

        read = read_result(result)
        found = cast("ProfiledResult", read.result)
        page = out or (result if result.is_dir() else result.parent) / "view.html"
        try:
            conversations = viewed(found, read.titles, read.labels)
            left_out = write_page(
                conversations, page, int(max_mb * _MEGABYTE), definition=found.definition
            )
        except NoProfileError as error:
            raise NoProfileError(f"{result}: {error} (--profile mean)") from error
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
