"""One engine in one process, for ``bench/peers.py``: convert a checkpoint, say a first token, or be measured.

All engines do the same work on the same token ids: logits of the last token only, no sampling but for first tokens.

    python bench/worker.py prepare llama-cpp:q4_0 CHECKPOINT WORK
    python bench/worker.py first-token llama-cpp:q4_0 CHECKPOINT WORK --threads 2
    python bench/worker.py measure llama-cpp:q4_0 CHECKPOINT WORK --threads 2 --depths 0,4096 --rows 1,4
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from engines import CHUNK, LOAD, PREPARE, CTranslate2, Engine, Workload

# transformers imports a package named kernels if there is one, and would take kernels.py for it.
sys.modules["kernels"] = None  # type: ignore[assignment]

_SHORT_PROMPT = 8


def random_tokens(vocab_size: int, count: int) -> list[int]:
    """The same pseudo-random token ids for every engine; low ids are special tokens and left out."""
    generator = random.Random(0)
    return [generator.randrange(16, vocab_size) for _ in range(count)]


def vocab_size_of(checkpoint: Path) -> int:
    """The checkpoint's vocabulary."""
    size: int = json.loads((checkpoint / "config.json").read_text())["vocab_size"]
    return size


def seconds(action: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def measure_steps(engine: Engine, tokens: Callable[[int], list[int]], workload: Workload) -> dict[str, dict[str, float]]:
    """Prefill and decode at every depth, the cache filled once, and steps of several sequences, in seconds."""
    prefill, decode, rows = {}, {}, {}
    held, prompt, new = 0, tokens(workload.prompt_tokens), tokens(workload.new_tokens)
    past = tokens(max(workload.depths))
    for depth in sorted(workload.depths):
        for start in range(held, depth, CHUNK):
            engine.forward(past[start : min(start + CHUNK, depth)])
        prefill[str(depth)] = seconds(partial(engine.forward, prompt))
        engine.keep(depth)
        decode[str(depth)] = sum(seconds(partial(engine.forward, [token])) for token in new)
        engine.keep(depth)
        held = depth
    engine.keep(0)
    for count in workload.rows if engine.steps_of_many else ():
        rows[str(count)] = statistics.median(seconds(partial(engine.step, tokens(count))) for _ in new)
        engine.keep(0)
    return {"prefill_s": prefill, "decode_s": decode, "step_s": rows}


def measure_texts(engine: CTranslate2, tokens: Callable[[int], list[int]], workload: Workload) -> dict[str, dict[str, float]]:
    """The same as differences between whole texts, so at depth 0 only: deeper, the small would be a difference of the large."""
    prompt = tokens(workload.prompt_tokens)
    if 0 not in workload.depths:
        return {"prefill_s": {}, "decode_s": {}, "step_s": {}}
    one = seconds(partial(engine.generate, prompt[:1], 1))
    prefill = seconds(partial(engine.generate, prompt, 1))
    decode = seconds(partial(engine.generate, prompt[:1], workload.new_tokens + 1)) - one
    return {"prefill_s": {"0": prefill}, "decode_s": {"0": decode}, "step_s": {}}


def measure(name: str, variant: str, checkpoint: Path, work: Path, workload: Workload) -> dict[str, Any]:
    """One measurement. Speeds by depth, seconds of a step by rows."""
    vocab_size = vocab_size_of(checkpoint)

    def tokens(count: int) -> list[int]:
        return random_tokens(vocab_size, count)

    start = time.perf_counter()
    engine = LOAD[name](variant, checkpoint, work, workload)
    engine.forward(tokens(workload.prompt_tokens))
    engine.next_token()
    first_token_s = time.perf_counter() - start
    engine.keep(0)
    found = (
        measure_texts(engine, tokens, workload) if isinstance(engine, CTranslate2) else measure_steps(engine, tokens, workload)
    )
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in status if line.startswith("VmHWM:"))
    return {
        "build": engine.build,
        "prefill_tokens_per_s": {depth: workload.prompt_tokens / s for depth, s in found["prefill_s"].items()},
        "decode_tokens_per_s": {depth: workload.new_tokens / s for depth, s in found["decode_s"].items()},
        "step_s": found["step_s"],
        "time_to_first_token_s": first_token_s,
        "peak_rss_bytes": int(peak.split()[1]) * 1024,
    }


def main() -> None:
    """Do one thing with one engine; what is found is the last line on stdout."""

    def numbers(text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in text.split(",") if part)

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["prepare", "first-token", "measure"])
    parser.add_argument("engine", help="ENGINE:VARIANT")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("work", type=Path)
    for option in ("threads", "prompt-tokens", "new-tokens"):
        parser.add_argument(f"--{option}", type=int, default=1)
    parser.add_argument("--depths", type=numbers, default=(0,))
    parser.add_argument("--rows", type=numbers, default=())
    arguments = parser.parse_args()
    name, _, variant = arguments.engine.partition(":")
    checkpoint, work = arguments.checkpoint, arguments.work
    workload = Workload(arguments.threads, arguments.prompt_tokens, arguments.new_tokens, arguments.depths, arguments.rows)
    if arguments.action == "prepare":
        PREPARE[name](variant, checkpoint, work)
    elif arguments.action == "measure":
        print(json.dumps(measure(name, variant, checkpoint, work, workload)))
    else:
        engine = LOAD[name](variant, checkpoint, work, workload)
        engine.forward(random_tokens(vocab_size_of(checkpoint), _SHORT_PROMPT))
        print(engine.next_token(), flush=True)


if __name__ == "__main__":
    main()
