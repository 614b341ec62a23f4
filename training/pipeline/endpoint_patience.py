"""Decide when a run that sends many requests should give an endpoint up for now."""

from __future__ import annotations

from collections import Counter

from .endpoint_error import EndpointError

FAILURES_IN_A_ROW = 10
"""How many requests in a row may fail before a run gives the endpoint up for now.

Requests that were refused for what they say do not count: others may be answered. But if so many
were refused in the same words that do not blame their content, and none was answered, they do.
"""


class Patience:
    """The patience with an endpoint, which is told of the outcome of each request.

    Attributes:
        ended: whether the run should send no more requests.
    """

    def __init__(self) -> None:
        self.ended = False
        self._in_a_row = 0
        self._answered = False
        self._refused: Counter[str] = Counter()

    def answered(self) -> None:
        """Note that a request was answered."""
        self._in_a_row, self._answered = 0, True

    def ends_with(self, error: EndpointError) -> bool:
        """Note that a request failed, and tell whether the run should send no more.

        Args:
            error: why it failed.
        """
        if error.for_this:
            self._refused[str(error)] += error.unknown
        else:
            self._in_a_row += 1
        alike = 0 if self._answered else self._refused[str(error)]
        self.ended = error.for_all or max(self._in_a_row, alike) >= FAILURES_IN_A_ROW
        return self.ended
