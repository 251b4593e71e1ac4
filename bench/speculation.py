"""What guessing tokens and batches bring: tokens per second with and without, in interleaved rounds.

    python bench/speculation.py CHECKPOINT HELD_OUT.jsonl [--dtype int8] [--tokenizer CHECKPOINT] [--rounds 5]

Edit: the prompt is a file, the continuation the same file with its most frequent name replaced, as an editor asks for.
Small and random models do not copy faithfully, so in both arms a logits processor of this script makes the model write the
edited file; how much of it can be guessed is then that of a model that does its work. Greedy and sampled: the prompt is the
head of a file, and what the model writes is its own. Batch: one prompt against eight at once. The prompts' time is taken off.
"""

from __future__ import annotations

import argparse
import collections
import json
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gptbigcode_cpu import AutoModelForCausalLM, AutoTokenizer

Task = tuple[list[int], dict[str, Any]]


def timed(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def edited(text: str) -> str:
    """The text with its most frequent name of some length replaced."""
    name, _ = collections.Counter(re.findall(r"\b[a-z_]{5,}\b", text)).most_common(1)[0]
    return re.sub(rf"\b{name}\b", "replacement", text)


def writes(prompt: list[int], target: list[int]) -> Callable[[Any, Any], Any]:
    """A logits processor that makes the model write `target`."""

    def processor(input_ids: Any, scores: Any) -> Any:
        scores[:, target[input_ids.shape[1] - len(prompt)]] = 1e4
        return scores

    return processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("held_out", type=Path)
    parser.add_argument("--tokenizer", type=Path, help="default: that of the checkpoint")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--lookup", type=int, default=16, help="prompt_lookup_num_tokens")
    parser.add_argument("--files", type=int, default=3)
    arguments = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer or arguments.checkpoint)
    model = AutoModelForCausalLM.from_pretrained(arguments.checkpoint, dtype=arguments.dtype)
    texts = [json.loads(line)["text"][:1800] for line in arguments.held_out.read_text(encoding="utf-8").splitlines()]
    n = arguments.tokens
    options: dict[str, Any] = {"max_new_tokens": n, "eos_token_id": []}
    tasks: dict[str, list[Task]] = {"edit": [], "greedy": [], "sampled": []}
    for seed, text in enumerate(texts[: arguments.files]):
        prompt = tokenizer.encode(f"# original\n{text}\n# edited\n")
        tasks["edit"].append((prompt, {"logits_processor": [writes(prompt, tokenizer.encode(edited(text)))]}))
        tasks["greedy"].append((tokenizer.encode(text)[:128], {}))
        tasks["sampled"].append((tokenizer.encode(text)[:128], {"do_sample": True, "temperature": 0.8, "seed": seed}))

    def decoding(prompts: list[list[int]], **more: Any) -> float:
        """Seconds after the prompts."""
        first = timed(lambda: model.generate(prompts, **{**options, **more, "max_new_tokens": 1}))
        return timed(lambda: model.generate(prompts, **options, **more)) - first

    print(f"{model.dtype}, {model.core.isa}, {model.num_threads} threads, {n} tokens, median of {arguments.rounds} rounds")
    guess = {"prompt_lookup_num_tokens": arguments.lookup}
    for name, cases in tasks.items():
        for prompt, more in cases:  # also warms up
            wanted = model.generate([prompt], **options, **more).tolist()
            assert model.generate([prompt], **options, **more, **guess).tolist() == wanted
        rounds = [
            [sum(decoding([prompt], **more, **arm) for prompt, more in cases) for arm in ({}, guess)]
            for _ in range(arguments.rounds)
        ]
        plain, quick = (len(cases) * (n - 1) / statistics.median(times) for times in zip(*rounds, strict=True))
        ratios = sorted(a / b for a, b in rounds)
        print(
            f"{name}: {plain:.0f} tokens/s plain, {quick:.0f} with look-up; "
            f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} .. {ratios[-1]:.2f})"
        )
    batch = [tokenizer.encode(text)[:96] for text in texts[:8]]
    rounds = [[decoding(batch[:1]), decoding(batch)] for _ in range(arguments.rounds)]
    alone, together = (statistics.median(times) for times in zip(*rounds, strict=True))
    one, eight = (n - 1) / alone, 8 * (n - 1) / together
    print(f"batch: one prompt {one:.0f} tokens/s, eight {eight:.0f} tokens/s together; ratio {eight / one:.2f}")


if __name__ == "__main__":
    main()
