"""Remember which parameters of a request a server takes, as far as its refusals have told."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any, get_args

from sra_fast.names import TokenLimit

_logger = logging.getLogger(__name__)

_LEFT_OUT_FIRST = ("seed", "top_p", *get_args(TokenLimit), "temperature")


class TakenParameters:
    """The parameters that a server takes; several threads may share it.

    Args:
        where: what messages call the server.
        token_limit: the name of the parameter that limits the tokens of an answer; if the server
            refuses it by name, the other one is sent instead.
    """

    def __init__(self, where: str, token_limit: TokenLimit) -> None:
        self._where = where
        other = next(name for name in get_args(TokenLimit) if name != token_limit)
        self._limits: tuple[TokenLimit, TokenLimit] = (token_limit, other)
        self._refused: set[str] = set()
        self._lock = threading.Lock()

    def of(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Return what to send of the parameters that are asked for.

        Args:
            asked: the values of ``temperature``, ``top_p``, ``max_tokens`` and ``seed``; None
                leaves one to the server.

        Returns:
            The parameters that the server takes, those that it could go without best standing
            first.
        """
        limit = next((name for name in self._limits if name not in self._refused), None)
        named = {limit if name == "max_tokens" else name: value for name, value in asked.items()}
        return {
            name: named[name]
            for name in _LEFT_OUT_FIRST
            if name not in self._refused and named.get(name) is not None
        }

    def missing(self, asked: Mapping[str, Any], sent: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the names of the parameters that are asked for and not sent, in order.

        Args:
            asked: the argument of :meth:`of`.
            sent: what it returned.
        """
        limited = any(name in sent for name in self._limits)
        return tuple(
            name
            for name, value in asked.items()
            if value is not None and name not in sent and not (name == "max_tokens" and limited)
        )

    def leave_out(self, name: str) -> None:
        """Note that the server does not take a parameter; it is said once, as a warning."""
        with self._lock:
            if name in self._refused:
                return
            self._refused.add(name)
        limit = next((one for one in self._limits if one not in self._refused), None)
        if name in self._limits and limit is not None:
            _logger.info("%s takes no %s, so %s is sent instead", self._where, name, limit)
        else:
            _logger.warning(
                "%s takes no %s, so it is left out, and the server's own choice counts",
                self._where,
                name,
            )
