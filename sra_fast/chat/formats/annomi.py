"""Read AnnoMI's tables of counselling: an utterance a line, by client or therapist.

The columns are those of its two CSV files. In the full one an utterance has a line for each of its
annotators. Source: github.com/uccollab/AnnoMI.
"""

from __future__ import annotations

from sra_fast.chat.formats.dialogue_tables import Columns

ANNOMI = Columns(
    {
        "id": "transcript_id",
        "order": "utterance_id",
        "role": "interlocutor",
        "content": "utterance_text",
        "strategy": "main_therapist_behaviour",
    }
)
"""The columns of AnnoMI: what the therapist does is the strategy of an utterance."""
