"""Perplexity of a model on text, by the package's own runtime.

The texts, each after an end-of-text token, are cut into windows; the second half of each window is scored.

    python bench/perplexity.py ../shared/checkpoints/python-8m ../shared/eval/python_stdlib_held_out.jsonl --dtype int8
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from gptbigcode_cpu import AutoModelForCausalLM, AutoTokenizer


def read_texts(path: Path) -> list[str]:
    """The ``text`` of every line of a ``.jsonl`` file, or the whole of any other file."""
    text = path.read_text(encoding="utf-8")
    return [json.loads(line)["text"] for line in text.splitlines()] if path.suffix == ".jsonl" else [text]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="converted model, checkpoint, Hub id or 'demo'")
    parser.add_argument("text", type=Path, nargs="+", help=".jsonl with a text field, or plain text")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--window", type=int, default=512)
    arguments = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=arguments.dtype)
    texts = [text for path in arguments.text for text in read_texts(path)]
    tokens = np.array([token for text in texts for token in (tokenizer.eos_token_id, *tokenizer(text)["input_ids"])])
    windows = tokens[: len(tokens) // arguments.window * arguments.window].reshape(-1, arguments.window)
    half = arguments.window // 2
    losses = []
    for window in windows:
        logits = model(window[None, :-1]).logits[0, -half:].astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        losses.append(np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(half), window[half:]]))
    error = np.std(losses, ddof=1) / np.sqrt(len(losses))
    loss, count = np.mean(losses), len(losses) * half
    print(f"perplexity {np.exp(loss):.4f} (loss {loss:.4f} +- {error:.4f} nats, {count} tokens)")


if __name__ == "__main__":
    main()
