"""Make the page that one would write first, which the viewer's is compared with."""

from __future__ import annotations

import html

import numpy

from sra_fast.report.viewer import ViewedConversation


def page_of_elements(conversation: ViewedConversation) -> str:
    """Return a page with an element for every token, coloured by what the first reply attends to.

    Args:
        conversation: a conversation whose first reply has a profile ``[T]``.
    """
    profile = conversation.replies[0].profile
    shares = numpy.zeros(len(conversation.tokens))
    shares[: len(profile)] = profile / profile.max()
    tokens = (
        f'<span style="background:rgb(0 90 180 / {share:.3f})" title="{share:.3g}">'
        f"{html.escape(piece)}</span>"
        for piece, share in zip(conversation.tokens, shares, strict=True)
    )
    style = "font:16px/1.75 system-ui;white-space:pre-wrap;max-width:840px"
    return f'<!doctype html><meta charset="utf-8"><div style="{style}">{"".join(tokens)}</div>'
