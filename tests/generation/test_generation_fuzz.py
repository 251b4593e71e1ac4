"""Calls with drawn options and values: whatever is passed, the answer is a result or an error of this package."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptbigcode_cpu import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    GenerationConfig,
    GPTBigCodeError,
    MaxLengthCriteria,
    pipeline,
)
from gptbigcode_cpu.engine.options import ALIASES, DEFAULTS, RULES
from gptbigcode_cpu.generation.unsupported import UNSUPPORTED
from gptbigcode_cpu.pipelines.text_generation import OWN_OPTIONS

SECONDS = 40.0  # at most; the drawn cases take about ten
CASES = 600

NUMBERS: list[Any] = [0, 1, -1, 2, 3, 5, 16, 63, 64, 65, 271, 272, 2**31 - 1, 2**31, 2**63, 2**64 - 1, 2**64, 10**30, 10**400]
NUMBERS += [10**5000, 0.0, -0.0, 0.5, 1.0, 1.5, 2.0, -1.0, 1e-45, 1e-30, 1e30, 1e38, 1e39, 1e308]
NUMBERS += [float("nan"), float("inf"), float("-inf"), np.int64(3), np.int8(-1), np.uint64(2**64 - 1), np.float32(0.5)]
NUMBERS += [np.float16("nan"), np.bool_(True), np.array(2), np.longdouble(1)]
ODD: list[Any] = [None, True, False, "", "a", "never", "constant", "\n", b"a", [], (), {}, [None], [[]], [1, "a"], [True]]
ODD += [[2**31], [-1], [1, 2], (3, 4), [[5, 6], [7]], {(1, 2): 1.0}, {3: -1.0}, {"3": 1}, {3: 1e39}, [[[3], -1.0]], [0.5]]
ODD += [["x", ""], ["x"], range(3), {1, 2}, object(), np.array([1, 2]), np.array([[1.5]]), np.array(["x"]), np.array([None])]
ODD += [1j, iter([1]), [[1, [2, [3]]]]]
TOKENS: list[Any] = [0, 43, [43], [43, 188], [188], range(100, 200), np.array([3, 4])]
ALLOWED: list[Any] = [None, 3, [], [-1], [272], np.array([5, 6]), ["x"], [None], range(9), {5, 6}, "x", 10**400]
WITHOUT_LENGTH = MaxLengthCriteria(5)
WITHOUT_LENGTH.max_length = None  # type: ignore[assignment]
FUNCTIONS: dict[str, list[Any]] = {
    "logits_processor": [
        [],
        [lambda ids, scores: scores],
        [lambda ids, scores: None],
        [lambda ids, scores: scores * np.nan],
        [3],
    ],
    "stopping_criteria": [
        [lambda ids, scores: None],
        [lambda ids, scores: "x"],
        [lambda ids, scores: True],
        [MaxLengthCriteria(5), MaxLengthCriteria(4)],
        [WITHOUT_LENGTH],
        [None],
    ],
    "prefix_allowed_tokens_fn": [lambda prompt, ids, answer=answer: answer for answer in ALLOWED],
    "assistant_model": [3, "x"],
    "tokenizer": [3, "x"],
    "streamer": [3],
    "past_key_values": [3, [], DynamicCache()],
    "cache": [()],
    "negative_prompt_ids": [[[3]], [[]], 3, "x", [[1] * 80]],
    "attention_mask": [[[1, 1, 1]], [[1.0, 1.0, 1.0]], [[0, 0, 0]], [[0.5, 1, 1]], "x", 3, [[1, 1]]],
    "generation_config": [GenerationConfig(max_new_tokens=2), {}, 3],
    "regex": [3, "a+"],
    "json_schema": [3],
}
# Values that are right, at the ends of what is.
VALID: dict[str, list[Any]] = {
    "max_length": [4, 5, 65],
    "max_new_tokens": [1, 4, 62],
    "min_length": [0, 5, 100],
    "min_new_tokens": [0, 2, 100],
    "early_stopping": [True, "never"],
    "max_time": [1e-9, 5],
    "stop_strings": ["a", ["a", "é"]],
    "length_penalty": [-3e38, -2, 0, 3e38],
    "num_return_sequences": [1, 2],
    "temperature": [1.2e-38, 0.5, 3e38],
    "top_k": [0, 1, 2**31 - 1],
    "top_p": [1e-45, 0.5, 1],
    "min_p": [0, 0.5, 1],
    "top_h": [1e-45, 0.5, 1.0],
    "typical_p": [1e-45, 0.5, 1],
    "epsilon_cutoff": [0, 0.01, 0.999],
    "eta_cutoff": [0, 0.01, 0.999],
    "repetition_penalty": [1.2e-38, 1.5, 3e38],
    "encoder_repetition_penalty": [1.2e-38, 1.5, 3e38],
    "no_repeat_ngram_size": [0, 1, 3, 2**31 - 1],
    "encoder_no_repeat_ngram_size": [0, 1, 3, 2**31 - 1],
    "bad_words_ids": [[[43]], [[5, 6], [188]]],
    "sequence_bias": [{(43,): 3e38}, [[[5, 6], -3e38]], {(188,): float("-inf")}],
    "logit_bias": [{43: 3e38}, {188: float("-inf")}],
    "suppress_tokens": [[], [43, 2**31 - 1], [*range(272)]],
    "begin_suppress_tokens": [[], [188], [*range(272)]],
    "forced_bos_token_id": [9],
    "forced_eos_token_id": [9, [9, 10]],
    "exponential_decay_length_penalty": [(0, 1.2e-38), (1, 1.5), (0, 3e38)],
    "guidance_scale": [-3e38, 0, 1.5, 3e38],
    "eos_token_id": [-1, [], 188, [43, 2**31 - 1]],
    "pad_token_id": [5, 271, 2**31 - 1],
    "prompt_lookup_num_tokens": [1, 2**31 - 1],
    "max_matching_ngram_size": [1, 2**31 - 1],
    "seed": [0, 2**64 - 1],
    "json_schema": [True],
    "truncation": [True, False],
    "prefix": ["", "b"],
    "stop_sequence": ["a"],
    "handle_long_generation": ["hole"],
    "top_logprobs": [0, 3, 272],
    "texts": ["a b", ["a", "b"]],
    "mode": ["psm", "spm"],
    "extra_files": [{"a": "b"}, [("a", "b")]],
    **{name: [True, False] for name in ("do_sample", "use_cache", "return_dict_in_generate", "output_scores")},
    **{name: [True, False] for name in ("output_logits", "renormalize_logits", "remove_invalid_values", "return_tensors")},
}
PROMPTS: list[Any] = [[[5, 6, 7]], [[5, 6, 7], [8, 9, 10]], [5, 6, 7], np.array([[5, 6, 7]]), [[5.0, 6.0]], [[300]], [[-1]], []]
PROMPTS += ["text", None, 3, [[5] * 64], [[5] * 65], {"input_ids": [[5]]}, [[5, 6], [7]], [[10**30]], [[None]]]
TEXTS: list[Any] = ["a b", "", ["a", "bc"], [], None, 3, b"a", ["a", 3], [{"role": "user", "content": "a"}], [{"role": 3}]]
TEXTS += [{"a": 1}, "é\U0001f642"]


@pytest.fixture(scope="module")
def subjects(
    converted: Callable[..., Path], make_checkpoint: Callable[..., Path], tmp_path_factory: Any
) -> tuple[Any, Any, Any]:
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
    path = converted("float32", make_checkpoint(tmp_path_factory.mktemp("fuzz") / "model", seed=8, **sizes))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path, num_threads=1), AutoTokenizer.from_pretrained(path)
    return model, tokenizer, pipeline(model=model, tokenizer=tokenizer)


def drawn_options(random: np.random.Generator, names: list[str]) -> dict[str, Any]:
    def one(choices: list[Any]) -> Any:
        return choices[int(random.integers(len(choices)))]

    options: dict[str, Any] = {}
    for _ in range(int(random.integers(1, 5))):
        name = one(names)
        pools = [NUMBERS, ODD, TOKENS, *([FUNCTIONS[name]] * 6 if name in FUNCTIONS else [])]
        pools += [[DEFAULTS[name]] for _ in range(2) if name in DEFAULTS]
        options[name] = one(VALID[name]) if name in VALID and random.random() < 0.7 else one(one(pools))
    if random.random() < 0.4:
        options["do_sample"] = True
    if random.random() < 0.2:
        options["num_beams"] = int(random.integers(2, 4))
    if random.random() < 0.2:
        options |= {"return_dict_in_generate": True, "output_scores": True}
    if "max_new_tokens" not in options and random.random() < 0.9:
        options["max_new_tokens"] = int(random.integers(1, 4))
    for name in ("num_beams", "num_return_sequences"):  # valid numbers of rows that would take minutes
        if isinstance(value := options.get(name), (int, np.integer)) and 16 < value < 2**17:
            options[name] = 3
    return options


def calls(model: Any, tokenizer: Any, pipe: Any, random: np.random.Generator) -> Iterator[tuple[str, Callable[[], Any]]]:
    def one(choices: list[Any]) -> Any:
        return choices[int(random.integers(len(choices)))]

    generation = [*RULES, *RULES, *ALIASES, *UNSUPPORTED, *FUNCTIONS]
    prompt = one(PROMPTS) if random.random() < 0.3 else PROMPTS[0]
    text = one(TEXTS) if random.random() < 0.3 else "a b"
    kind = one(["generate", "generate", "generate", "stream", "pipe", "pipe", "pipe.stream", "fill", "score"])
    names = {
        "pipe": [*generation, *OWN_OPTIONS, *OWN_OPTIONS],
        "pipe.stream": [*generation, *OWN_OPTIONS],
        "fill": [*generation, "mode", "extra_files", "repo_name", "prefix", "suffix"],
        "score": ["texts", "tokenizer", "top_logprobs", "prefix_token_id", "add_special_tokens"],
    }.get(kind, generation)
    options = drawn_options(random, names)
    if kind == "score":
        options = {"texts": one(TEXTS + PROMPTS), "tokenizer": tokenizer} | {k: v for k, v in options.items() if k in names}
    if kind == "fill":
        options = {"prefix": "a(", "suffix": ")", "tokenizer": tokenizer} | options
    functions: dict[str, Callable[[], Any]] = {
        "generate": lambda: model.generate(prompt, **options),
        "stream": lambda: list(model.stream(prompt, **options)),
        "pipe": lambda: pipe(text, **options),
        "pipe.stream": lambda: list(pipe.stream(text, **options)),
        "fill": lambda: model.fill(**options),
        "score": lambda: model.score(**options),
    }
    yield f"{kind}: prompt {prompt!r}, text {text!r}, options {list(options)}", functions[kind]


def test_calls(subjects: tuple[Any, Any, Any], draws: Callable[[int], Iterator[np.random.Generator]]) -> None:
    end, results = time.monotonic() + SECONDS, 0
    for random in draws(CASES):
        for what, call in calls(*subjects, random):
            try:
                call()
                results += 1
            except GPTBigCodeError as error:
                assert str(error), what
                assert "\n" not in str(error), what
                assert len(str(error)) < 600, what
            except TypeError as error:
                assert "unexpected keyword argument" in str(error) or "multiple values" in str(error), what
            except Exception as error:
                raise AssertionError(what) from error
        if time.monotonic() > end:
            break
    assert results > 0
