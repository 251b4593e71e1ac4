"""What guessing tokens and batches bring: tokens per second with and without, in interleaved rounds.

    python bench/speculation.py CHECKPOINT HELD_OUT.jsonl [--dtype int8] [--rounds 5]

Copying: the prompt is a file and the head of an edited version of it, as an editor asks for a changed file. Fresh: the
prompt is the head of a file, and what the model writes is its own. Both are greedy. Batch: one prompt against eight at once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gptbigcode_cpu import AutoModelForCausalLM, AutoTokenizer


def timed(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("held_out", type=Path)
    parser.add_argument("--dtype", default="int8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--lookup", type=int, default=16, help="prompt_lookup_num_tokens")
    parser.add_argument("--files", type=int, default=3)
    arguments = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint)
    model = AutoModelForCausalLM.from_pretrained(arguments.checkpoint, dtype=arguments.dtype)
    lines = arguments.held_out.read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    fresh = [tokenizer.encode(text)[:128] for text in texts[: arguments.files]]
    edits = []
    for text in texts[: arguments.files]:
        body = tokenizer.encode(text)[:512]
        edits.append([*tokenizer.encode("# original\n"), *body, *tokenizer.encode("\n# edited version\n"), *body[:64]])
    n = arguments.tokens
    options: dict[str, Any] = {"max_new_tokens": n, "eos_token_id": []}
    guess = {"prompt_lookup_num_tokens": arguments.lookup}
    print(f"{arguments.dtype}, {model.core.isa}, {model.num_threads} threads, {n} tokens, median of {arguments.rounds} rounds")
    for name, prompts in (("copying", edits), ("fresh", fresh)):
        plain, quick = [], []
        for prompt in prompts:
            wanted = model.generate([prompt], **options)
            assert model.generate([prompt], **options, **guess).tolist() == wanted.tolist()
        for _ in range(arguments.rounds):
            # The prompt's computation is the same in both and not what is measured.
            prefill = sum(timed(lambda p=p: model.generate([p], max_new_tokens=1)) for p in prompts)  # type: ignore[misc]
            plain.append(sum(timed(lambda p=p: model.generate([p], **options)) for p in prompts) - prefill)  # type: ignore[misc]
            quick.append(sum(timed(lambda p=p: model.generate([p], **options, **guess)) for p in prompts) - prefill)  # type: ignore[misc]
        rates = [len(prompts) * (n - 1) / statistics.median(times) for times in (plain, quick)]
        ratios = sorted(a / b for a, b in zip(plain, quick, strict=True))
        print(
            f"{name}: {rates[0]:.0f} tokens/s plain, {rates[1]:.0f} with look-up; "
            f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} .. {ratios[-1]:.2f})"
        )
    batch = [tokenizer.encode(text)[:96] for text in texts[:8]]

    def decoding(prompts: list[list[int]]) -> float:
        return timed(lambda: model.generate(prompts, **options)) - timed(lambda: model.generate(prompts, max_new_tokens=1))

    single, together = [], []
    for _ in range(arguments.rounds):
        single.append(decoding(batch[:1]))
        together.append(decoding(batch))
    one, eight = (n - 1) / statistics.median(single), 8 * (n - 1) / statistics.median(together)
    print(f"batch: one prompt {one:.0f} tokens/s, eight {eight:.0f} tokens/s together; ratio {eight / one:.2f}")


if __name__ == "__main__":
    main()
