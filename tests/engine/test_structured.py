"""Structured output: JSON schemas, regular expressions and grammars are followed whatever the model prefers."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import numpy as np
import pytest

from gptbigcode_cpu import AutoModelForCausalLM, AutoTokenizer, pipeline
from gptbigcode_cpu.errors import InputError, MissingDependencyError

pytest.importorskip("llguidance")
from gptbigcode_cpu.engine.logits.structured import StructuredLogitsProcessor

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "kind": {"enum": ["function", "class"]},
        "lines": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "kind", "lines"],
    "additionalProperties": False,
}
LARK = 'start: "def " NAME "(" (NAME ("," NAME)*)? "): pass"\nNAME: /[a-z]{1,6}/\n'
SAMPLING: dict[str, Any] = {"do_sample": True, "temperature": 1.3, "top_k": 0, "max_new_tokens": 200}


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained("demo")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained("demo")


def written(model: Any, tokenizer: Any, prompt: str = "x = ", **options: Any) -> list[str]:
    ids = tokenizer.encode(prompt)
    output = model.generate([ids], **{"tokenizer": tokenizer, **SAMPLING, **options})[:, len(ids) :]
    assert (output == tokenizer.eos_token_id).any(axis=1).all()  # all came to their end
    texts: list[str] = tokenizer.batch_decode(output, skip_special_tokens=True)
    assert len(texts) == options.get("num_return_sequences", 1)
    return texts


@pytest.mark.parametrize("kind", [SCHEMA, json.dumps(SCHEMA)], ids=["dict", "text"])
def test_json(model: Any, tokenizer: Any, kind: Any) -> None:
    for text in written(model, tokenizer, json_schema=kind, num_return_sequences=12, seed=1):
        value = json.loads(text)
        assert {*value} == {"name", "kind", "lines"}
        assert value["kind"] in ("function", "class")
        assert isinstance(value["lines"], int)
        assert 0 <= value["lines"] <= 99
        assert len(value["name"]) <= 12


@pytest.mark.parametrize("pattern", [r"(\d{1,3}\.){3}\d{1,3}", r"[à-ü🙂]{3,5}!", "[ab]{4}"])
def test_regular_expression(model: Any, tokenizer: Any, pattern: str) -> None:
    """The second one needs characters that are spread over tokens."""
    texts = written(model, tokenizer, regex=pattern, num_return_sequences=12, seed=2)
    for text in texts:
        assert re.fullmatch(pattern, text), text
    assert len({*texts}) > 3


def test_grammar(model: Any, tokenizer: Any) -> None:
    for text in written(model, tokenizer, grammar=LARK, num_return_sequences=8, seed=3):
        assert re.fullmatch(r"def [a-z]{1,6}\(([a-z]{1,6}(,[a-z]{1,6})*)?\): pass", text), text


SEVERAL_BEAMS = {"num_beams": 6, "num_return_sequences": 6, "do_sample": False}


@pytest.mark.parametrize("options", [SEVERAL_BEAMS, {"do_sample": False, "prompt_lookup_num_tokens": 5}])
def test_beams_and_speculation(model: Any, tokenizer: Any, options: dict[str, Any]) -> None:
    pattern = "((a[xy]{3}a|b[xy]{3}b) ){6}"  # a place in it is more than a number of tokens
    for text in written(model, tokenizer, regex=pattern, temperature=None, top_k=None, **options):
        assert re.fullmatch(pattern, text), text


def test_speculation_writes_the_same(model: Any, tokenizer: Any) -> None:
    options: dict[str, Any] = {"json_schema": SCHEMA, "seed": 4}
    assert written(model, tokenizer, **options) == written(model, tokenizer, **options, prompt_lookup_num_tokens=6)


def test_rows_have_prompts_of_their_own(model: Any, tokenizer: Any) -> None:
    tokenizer.pad_token = "<fim_pad>"
    inputs = tokenizer(["x = ", "a much longer prompt = "], padding=True, padding_side="left", return_tensors="np")
    processor = StructuredLogitsProcessor(tokenizer, regex="[0-9]{5}")
    for _ in range(2):  # it can be used again
        output = model.generate(**inputs, logits_processor=[processor], seed=1, **SAMPLING)
        for text in tokenizer.batch_decode(output[:, inputs.input_ids.shape[1] :], skip_special_tokens=True):
            assert re.fullmatch("[0-9]{5}", text)


def test_pipeline_has_the_tokenizer() -> None:
    pipe = pipeline(model="demo")
    results = pipe(["x = ", "value = "], regex="[01]{8}", batch_size=2, return_full_text=False, seed=1)
    assert len(results) == 2
    assert all(re.fullmatch("[01]{8}", result[0]["generated_text"]) for result in results)
    assert re.fullmatch("[01]{8}", "".join(pipe.stream("x = ", regex="[01]{8}")))


def test_mistakes(model: Any, tokenizer: Any) -> None:
    for wrong in ({"regex": "("}, {"json_schema": "{"}, {"grammar": "start: nothing"}, {"json_schema": {"type": "thing"}}):
        (name,) = wrong
        with pytest.raises(InputError, match=f"the {name} is wrong"):
            StructuredLogitsProcessor(tokenizer, **wrong)
    for count in ({}, {"regex": "a", "grammar": LARK}):
        with pytest.raises(InputError, match="one of"):
            StructuredLogitsProcessor(tokenizer, **count)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="regex needs the tokenizer"):
        model.generate([[1]], regex="a")


def test_missing_library(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingDependencyError, match=r"gptbigcode-cpu\[structured\]"):
        StructuredLogitsProcessor(tokenizer, regex="a")


def test_only_tokens_of_the_grammar_are_left(tokenizer: Any) -> None:
    processor = StructuredLogitsProcessor(tokenizer, regex="ab|ac")
    ids = np.array([tokenizer.encode("x = ")])
    allowed = np.flatnonzero(np.isfinite(processor(ids, np.zeros((1, 8192), dtype=np.float32))[0]))
    assert {tokenizer.decode(token) for token in allowed.tolist()} == {"a", "ab", "ac"}
    after = np.concatenate([ids, [tokenizer.encode("ab")]], axis=1)
    allowed = np.flatnonzero(np.isfinite(processor(after, np.zeros((1, 8192), dtype=np.float32))[0]))
    assert allowed.tolist() == [tokenizer.eos_token_id]
