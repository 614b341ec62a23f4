"""The error of a request that failed for good, and words about a server that hold no key."""

from __future__ import annotations

from dataclasses import dataclass, field

from sra_fast.tools.argument_error import ArgumentError
from sra_fast.tools.printable import printable

KEY_VARIABLE = "OPENAI_API_KEY"
"""The environment variable that a key is read from."""

_SECRET = 12  # a key of at least so many characters is removed from every text
_SHOWN = 200  # the most characters that an error message quotes from a server


class EndpointError(ArgumentError):
    """Raised when a request has failed for good, after all its retries.

    The message names the endpoint, what happened and the way out.

    Args:
        message: what is wrong, and the way out.
        arguments: names of the Python arguments at fault, if there are any.
        for_all: the attribute of that name.
        for_this: the attribute of that name.
        unknown: the attribute of that name.

    Attributes:
        for_all: whether every other request would fail for the same reason, such as a wrong key or
            an unknown model.
        for_this: whether the server works and refused only the content of this request (a filter
            took it, or it is too long), which says nothing about other requests.
        unknown: whether the server refused the request in words that do not tell which of the two
            it is; then it counts as refused for its content, until others are refused alike.
    """

    def __init__(
        self,
        message: str,
        *arguments: str,
        for_all: bool = False,
        for_this: bool = False,
        unknown: bool = False,
    ) -> None:
        super().__init__(message, *arguments)
        self.for_all, self.for_this, self.unknown = for_all, for_this, unknown


@dataclass(frozen=True)
class Speaker:
    """The words of one endpoint, from which errors are made.

    Attributes:
        base_url: the URL of the endpoint, with which every message begins.
        key: the secret key, which no text may show.
    """

    base_url: str
    key: str = field(repr=False)

    def error(
        self,
        what: str,
        *arguments: str,
        for_all: bool = False,
        for_this: bool = False,
        unknown: bool = False,
    ) -> EndpointError:
        """Return an error about this endpoint; the arguments are those of the class."""
        message = f"endpoint {self.base_url}: {what}"
        return EndpointError(
            message, *arguments, for_all=for_all, for_this=for_this, unknown=unknown
        )

    def shown(self, said: str) -> str:
        """Return what a server said as one short printable line without the key."""
        text = printable(" ".join(self.without_key(said).split()))
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"

    def without_key(self, text: str) -> str:
        """Return the text with the key replaced by "(key)".

        Short keys stay: local servers take them, they are no secrets, and they may be words.
        """
        return text.replace(self.key, "(key)") if len(self.key) >= _SECRET else text
