"""Trains a LoRA adapter for a few steps and logs SRA of every step and of held-out conversations.

    python examples/train_with_callback.py

SRA is read from the forward passes that the training runs anyway. A tiny model of random weights
stands in for yours, so that this takes seconds; needs what pip install 'sra_fast[train]' brings.
"""

from __future__ import annotations

import tempfile

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)

from sra_fast.files.smollm2 import smollm2_folder
from sra_fast.training import (
    PackingCollator,
    SRACallback,
    read_history,
    split_by_conversation,
    training_examples,
)

WORRIES = ("the exam", "my job", "the move", "my knee", "the divorce", "my thesis")
CONVERSATIONS = [
    {
        "id": worry.replace(" ", "-"),
        "messages": [{"role": "user", "content": f"I cannot stop worrying about {worry}."}],
        "strategy": "Offer Hope",
        "response": f"It will not always feel like this; {worry} will have better days.",
    }
    for worry in WORRIES
]


def tiny_model(words: int) -> LlamaForCausalLM:
    """Return a Llama of two small layers with random weights that attends unevenly."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=words,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.2,
        )
    )


def main() -> None:
    """Train for six steps and print what the callback logged."""
    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder())
    model = get_peft_model(
        tiny_model(len(tokenizer)),
        LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    )

    examples = training_examples(CONVERSATIONS, tokenizer, template="standard", max_length=512)
    training, held_out = split_by_conversation(examples.dataset, 0.2)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=6,
            per_device_train_batch_size=2,
            learning_rate=1e-3,
            logging_steps=1,
            eval_strategy="steps",
            eval_steps=3,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = Trainer(
            model,
            arguments,
            data_collator=PackingCollator(),
            train_dataset=training,
            eval_dataset=held_out,
            callbacks=[SRACallback()],
        )
        trainer.train()
        for line in read_history(folder):
            print(
                f"step {line['step']} {line['split']:5}  SRA {line['sra']:.6f}  "
                f"over {line['n']} replies"
            )


if __name__ == "__main__":
    main()
