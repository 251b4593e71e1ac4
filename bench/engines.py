"""One engine, one measurement, one process: the worker of ``bench/peers.py``.

Each engine can prepare a model file from a GPTBigCode checkpoint and measure it. All do the same work: after a warm-up prefill,
one prefill of N tokens and then M single-token steps, both on top of a cache of D tokens; logits of the last token only.

    python bench/engines.py prepare llama-cpp:q4_0 CHECKPOINT WORK
    python bench/engines.py measure llama-cpp:q4_0 CHECKPOINT WORK --threads 2

Only the chosen engine and the standard library are imported, so that each can live in an environment of its own.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Workload:
    """What every engine is asked to do."""

    threads: int
    prompt_tokens: int
    new_tokens: int
    depth: int

    def tokens(self, vocab_size: int, count: int) -> list[int]:
        """The same pseudo-random token ids for every engine; low ids are special tokens and left out."""
        generator = random.Random(0)
        return [generator.randrange(16, vocab_size) for _ in range(count)]


def result(workload: Workload, *, first_token_s: float, prefill_s: float, decode_s: float) -> dict[str, float]:
    """One measurement, under the keys of ``gptbigcode-cpu bench --json``."""
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in status if line.startswith("VmHWM:"))
    return {
        "prefill_tokens_per_s": workload.prompt_tokens / prefill_s,
        "decode_tokens_per_s": workload.new_tokens / decode_s,
        "time_to_first_token_s": first_token_s,
        "peak_rss_bytes": int(peak.split()[1]) * 1024,
    }


def seconds(action: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


# gptbigcode-cpu


def prepare_gptbigcode_cpu(dtype: str, checkpoint: Path, work: Path) -> None:
    """Convert with this package."""
    from gptbigcode_cpu.convert import convert

    out = work / f"gptbigcode-cpu-{dtype}"
    if not out.exists():
        convert(checkpoint, out, dtype=dtype)


def measure_gptbigcode_cpu(dtype: str, checkpoint: Path, work: Path, workload: Workload) -> dict[str, float]:
    """The measurement behind ``gptbigcode-cpu bench``."""
    from gptbigcode_cpu.cli.bench import measure

    measured = measure(
        work / f"gptbigcode-cpu-{dtype}",
        prompt_tokens=workload.prompt_tokens,
        new_tokens=workload.new_tokens,
        depth=workload.depth,
        threads=workload.threads,
        repeat=1,
    )
    return result(
        workload,
        first_token_s=measured.time_to_first_token_s,
        prefill_s=workload.prompt_tokens / measured.prefill_tokens_per_s,
        decode_s=workload.new_tokens / measured.decode_tokens_per_s,
    )


# llama.cpp

_LLAMA_FTYPES = {"q4_0": 2, "q8_0": 7, "q4_k_m": 15}


def prepare_gguf(_variant: str, checkpoint: Path, work: Path) -> None:
    """Write the checkpoint as GGUF, weights in bfloat16; needs ``gguf`` and numpy, not llama.cpp."""
    out = work / "model-bf16.gguf"
    if out.exists():
        return
    import gguf
    import numpy as np

    config = json.loads((checkpoint / "config.json").read_text())
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.STARCODER, config["n_layer"])
    temporary = out.with_suffix(".partial")
    writer = gguf.GGUFWriter(temporary, "starcoder")
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(config["n_inner"])
    writer.add_block_count(config["n_layer"])
    writer.add_head_count(config["n_head"])
    writer.add_head_count_kv(1)
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_tokenizer_model("none")  # token ids go in and come out; no text is needed
    writer.add_vocab_size(config["vocab_size"])

    weights = checkpoint / "model.safetensors"
    with weights.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_size))
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if entry["dtype"] != "BF16":
            raise SystemExit(f"{name} is {entry['dtype']}; this benchmark reads BF16 checkpoints in one file")
        start, _ = entry["data_offsets"]
        bits = np.memmap(weights, np.uint16, "r", 8 + header_size + start, tuple(entry["shape"]))
        target = names.get_name(name, try_suffixes=(".weight", ".bias")) or name
        if len(entry["shape"]) == 1 or name == "transformer.wpe.weight":
            writer.add_tensor(target, (bits.astype(np.uint32) << 16).view(np.float32))
        else:
            writer.add_tensor(target, bits.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    temporary.rename(out)


def _quiet_llama() -> Any:
    import llama_cpp

    ignore = llama_cpp.llama_log_callback(lambda _level, _text, _data: None)
    llama_cpp.llama_log_set(ignore, ctypes.c_void_p())
    llama_cpp.llama_backend_init()
    return llama_cpp, ignore  # the callback must outlive its use


def prepare_llama_cpp(variant: str, checkpoint: Path, work: Path) -> None:
    """Quantise the GGUF file with llama.cpp's own quantiser."""
    out = work / f"model-{variant}.gguf"
    if out.exists():
        return
    llama, _keep = _quiet_llama()
    params = llama.llama_model_quantize_default_params()
    params.ftype = _LLAMA_FTYPES[variant]
    temporary = out.with_suffix(".partial")
    if llama.llama_model_quantize(bytes(work / "model-bf16.gguf"), bytes(temporary), ctypes.byref(params)) != 0:
        raise SystemExit(f"llama.cpp could not quantise to {variant}")
    temporary.rename(out)


def measure_llama_cpp(variant: str, checkpoint: Path, work: Path, workload: Workload) -> dict[str, float]:
    """llama.cpp through ``llama_decode``, as its own ``llama-bench`` calls it."""
    llama, _keep = _quiet_llama()
    vocab_size = json.loads((checkpoint / "config.json").read_text())["vocab_size"]
    depth, longest = workload.depth, max(workload.prompt_tokens, workload.new_tokens, 512)
    batch = llama.llama_batch_init(longest, 0, 1)

    def forward(tokens: list[int], start: int) -> None:
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = start + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = i == len(tokens) - 1
        if llama.llama_decode(context, batch) != 0:
            raise SystemExit("llama_decode failed")
        llama.llama_synchronize(context)

    def forget(start: int) -> None:
        llama.llama_memory_seq_rm(llama.llama_get_memory(context), 0, start, -1)

    prompt = workload.tokens(vocab_size, workload.prompt_tokens)
    start = time.perf_counter()
    model = llama.llama_model_load_from_file(bytes(work / f"model-{variant}.gguf"), llama.llama_model_default_params())
    params = llama.llama_context_default_params()
    params.n_ctx = depth + longest
    params.n_batch = longest
    params.n_threads = params.n_threads_batch = workload.threads
    context = llama.llama_init_from_model(model, params)
    if not context:
        raise SystemExit("llama.cpp could not load the model")
    forward(prompt, 0)
    first_token_s = time.perf_counter() - start
    forget(0)

    past, steps = workload.tokens(vocab_size, depth), workload.tokens(vocab_size, workload.new_tokens)
    for i in range(0, depth, 512):
        forward(past[i : i + 512], i)
    prefill_s = seconds(lambda: forward(prompt, depth))
    forget(depth)

    def decode() -> None:
        for i, token in enumerate(steps):
            forward([token], depth + i)

    decode_s = seconds(decode)
    return result(workload, first_token_s=first_token_s, prefill_s=prefill_s, decode_s=decode_s)


# CTranslate2


def prepare_ctranslate2(variant: str, checkpoint: Path, work: Path) -> None:
    """Convert with CTranslate2's transformers converter."""
    from ctranslate2.converters import TransformersConverter

    out = work / f"ctranslate2-{variant}"
    if not out.exists():
        TransformersConverter(str(checkpoint), low_cpu_mem_usage=True).convert(str(out), quantization=variant)


def measure_ctranslate2(variant: str, checkpoint: Path, work: Path, workload: Workload) -> dict[str, float]:
    """CTranslate2 has no call for a step: speeds are differences between runs of ``generate_batch``."""
    import ctranslate2

    path = work / f"ctranslate2-{variant}"
    vocabulary = json.loads((path / "vocabulary.json").read_text())
    past = [vocabulary[i] for i in workload.tokens(len(vocabulary), workload.depth)]
    prompt = [vocabulary[i] for i in workload.tokens(len(vocabulary), workload.prompt_tokens)]

    def generate(tokens: list[str], count: int) -> None:
        generator.generate_batch([tokens], max_length=count, min_length=count, sampling_topk=1, include_prompt_in_result=False)

    start = time.perf_counter()
    generator = ctranslate2.Generator(str(path), compute_type=variant, intra_threads=workload.threads, inter_threads=1)
    generate(prompt, 1)
    first_token_s = time.perf_counter() - start

    past_s = seconds(lambda: generate(past, 1)) if past else 0.0
    prefill_s = seconds(lambda: generate(past + prompt, 1)) - past_s
    base = past or prompt[:1]
    base_s = past_s or seconds(lambda: generate(base, 1))
    decode_s = seconds(lambda: generate(base, workload.new_tokens + 1)) - base_s
    return result(workload, first_token_s=first_token_s, prefill_s=prefill_s, decode_s=decode_s)


# transformers


def prepare_transformers(variant: str, checkpoint: Path, work: Path) -> None:
    """transformers reads the checkpoint itself."""


def measure_transformers(variant: str, checkpoint: Path, work: Path, workload: Workload) -> dict[str, float]:
    """transformers' own forward pass with a key/value cache."""
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache

    torch.set_num_threads(workload.threads)
    start = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=getattr(torch, variant))

    def forward(tokens: list[int], cache: DynamicCache) -> DynamicCache:
        model(torch.tensor([tokens]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache

    def deep_cache() -> DynamicCache:
        return forward(past, DynamicCache()) if past else DynamicCache()

    past = workload.tokens(model.config.vocab_size, workload.depth)
    prompt = workload.tokens(model.config.vocab_size, workload.prompt_tokens)
    steps = workload.tokens(model.config.vocab_size, workload.new_tokens)
    with torch.inference_mode():
        forward(prompt, DynamicCache())
        first_token_s = time.perf_counter() - start
        cache = deep_cache()
        prefill_s = seconds(lambda: forward(prompt, cache))
        cache = deep_cache()
        decode_s = seconds(lambda: [forward([token], cache) for token in steps])
    return result(workload, first_token_s=first_token_s, prefill_s=prefill_s, decode_s=decode_s)


PREPARE = {
    "gptbigcode-cpu": prepare_gptbigcode_cpu,
    "gguf": prepare_gguf,
    "llama-cpp": prepare_llama_cpp,
    "ctranslate2": prepare_ctranslate2,
    "transformers": prepare_transformers,
}
MEASURE = {
    "gptbigcode-cpu": measure_gptbigcode_cpu,
    "llama-cpp": measure_llama_cpp,
    "ctranslate2": measure_ctranslate2,
    "transformers": measure_transformers,
}


def main() -> None:
    """Prepare or measure one engine; a measurement is the last line on stdout, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["prepare", "measure"])
    parser.add_argument("engine", help="ENGINE:VARIANT")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("work", type=Path)
    for option in ("threads", "prompt-tokens", "new-tokens", "depth"):
        parser.add_argument(f"--{option}", type=int, default=0)
    arguments = parser.parse_args()
    engine, _, variant = arguments.engine.partition(":")
    if arguments.action == "prepare":
        PREPARE[engine](variant, arguments.checkpoint, arguments.work)
        return
    workload = Workload(arguments.threads, arguments.prompt_tokens, arguments.new_tokens, arguments.depth)
    print(json.dumps(MEASURE[engine](variant, arguments.checkpoint, arguments.work, workload)))


if __name__ == "__main__":
    main()
