"""Compute the committed reference answers with transformers, in float32 on the CPU.

Usage: python tests/oracle/make_oracle.py
"""

from __future__ import annotations

import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from oracle import cases, data, forward_cases  # noqa: E402
from oracle.random_models import full_config, write_checkpoint  # noqa: E402

MARGIN = 1e-3  # between the best and the second best logit of a greedy step; smaller ones would make tests depend on rounding


def load(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()


def greedy(model: Any, prompt: NDArray[np.int64], n_tokens: int) -> NDArray[np.int64]:
    tokens = torch.from_numpy(prompt)[None]
    for _ in range(n_tokens):
        best = model(tokens).logits[0, -1].topk(2)
        if best.values[0] - best.values[1] < MARGIN:
            raise SystemExit(f"{model.name_or_path}: a greedy step is too close to call; choose another seed or prompt")
        tokens = torch.cat([tokens, best.indices[:1][None]], dim=1)
    return tokens[0, len(prompt) :].numpy()


def kept_rows(n: int) -> NDArray[np.int64]:
    """The positions whose logits are kept: both ends and some between."""
    return np.unique(np.r_[0:2, np.linspace(0, n - 1, 6).astype(int), max(0, n - 4) : n].clip(0, n - 1))


def random_models() -> dict[str, NDArray[Any]]:
    out: dict[str, NDArray[Any]] = {}
    for name in cases.RANDOM_MODELS:
        arguments = cases.random_model(name)
        config = full_config(
            **{key: value for key, value in arguments.items() if key not in ("seed", "storage", "prefix", "shards")}
        )
        prompt = cases.random_prompt(config["vocab_size"], config["n_positions"])
        with tempfile.TemporaryDirectory() as directory:
            model = load(write_checkpoint(Path(directory) / name, **arguments))
        rows = kept_rows(len(prompt))
        out[f"{name}/rows"] = rows
        out[f"{name}/logits"] = model(torch.from_numpy(prompt)[None]).logits[0, rows].numpy()
        out[f"{name}/greedy"] = greedy(model, prompt, cases.GREEDY_TOKENS)
    return out


def checkpoint() -> dict[str, NDArray[Any]]:
    model, tokenizer = load(data.CHECKPOINT), AutoTokenizer.from_pretrained(data.CHECKPOINT)
    out: dict[str, NDArray[Any]] = {}
    for i, text in enumerate(cases.CHECKPOINT_PROMPTS):
        prompt = np.array(tokenizer(text)["input_ids"])
        rows = np.unique([0, len(prompt) // 2, len(prompt) - 1])
        out[f"prompt{i}/tokens"] = prompt
        out[f"prompt{i}/rows"] = rows
        out[f"prompt{i}/logits"] = model(torch.from_numpy(prompt)[None]).logits[0, rows].numpy()
        out[f"prompt{i}/greedy"] = greedy(model, prompt, cases.CHECKPOINT_GREEDY_TOKENS)

    tokens: list[int] = []
    for text in data.held_out_texts():
        tokens += [tokenizer.eos_token_id, *tokenizer(text)["input_ids"]]
    windows = torch.tensor(tokens[: len(tokens) // cases.WINDOW * cases.WINDOW]).view(-1, cases.WINDOW)
    half = cases.WINDOW // 2
    losses = []
    for batch in windows.split(4):
        logits = model(batch).logits[:, half - 1 : -1].double()
        losses.append(torch.nn.functional.cross_entropy(logits.mT, batch[:, half:], reduction="none").mean(1))
    out["eval/crc32"] = np.array(zlib.crc32(np.array(tokens, np.int32).tobytes()))
    out["eval/losses"] = torch.cat(losses).numpy()
    return out


def calls() -> dict[str, NDArray[Any]]:
    """Answers to `forward_cases`."""
    out: dict[str, NDArray[Any]] = {}
    for name, model_case in forward_cases.MODELS.items():
        arguments = forward_cases.model_arguments(name)
        with tempfile.TemporaryDirectory() as directory:
            path = write_checkpoint(Path(directory) / name, **arguments)
            model_class = getattr(transformers, model_case["class"])
            model = model_class.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
        config = model.config
        found = forward_cases.cases_of(
            model_case["class"], config.vocab_size, config.n_embd, config.num_labels, config.pad_token_id
        )
        for case, steps in found.items():
            for i, arrays in enumerate(forward_cases.answers(model, steps, theirs=True)):
                out |= {f"{name}/{case}/{i}/{key}": value for key, value in arrays.items()}
    return out


def main() -> None:
    torch.set_grad_enabled(False)
    np.savez_compressed(HERE / "forward.npz", **calls())
    np.savez_compressed(HERE / "random_models.npz", **random_models())
    np.savez_compressed(HERE / "python_8m.npz", **checkpoint())


if __name__ == "__main__":
    main()
