#!/usr/bin/env python3
"""Tokens per second of a training step of models/austen: transformers with torch beside ds4.

Both take the same work: the next-token loss of batches of 6 x 512 tokens, AdamW, float32, two
threads; they take turns. Needs torch and transformers, and build/release/ds4.

    bench/train_beside.py [--rounds 3] [--steps 4]
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
DS4 = ROOT / "build/release/ds4"
MODEL = ROOT / "models/austen"
TEXT = ROOT / "tests/data/austen/heldout.txt"
BATCH, CONTEXT = 6, 512


def torch_speed(model, optimizer, steps):
    import torch

    start = time.perf_counter()
    for _ in range(steps):
        ids = torch.randint(0, model.config.vocab_size, (BATCH, CONTEXT + 1))
        optimizer.zero_grad(set_to_none=True)
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
        loss.backward()
        optimizer.step()
    return steps * BATCH * CONTEXT / (time.perf_counter() - start)


def ds4_speed(threads, steps):
    with tempfile.TemporaryDirectory() as out:
        command = [DS4, "train", MODEL, "--init", MODEL, "--text", TEXT, "--tokenizer", MODEL,
                   "--out", out, "--steps", str(steps), "--batch", str(BATCH),
                   "--context", str(CONTEXT), "--optimizer", "adamw", "--mtp-weight", "0",
                   "--late-mtp-weight", "0", "--balance-weight", "0", "--no-indexer",
                   "--learning-rate", "1e-6", "--threads", str(threads), "--save-every", "1000"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        rows = (pathlib.Path(out) / "loss.csv").read_text().splitlines()
        seconds = [float(row.split(",")[2]) for row in rows[1:]]
        return (steps - 1) * BATCH * CONTEXT / (seconds[-1] - seconds[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()

    import torch
    import transformers

    torch.set_num_threads(arguments.threads)
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, betas=(0.9, 0.95), weight_decay=0.1)
    torch_speed(model, optimizer, 1)  # warm

    speeds = {"transformers": [], "ds4": []}
    for _ in range(arguments.rounds):
        speeds["transformers"].append(torch_speed(model, optimizer, arguments.steps))
        speeds["ds4"].append(ds4_speed(arguments.threads, 4 * arguments.steps))
    for name, values in speeds.items():
        print(f"{name}: median {statistics.median(values):.0f} tokens/s of "
              + ", ".join(f"{value:.0f}" for value in values))
    print(f"ds4 / transformers: "
          f"{statistics.median(speeds['ds4']) / statistics.median(speeds['transformers']):.2f}")
    plan = json.loads(subprocess.run(
        [DS4, "plan", MODEL, "--train", "--batch", str(BATCH), "--context", str(CONTEXT),
         "--optimizer", "adamw", "--no-mtp", "--json"],
        check=True, capture_output=True, text=True).stdout)
    print(json.dumps(plan.get("flops", plan), indent=1))


if __name__ == "__main__":
    main()
