"""Compute the committed answers about generation with transformers, in float32 on the CPU.

Usage: python tests/oracle/make_generation_oracle.py
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from oracle import data  # noqa: E402
from oracle import generation_cases as cases  # noqa: E402
from oracle.random_models import write_checkpoint  # noqa: E402


def load(path: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()


def ids_of_letters(name: str, tokenizer: Any) -> dict[str, int]:
    letters = cases.LETTERS[name]
    return {letter: token if isinstance(token, int) else tokenizer(token)["input_ids"][0] for letter, token in letters.items()}


def questions(name: str, tokenizer: Any) -> Iterator[tuple[str, NDArray[np.int64], NDArray[np.int64], dict[str, Any]]]:
    """Name, token ids, mask and options of every case."""
    ids = ids_of_letters(name, tokenizer)
    rows = [tokenizer(text)["input_ids"] for text in cases.PROMPTS]
    for case, options in {**cases.GREEDY, **cases.ONE_TOKEN, **cases.BEAMS}.items():
        batch = [row[-1:] for row in rows] if case in cases.ONE_TOKEN else rows
        given = cases.DEFAULTS | cases.with_ids(options, ids)
        yield (case, *cases.left_padded(batch), {key: value for key, value in given.items() if value is not None})


def answers(name: str, path: Path) -> dict[str, NDArray[Any]]:
    model, tokenizer = load(path), transformers.AutoTokenizer.from_pretrained(path)
    out: dict[str, NDArray[Any]] = {}
    for case, ids, mask, options in questions(name, tokenizer):
        extra = {"tokenizer": tokenizer} if "stop_strings" in options else {}
        result = model.generate(
            torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask),
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
            **options,
            **extra,
        )
        out[f"{name}/{case}/sequences"] = result.sequences.numpy().astype(np.int32)
        if case in cases.BEAMS:
            out[f"{name}/{case}/sequences_scores"] = result.sequences_scores.numpy()
            out[f"{name}/{case}/beam_indices"] = result.beam_indices.numpy().astype(np.int16)
    return out


def processed() -> dict[str, NDArray[Any]]:
    out = {}
    for number, (name, arguments) in enumerate(cases.PROCESSORS):
        processor = getattr(transformers.generation.logits_process, name)(**arguments)
        result = processor(torch.from_numpy(cases.contexts()), torch.from_numpy(cases.scores()))
        out[f"processors/{number}"] = result.numpy()
    return out


def main() -> None:
    torch.set_grad_enabled(False)
    transformers.logging.set_verbosity_error()
    out = processed()
    with tempfile.TemporaryDirectory() as directory:
        out |= answers("random", write_checkpoint(Path(directory) / "random", **cases.MODEL))
    out |= answers("python_8m", data.CHECKPOINT)
    np.savez_compressed(HERE / "generation.npz", **out)


if __name__ == "__main__":
    main()
