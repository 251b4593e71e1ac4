"""What a KV cache of less than 32 bits costs: how far next-token distributions move.

The texts are cut into windows of the model's full context; every position counts. Printed is the Kullback-Leibler divergence,
in nats, of the distributions with each type of cache from those with a float32 cache.

    python bench/kv_divergence.py ../shared/checkpoints/python-8m ../shared/eval/python_stdlib_held_out.jsonl --dtype float32
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from perplexity import read_texts

from gptbigcode_cpu import AutoModelForCausalLM, AutoTokenizer

KV_DTYPES = ("float16", "bfloat16", "int8")


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log-probabilities, float64 ``[tokens, vocab]``."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="converted model, checkpoint, Hub id or 'demo'")
    parser.add_argument("text", type=Path, nargs="+", help=".jsonl with a text field, or plain text")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--windows", type=int, default=24, help="at most so many, evenly spread over the texts")
    arguments = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    models = {
        kv_dtype: AutoModelForCausalLM.from_pretrained(arguments.model, dtype=arguments.dtype, kv_dtype=kv_dtype)
        for kv_dtype in ("float32", *KV_DTYPES)
    }
    length = models["float32"].config.n_positions
    texts = [text for path in arguments.text for text in read_texts(path)]
    tokens = np.array([token for text in texts for token in (tokenizer.eos_token_id, *tokenizer(text)["input_ids"])])
    windows = tokens[: len(tokens) // length * length].reshape(-1, length)
    windows = windows[:: -(-len(windows) // arguments.windows)]
    found: dict[str, list[NDArray[np.float64]]] = {kv_dtype: [] for kv_dtype in KV_DTYPES}
    for window in windows:
        expected = log_softmax(models["float32"](window[None]).logits[0])
        for kv_dtype, values in found.items():
            actual = log_softmax(models[kv_dtype](window[None]).logits[0])
            values.append((np.exp(expected) * (expected - actual)).sum(axis=1))
    for kv_dtype, values in found.items():
        divergence = np.concatenate(values)
        print(f"{kv_dtype:8}  {divergence.mean():.6f} nats, 99th percentile {np.quantile(divergence, 0.99):.5f}")
    print(f"{windows.size} tokens in windows of {length}")


if __name__ == "__main__":
    main()
