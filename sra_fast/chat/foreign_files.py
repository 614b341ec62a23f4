"""Name the format of a file, where conversations are read and something else was given."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sra_fast.chat.formats.recognition import foreign_format, is_plain_json, lacks_strategies
from sra_fast.chat.record_fields import ConversationError
from sra_fast.tools.argument_error import UnconvertedError


class ForeignFormatError(ConversationError, UnconvertedError):
    """Raised when a file holds conversations in another form, which can be converted.

    The message names the format that was found, or what is missing.
    """


@contextmanager
def foreign_formats_named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Name the format of a file, if it is another, in the error of whoever reads conversations.

    Raises:
        ForeignFormatError: the block raises a ``ValueError``, and the file is of a format that can
            be converted.
    """
    try:
        yield
    except ForeignFormatError:
        raise
    except ValueError as error:
        found = foreign_format(Path(path))
        if found is None:
            raise
        if lacks_strategies(Path(path)):
            raise ForeignFormatError(
                f"{error}; sra_fast.chat.conversion.convert_file names one for all replies",
                path=Path(path),
                arguments=("strategy",),
            ) from error
        # What a reader of JSON says of a table or of packed bytes leads astray.
        why = f" ({error})" if is_plain_json(Path(path)) else ""
        raise ForeignFormatError(
            f"{Path(path).name}: this is {found}; what is read here is JSON in this library's own "
            f"form, in UTF-8 and not packed; convert it with "
            f"sra_fast.chat.conversion.convert_file{why}",
            path=Path(path),
        ) from error
