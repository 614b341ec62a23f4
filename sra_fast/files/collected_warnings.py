"""Collect what the library warns of, where nobody would see it: in a process of its own."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from sra_fast.tools.sra_warning import SRAWarning


class _Collector(logging.Handler):
    """A log handler that keeps the messages of warnings and errors."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.append(record.getMessage())


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """Collect the texts of this library's warnings and of the warnings that it logs.

    The list that comes back is filled while the block runs. Warnings of others are dropped.
    """
    messages: list[str] = []
    handler = _Collector(messages)
    logger = logging.getLogger("sra_fast")
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", SRAWarning)
            yield messages
        messages += [str(one.message) for one in caught if issubclass(one.category, SRAWarning)]
    finally:
        logger.removeHandler(handler)
