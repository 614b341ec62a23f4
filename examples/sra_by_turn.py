"""Shows how attention to the strategy falls as a conversation grows, reply by reply.

    python examples/sra_by_turn.py

Without a field "response" every reply of a conversation is scored, all of them in one forward pass.
"""

from __future__ import annotations

from transformers import AutoModelForCausalLM, AutoTokenizer

import sra_fast
from sra_fast.files.smollm2 import smollm2_folder

TURNS = [
    ("My allotment flooded and the whole summer's work is gone.", "What did you grow there?"),
    ("Beans, squash, and a fig tree that my father planted.", "The fig tree must hurt most."),
    ("It does. He died in spring.", "So the garden was also a place to be near him."),
    ("I never said that to anyone.", "Thank you for saying it here."),
    ("The neighbours say that figs can grow back from the root.", "Have you looked at it since?"),
    ("Not yet. I am afraid that it is rotten.", "You could go and look together with someone."),
    ("My sister would come.", "That sounds like a good companion for it."),
    ("We have not talked much since the funeral.", "The tree may be an easy first sentence."),
    ("Maybe I will write to her tonight.", "A short message is enough to begin."),
    ("And if the tree is dead?", "Then you will have stood there together, and can plant one."),
]


def main() -> None:
    """Print the attention on the strategy for each reply, with a bar."""
    name = smollm2_folder()
    model = AutoModelForCausalLM.from_pretrained(name)
    tokenizer = AutoTokenizer.from_pretrained(name)

    messages = []
    for said, replied in TURNS:
        messages += [
            {"role": "user", "content": said},
            {"role": "assistant", "content": replied},
        ]
    conversation = {"messages": messages, "strategy": "Emotional Validation"}
    result = sra_fast.score(model, sra_fast.encode(tokenizer, [conversation]))

    highest = result.sra.max().item()
    print("turn       SRA")
    for turn, value in zip(result.turn.tolist(), result.sra.tolist(), strict=True):
        print(f"{turn:4}  {value:.6f}  {'#' * round(40 * value / highest)}")


if __name__ == "__main__":
    main()
