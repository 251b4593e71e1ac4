"""Every file of every kind of model, damaged: used, or refused in one line, in bounded time and memory."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from oracle import drawn, hostile, model_kinds

from gptbigcode_cpu import AutoTokenizer
from gptbigcode_cpu.errors import CheckpointError, ConfigError, GPTBigCodeError, TokenizerError

SECONDS = float(os.environ.get("GPTBIGCODE_CPU_FUZZ_SECONDS", "3"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A model of every kind, to be copied."""
    return model_kinds.write_models(tmp_path_factory.mktemp("models"))


def test_right_models_are_used_without_complaint(tmp_path: Path, models: list[Path]) -> None:
    for model in models:
        assert list(hostile.attempt(model, tmp_path, None)) == []


def test_damaged_models_are_refused_or_used(tmp_path: Path, models: list[Path], draws: Callable[..., Any]) -> None:
    """In a process of its own, which may take one GiB more than right models need, and a minute for each."""
    arguments = (tmp_path, drawn.SEED, 0, 1 << 30, SECONDS, *models)
    run = subprocess.run([sys.executable, hostile.__file__, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"the process ended; the number of the case is the last: {run.stderr[-1000:]}"
    assert run.stdout == ""
    assert len([line for line in run.stderr.splitlines() if line.isdigit()]) > len(models), "every kind has its turn"


@pytest.mark.parametrize("kind", ["plain", "old", "detailed", "gptq", "gguf", "converted", "adapted"])
def test_pipes_in_place_of_files(tmp_path: Path, models: list[Path], kind: str) -> None:
    """Nothing waits for a writer, and nothing goes on as if there were no such file."""
    source = next(model for model in models if model.name == kind)
    for name in sorted(path.name for path in source.iterdir()):
        refusals = []
        for use in hostile.prepared(source, tmp_path, lambda model, name=name: hostile.replace_by_pipe(model / name)):
            try:
                use()
            except GPTBigCodeError as error:
                refusals.append(str(error))
        assert any("not a regular file" in refusal or "nor a regular file" in refusal for refusal in refusals), (name, refusals)


def changed(name: str, **values: str) -> Callable[[Path], None]:
    """Sets values, given as JSON, in a file of a model."""

    def change(model: Path) -> None:
        content = json.loads((model / name).read_text()) if (model / name).exists() else {}
        marks = {f"@{key}@": value for key, value in values.items()}
        text = json.dumps(content | {key: f"@{key}@" for key in values})
        for mark, value in marks.items():
            text = text.replace(json.dumps(mark), value)
        (model / name).write_text(text)

    return change


def written(name: str, content: bytes) -> Callable[[Path], None]:
    """Gives a file of a model another content."""
    return lambda model: (model / name).write_bytes(content) and None


def moved_id(model: Path) -> None:
    """One token of tokenizer.json gets an id beyond any model."""
    content = json.loads((model / "tokenizer.json").read_text())
    content["model"]["vocab"]["zz"] = 2**31
    (model / "tokenizer.json").write_text(json.dumps(content))


DEEP = "[" * 100_000 + "]" * 100_000
CONFIG, SETTINGS, INDEX = "config.json", "tokenizer_config.json", "model.safetensors.index.json"
REFUSED: list[tuple[str, Callable[[Path], None], type[GPTBigCodeError], str]] = [
    ("plain", changed(CONFIG, more=DEEP), ConfigError, r"config\.json is nested more than 100 deep"),
    ("plain", changed(CONFIG, more=r'"\ud800"'), ConfigError, r"config\.json holds the lone surrogate \\ud800"),
    ("plain", changed(CONFIG, eos_token_id=str(10**30)), ConfigError, r"eos_token_id must be a token id, not 1000"),
    ("plain", changed(CONFIG, n_embd=str(10**400)), ConfigError, r"n_embd is 1000"),
    ("plain", changed(CONFIG, layer_norm_epsilon="NaN"), ConfigError, r"layer_norm_epsilon must be a number between"),
    ("plain", changed(CONFIG, layer_norm_epsilon=str(10**400)), ConfigError, r"layer_norm_epsilon must be a number between"),
    ("plain", changed(CONFIG, id2label='{"Infinity": "a"}'), ConfigError, r"id2label must have numbers as keys, it is \{"),
    (
        "plain",
        changed(CONFIG, label2id='{"a": 1e999}'),
        ConfigError,
        r"label2id must have numbers as values, it is \{",
    ),
    ("plain", changed(CONFIG, num_labels=str(2**24)), ConfigError, r"num_labels must be a whole number from 1 to 262144"),
    ("plain", changed(CONFIG, activation_function=f'"{"x" * 100_000}"'), ConfigError, r"activation_function 'xxx"),
    ("plain", written(CONFIG, b"[]"), ConfigError, r"config\.json must hold a JSON object, not a list"),
    ("plain", written(CONFIG, b""), ConfigError, r"config\.json is empty"),
    ("plain", written(CONFIG, "{}".encode("utf-16")), ConfigError, r"config\.json is not UTF-8, it looks like UTF-16"),
    ("plain", written("generation_config.json", DEEP.encode()), ConfigError, r"generation_config\.json is nested more than"),
    ("plain", written(SETTINGS, b"\xff"), TokenizerError, r"tokenizer_config\.json is not UTF-8 \(byte 0xff"),
    (
        "plain",
        changed(SETTINGS, model_max_length='"long"'),
        TokenizerError,
        r"model_max_length must be a number of at",
    ),
    (
        "plain",
        changed(SETTINGS, model_max_length="NaN"),
        TokenizerError,
        r"model_max_length must be a number of at",
    ),
    ("plain", changed(SETTINGS, model_input_names="7"), TokenizerError, r"model_input_names must be a list of names, not 7"),
    (
        "plain",
        changed(SETTINGS, added_tokens_decoder="[1]"),
        TokenizerError,
        r"added_tokens_decoder must be an object",
    ),
    ("plain", changed(SETTINGS, added_tokens_decoder='{"x": {}}'), TokenizerError, r"added_tokens_decoder must be an object"),
    (
        "plain",
        changed(SETTINGS, added_tokens_decoder='{"7": 7}'),
        TokenizerError,
        r"added_tokens_decoder must be a string, not",
    ),
    ("plain", changed(SETTINGS, extra_special_tokens="7"), TokenizerError, r"extra_special_tokens must be a list of tokens"),
    ("plain", changed(SETTINGS, pad_token="[7]"), TokenizerError, r"pad_token must be a string, not \[7\]"),
    ("plain", moved_id, TokenizerError, r"tokenizer\.json gives 'zz' the id 2147483648, which is no token id of a model"),
    ("plain", written("tokenizer.json", b"{}"), TokenizerError, r"tokenizer\.json is damaged"),
    ("old", changed("vocab.json", zz=str(2**31)), CheckpointError, r"vocab\.json gives the token 'zz' the id 2147483648"),
    ("old", changed("vocab.json", zz="-1"), CheckpointError, r"vocab\.json gives the token 'zz' the id -1"),
    ("old", changed("vocab.json", zz="1.0"), CheckpointError, r"vocab\.json gives the token 'zz' the id 1\.0"),
    ("old", changed("added_tokens.json", zz='"1"'), CheckpointError, r"added_tokens\.json gives the token 'zz' the id '1'"),
    ("old", written("merges.txt", b"a\n"), CheckpointError, r"vocab\.json and merges\.txt do not make a tokenizer"),
    ("adapted", changed("adapter_config.json", r=str(10**400)), ConfigError, r"the rank r is 1000"),
    (
        "adapted",
        changed("adapter_config.json", lora_alpha=str(10**400)),
        ConfigError,
        r"lora_alpha must be a number of at",
    ),
    ("adapted", changed("adapter_config.json", rank_pattern='{"a{9999999999999}": 1}'), ConfigError, r"is not a regular expr"),
    ("old", written(INDEX, b"[]"), CheckpointError, r"index\.json must hold a JSON object"),
    ("old", changed(INDEX, weight_map="7"), CheckpointError, r"weight_map must give each tensor a file name, it is 7"),
    ("old", changed(INDEX, weight_map=f'{{"a": "{"x" * 5000}"}}'), CheckpointError, r"lacks 1 of 1 files: xxx"),
    ("old", changed(INDEX, weight_map=r'{"a": "a\u0000b"}'), CheckpointError, r"'a\\x00b' is not the name of a file"),
]


@pytest.mark.parametrize(("kind", "change", "error", "message"), REFUSED, ids=[f"{i}" for i in range(len(REFUSED))])
def test_hostile_values(
    tmp_path: Path,
    models: list[Path],
    kind: str,
    change: Callable[[Path], None],
    error: type[GPTBigCodeError],
    message: str,
) -> None:
    source = next(model for model in models if model.name == kind)
    refusals = []
    for use in hostile.prepared(source, tmp_path, change):
        assert hostile.problem(use) is None
        try:
            use()
        except error as refusal:
            refusals.append(str(refusal))
        except GPTBigCodeError:
            continue
    assert any(re.search(message, refusal) for refusal in refusals), refusals


@pytest.mark.parametrize(
    "change",
    [
        changed(CONFIG, more="Infinity", other=str(10**400), name_or_path="7"),
        changed(SETTINGS, model_max_length=str(10**400), more=str(10**400)),
        changed(SETTINGS, model_max_length="1e999"),
        changed(SETTINGS, added_tokens_decoder="null", extra_special_tokens="null", model_input_names="null"),
        changed("special_tokens_map.json", x='{"content": "<|endoftext|>", "__type": "AddedToken"}'),
        written("preprocessor_config.json", b"\xff"),
        lambda model: written(CONFIG, b"\xef\xbb\xbf" + (model / CONFIG).read_bytes())(model),
        lambda model: written("tokenizer.json", b"\xef\xbb\xbf" + (model / "tokenizer.json").read_bytes())(model),
    ],
    ids=map(str, range(8)),
)
def test_what_changes_no_token_is_no_reason_to_refuse(
    tmp_path: Path, models: list[Path], change: Callable[[Path], None]
) -> None:
    for use in hostile.prepared(models[0], tmp_path, change):
        use()


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}, "is damaged: .*precompiled_charsmap"),
        ("normalizer", {"type": "Replace", "pattern": {"String": ""}, "content": "b"}, "cannot encode this text: index out of"),
        (
            "normalizer",
            {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b"},
            "cannot encode this text: .*retry-limit",
        ),
        ("pre_tokenizer", {"type": "FixedLength", "length": 0}, "cannot encode this text: chunk size must be non-zero"),
        (
            "post_processor",
            {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "x", "type_id": 0}}],
                "pair": [],
                "special_tokens": {},
            },
            "cannot encode this text: no entry found for key",
        ),
    ],
)
def test_panics_of_the_tokenizers_library_are_errors(
    tmp_path: Path, models: list[Path], part: str, value: dict[str, Any], message: str
) -> None:
    """They are no `Exception`: ``except Exception`` lets them through."""
    content = json.loads((models[0] / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(content | {part: value}))
    with pytest.raises(TokenizerError, match=message):
        AutoTokenizer.from_pretrained(tmp_path)("a" * 50 + "!")
