"""Number the sources of a conversation that a chat template wrote: its messages and their parts."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sra_fast.chat.chat_template import EncodingError
from sra_fast.chat.chat_text import ChatText
from sra_fast.chat.source_places import cut_sources
from sra_fast.chat.text_places import PromptText
from sra_fast.chat.token_marks import mark_sources
from sra_fast.names import SourceUnit


def number_sources(
    written: ChatText, offsets: Sequence[tuple[int, int]], unit: SourceUnit, label: str
) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Number the sources of a prompt, all but its scored replies.

    Args:
        written: the prompt.
        offsets: the range of characters that each of the T tokens stands for.
        unit: what its messages are cut into; see :func:`sra_fast.chat.source_places.cut_sources`.
        label: what errors call the prompt.

    Returns:
        ``[T]`` int32, the number of each token's source from 1 (0: none); and the sources' names.

    Raises:
        EncodingError: there is no such unit, the prompt has none, or a source has no token left.
    """
    whole = {
        part.message: (start, end, part.role) for part, start, end in written.spans if part.role
    }
    texts = [PromptText("", "assistant")] * (1 + max(whole, default=-1))
    for message, (start, end, role) in whole.items():
        texts[message] = PromptText(written.text[start:end], role)
    try:
        cut = cut_sources(texts, unit, ())
        numbered = [
            (number, whole[at.message][0] + at.start, whole[at.message][0] + at.end)
            for number, (_, at) in enumerate(cut, 1)
        ]
        return mark_sources(written, offsets, numbered), tuple(name for name, _ in cut)
    except EncodingError as error:
        raise EncodingError(f"{label}: {error}") from error
