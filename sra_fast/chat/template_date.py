"""Give chat templates that write today's date another date.

A template asks for the date with ``strftime_now(format)``, a function that transformers takes from
the clock. A macro of that name at the beginning of the template stands in front of it.
"""

from __future__ import annotations

import string
from datetime import datetime

_NAME = "strftime_now"


def has_date(chat_template: str) -> bool:
    """Return whether a chat template asks for the date.

    Args:
        chat_template: the source of the template.
    """
    return _NAME in chat_template


def with_date(chat_template: str, now: datetime) -> str:
    """Return a chat template that writes ``now`` where it would write the date of the clock.

    Args:
        chat_template: the source of the template.
        now: the date and time to write.
    """
    directives = [f"%{flag}{letter}" for letter in string.ascii_letters for flag in ("", "-")]
    table = {directive: now.strftime(directive) for directive in directives}
    known = {directive: text for directive, text in table.items() if text != directive}
    return _MACRO.replace("TABLE", repr(known)) + chat_template


# "%%" stands for a percent sign; what lies between two of them is free of it. A line break after a
# block is trimmed by transformers, so the template itself begins where a line begins.
_MACRO = """\
{% macro strftime_now(format) %}\
{% for piece in format.split('%%') %}\
{% set written = namespace(text=piece) %}\
{% for directive, text in TABLE.items() %}\
{% set written.text = written.text | replace(directive, text) %}\
{% endfor %}\
{{ '' if loop.first else '%' }}{{ written.text }}\
{% endfor %}\
{% endmacro %}
"""
