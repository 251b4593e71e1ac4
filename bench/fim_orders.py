"""Which order of a fill-in-the-middle prompt suits a checkpoint: the share of hidden lines that it writes exactly.

Usage: python bench/fim_orders.py MODEL TEXTS.jsonl [--lines N] [--context T] [--dtype D] [--halves]

TEXTS.jsonl has a "text" per line. Lines of the texts are hidden, and the model fills each gap from the text before and after
it, in both orders. Write the better order as "fim_mode" into the checkpoint's config.json. With --halves, the first half of a
text is another file: left out, or given as `extra_files`.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gptbigcode_cpu import AutoModelForCausalLM, AutoTokenizer
from gptbigcode_cpu.fim import build_prompt


def gaps(texts: list[str], count: int, random_lines: random.Random) -> list[tuple[str, str, str]]:
    """Text before, the line that is hidden, and the text after it."""
    found: list[tuple[str, str, str]] = []
    while len(found) < count:
        lines = random_lines.choice(texts).splitlines(keepends=True)
        number = random_lines.randrange(len(lines) // 2, len(lines))
        line = lines[number]
        body = line.strip()
        if 8 <= len(body) <= 80 and not body.startswith("#"):
            indentation = line[: len(line) - len(line.lstrip())]
            found.append(("".join(lines[:number]) + indentation, body, "\n" + "".join(lines[number + 1 :])))
    return found


def loss(model: Any, tokenizer: Any, prompt: list[int], line: str) -> float:
    """Nats per token of the hidden line after a prompt."""
    middle = tokenizer.encode(line, split_special_tokens=True)
    logits = model([prompt + middle]).logits[0, len(prompt) - 1 : -1].astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    chosen = logits[np.arange(len(middle)), middle] - np.log(np.exp(logits).sum(axis=1))
    return float(-chosen.mean())


def report(name: str, losses: list[float], matches: list[bool]) -> None:
    """One line of the table."""
    spread = np.std(losses) / len(losses) ** 0.5
    print(f"{name:28} {np.mean(losses):6.3f} ± {spread:.3f} nats per token   {100 * np.mean(matches):5.1f} % exact")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("texts", type=Path)
    parser.add_argument("--lines", type=int, default=200)
    parser.add_argument("--context", type=int, default=700, help="tokens of a prompt")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--halves", action="store_true")
    arguments = parser.parse_args()
    texts = [json.loads(line)["text"] for line in arguments.texts.read_text(encoding="utf-8").splitlines()]
    texts = [text for text in texts if text.count("\n") > 40]
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=arguments.dtype)
    hidden = gaps(texts, arguments.lines, random.Random(0))

    def measure(name: str, mode: Any, extra: Callable[[str], tuple[dict[str, str], str]]) -> None:
        losses, matches = [], []
        for before, line, after in hidden:
            files, near = extra(before)
            prompt = build_prompt(tokenizer, near, after, mode=mode, extra_files=files, max_tokens=arguments.context)
            losses.append(loss(model, tokenizer, prompt, line))
            new = [*model.stream(prompt, max_new_tokens=len(tokenizer.encode(line)) + 4, do_sample=False)]
            written = tokenizer.decode(new, skip_special_tokens=True)
            matches.append(written.partition("\n")[0].rstrip() == line)
        report(name, losses, matches)

    def halves(before: str) -> tuple[dict[str, str], str]:
        middle = before.find("\n", len(before) // 2) + 1
        return {"first.py": before[:middle]}, before[middle:]

    for mode in ("psm", "spm"):
        if arguments.halves:
            measure(f"{mode}, without the first half", mode, lambda before: ({}, halves(before)[1]))
            measure(f"{mode}, with it as a file", mode, halves)
        else:
            measure(mode, mode, lambda before: ({}, before))


if __name__ == "__main__":
    main()
