"""Generation options from generation_config.json and from objects of transformers: which count, and which are refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptbigcode_cpu import AutoModelForCausalLM, GenerationConfig, pipeline
from gptbigcode_cpu.convert import convert
from gptbigcode_cpu.errors import ConfigError, InputError

PROMPT = [[7, 8, 9, 10]]
NEW = 8

# What changes no token, or is read by nothing that a greedy call does.
HARMLESS: list[dict[str, Any]] = [
    {"use_cache": False},
    {"output_attentions": True, "output_hidden_states": True, "output_scores": True},
    {"cache_implementation": "static", "cache_config": {"batch_size": 1}, "max_cache_len": 7},
    {"low_memory": True, "trust_remote_code": True, "assistant_lookbehind": 4, "prefill_chunk_size": 8},
    {"compile_config": {"mode": "default"}, "disable_compile": True, "is_assistant": True, "speculation_type": "dflash"},
    {"temperature": 0.0},
    {"temperature": -1, "do_sample": False},
    {"temperature": "hot", "top_p": 0.0, "top_k": -1, "min_p": 3, "top_h": 0},
    {"typical_p": 0, "epsilon_cutoff": -1, "eta_cutoff": 2},
    {"top_p": 1.5, "do_sample": None},
    {"min_length": -1, "min_new_tokens": -1, "no_repeat_ngram_size": -1, "encoder_no_repeat_ngram_size": -1},
    {"num_return_sequences": 0, "bad_words_ids": [], "sequence_bias": {}, "stop_strings": [], "suppress_tokens": []},
    {"num_assistant_tokens": 0, "num_assistant_tokens_schedule": "weekly", "prompt_lookup_num_tokens": 0},
    {"early_stopping": "sometimes", "length_penalty": "long", "num_beam_groups": 4, "diversity_penalty": 0.5},
    {"pad_token_id": -1, "bos_token_id": -1, "max_time": None, "guidance_scale": 1},
    {"suppress_tokens": [-1], "begin_suppress_tokens": [], "forced_bos_token_id": -1, "custom_generate": "owner/name"},
    {"do_sample": 0, "use_cache": 0, "num_beams": 1.0, "renormalize_logits": 0.0, "repetition_penalty": 1},
    {
        "penalty_alpha": 0.0,
        "renormalize_logits": False,
        "_from_model_config": True,
        "transformers_version": "4.28",
        "other": {},
    },
]
# Options of a file that greedy decoding follows, with the argument that says the same.
FOLLOWED: list[dict[str, Any]] = [
    {"repetition_penalty": 1.7},
    {"no_repeat_ngram_size": 1},
    {"suppress_tokens": [*range(100, 272)]},
    {"max_length": 7},
    {"max_new_tokens": 3},
    {"num_beams": 3, "length_penalty": -2.0},
    {"sequence_bias": [[[188], -100.0]]},
]
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"penalty_alpha": 0.6, "top_k": 4}, "penalty_alpha"),
    ({"dola_layers": "low"}, "dola_layers"),
    ({"watermarking_config": {"greenlist_ratio": 0.25}}, "watermarking_config"),
    ({"token_healing": True}, "token_healing"),
    ({"num_beam_groups": 2, "num_beams": 4}, "num_beam_groups"),
    ({"force_words_ids": [[3]]}, "force_words_ids"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"max_new_tokens": 0}, "max_new_tokens"),
    ({"max_new_tokens": 3.5}, "max_new_tokens"),
    ({"do_sample": "false"}, "do_sample"),
    ({"eos_token_id": "end"}, "eos_token_id"),
    ({"max_length": 10**400}, "max_length"),
    ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences"),
]


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint: Callable[..., Path], tmp_path_factory: Any) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("options") / "model", seed=8)


@pytest.fixture
def with_options(checkpoint: Path, tmp_path: Path) -> Callable[..., Path]:
    """The checkpoint converted with a ``generation_config.json``, or with options in its ``config.json``."""

    def make(options: dict[str, Any], in_config: bool = False) -> Path:
        source, out = tmp_path / "source", tmp_path / "out"
        source.mkdir()
        for file in checkpoint.iterdir():
            (source / file.name).write_bytes(file.read_bytes())
        if in_config:
            (source / "generation_config.json").unlink()
            content = json.loads((source / "config.json").read_text())
            (source / "config.json").write_text(json.dumps(content | options))
        else:
            (source / "generation_config.json").write_text(json.dumps(options))
        convert(source, out, dtype="float32")
        return out

    return make


@pytest.fixture(scope="module")
def plain(converted: Callable[..., Path], checkpoint: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(converted("float32", checkpoint), num_threads=1)
    model.generation_config = GenerationConfig()
    return model


def opened(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, num_threads=1)


class TestFiles:
    @pytest.mark.parametrize("options", HARMLESS, ids=str)
    @pytest.mark.parametrize("in_config", [False, True])
    def test_neutral_values_change_nothing(
        self, with_options: Any, plain: Any, options: dict[str, Any], in_config: bool
    ) -> None:
        if in_config:  # these are keys of a configuration, too
            options = {k: v for k, v in options.items() if k not in ("output_attentions", "output_hidden_states", "use_cache")}
        model = opened(with_options(options, in_config))
        none = {} if not in_config else {"eos_token_id": None}
        assert (
            model.generate(PROMPT, max_new_tokens=NEW, **none).tolist() == plain.generate(PROMPT, max_new_tokens=NEW).tolist()
        )

    @pytest.mark.parametrize(
        ("options", "argument"), [({"max_length": 7.0}, {"max_length": 7}), ({"num_beams": 2.0}, {"num_beams": 2})], ids=str
    )
    def test_whole_numbers_with_a_point(self, with_options: Any, plain: Any, options: Any, argument: dict[str, Any]) -> None:
        assert opened(with_options(options)).generate(PROMPT).tolist() == plain.generate(PROMPT, **argument).tolist()
        with pytest.raises(InputError):
            plain.generate(PROMPT, **options)

    @pytest.mark.parametrize("options", FOLLOWED, ids=str)
    @pytest.mark.parametrize("in_config", [False, True])
    def test_options_in_files_are_followed(
        self, with_options: Any, plain: Any, options: dict[str, Any], in_config: bool
    ) -> None:
        model = opened(with_options(options, in_config))
        none: dict[str, Any] = {} if not in_config else {"eos_token_id": None}
        expected = plain.generate(PROMPT, **options).tolist()
        assert model.generate(PROMPT, **none).tolist() == expected
        assert expected != plain.generate(PROMPT).tolist()

    @pytest.mark.parametrize(("options", "name"), REFUSED, ids=str)
    def test_unsupported_options_are_refused_before_anything_is_written(
        self, with_options: Any, tmp_path: Path, options: Any, name: str
    ) -> None:
        with pytest.raises(ConfigError, match=rf"generation_config\.json: .*{name}") as error:
            with_options(options)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "out").exists()

    def test_a_bad_value_is_an_error_for_what_reads_it(self, with_options: Any, plain: Any) -> None:
        model = opened(with_options({"temperature": 0.0, "top_k": -1, "do_sample": True}))
        with pytest.raises(InputError, match="temperature must be a positive number"):
            model.generate(PROMPT)
        with pytest.raises(InputError, match="top_k"):
            model.generate(PROMPT, temperature=0.5)
        assert model.generate(PROMPT, temperature=0.5, top_k=5).shape == (1, 24)
        greedy = plain.generate(PROMPT, max_new_tokens=NEW).tolist()
        assert model.generate(PROMPT, do_sample=False, max_new_tokens=NEW).tolist() == greedy
        assert model.generate(PROMPT, GenerationConfig(do_sample=False, max_new_tokens=NEW)).tolist() == greedy

    def test_the_pipeline_does_not_replace_a_bad_value(self, with_options: Any) -> None:
        out = with_options({"temperature": 0.0})
        with pytest.raises(InputError, match="temperature"):
            pipeline(model=str(out), num_threads=1)("a", max_new_tokens=1)
        assert pipeline(model=str(out), num_threads=1, do_sample=False)("a", max_new_tokens=1)

    def test_the_file_takes_the_place_of_config_json(self, checkpoint: Path, with_options: Any) -> None:
        assert opened(with_options({"max_new_tokens": 2})).generation_config == GenerationConfig(max_new_tokens=2)

    def test_config_json_cannot_set_options_of_this_package(self, with_options: Any) -> None:
        config = opened(with_options({"seed": 42, "top_k": 3}, in_config=True)).generation_config
        assert (config.seed, config.top_k) == (None, 3)

    def test_ignored_options_are_kept_when_saving(self, with_options: Any, tmp_path: Path) -> None:
        model = opened(with_options({"temperature": 0.0, "cache_implementation": "static", "sequence_bias": [[[3], 1.0]]}))
        model.generation_config.sequence_bias = {(3, 4): 1.0}
        model.save_pretrained(tmp_path / "copy")
        content = json.loads((tmp_path / "copy" / "generation_config.json").read_text())
        assert content == {"temperature": 0.0, "cache_implementation": "static", "sequence_bias": [[[3, 4], 1.0]]}

    def test_ignored_options_are_not_reported(self, with_options: Any, caplog: pytest.LogCaptureFixture) -> None:
        out = with_options(HARMLESS[7] | HARMLESS[12] | HARMLESS[0])
        with caplog.at_level(logging.INFO):
            opened(out).generate(PROMPT, max_new_tokens=1)
        assert not caplog.records


class Theirs:
    """Like the `GenerationConfig` of transformers: any attribute, and defaults that say nothing."""

    def __init__(self, **options: Any) -> None:
        vars(self).update({"max_length": 20, "temperature": 1.0, "use_cache": True, "top_k": 50, "num_beams": None} | options)

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


Theirs.__name__ = "GenerationConfig"


class TestObjectsOfTransformers:
    def test_default_objects_change_nothing(self, with_options: Any, plain: Any) -> None:
        model = opened(with_options({"max_new_tokens": 3, "temperature": 0.2}))
        config = model.resolve_options(Theirs(repetition_penalty=1.5, temperature=0.7), {})
        assert (config.max_new_tokens, config.max_length, config.temperature) == (3, None, 0.7)
        assert config.repetition_penalty == 1.5

    def test_objects_as_arguments(self, plain: Any, converted: Callable[..., Path], checkpoint: Path) -> None:
        expected = plain.generate(PROMPT, max_new_tokens=NEW).tolist()
        config = Theirs(max_new_tokens=NEW, do_sample=False, temperature=0.0, use_cache=False, top_k=-1)
        assert plain.generate(PROMPT, generation_config=config).tolist() == expected
        assert list(plain.stream(PROMPT, config)) == expected[0][4:]
        path = converted("float32", checkpoint)
        model = AutoModelForCausalLM.from_pretrained(path, generation_config=config, num_threads=1)
        assert model.generate(PROMPT).tolist() == expected
        pipe = pipeline(model=str(path), num_threads=1, generation_config=config, return_tensors=True)
        text = pipe.tokenizer.decode(PROMPT[0])
        ids = pipe.tokenizer.encode(text)
        assert len(pipe(text)[0]["generated_token_ids"]) == len(ids) + NEW
        assert len(pipe(text, max_new_tokens=2)[0]["generated_token_ids"]) == len(ids) + 2
        assert len(pipe(text, generation_config=Theirs(max_new_tokens=1))[0]["generated_token_ids"]) == len(ids) + 1
        with pytest.raises(InputError, match="temperature"):
            plain.generate(PROMPT, generation_config=config, do_sample=True)

    @pytest.mark.parametrize("wrong", [3, {"max_new_tokens": 3}, "config"])
    def test_objects_of_other_types_are_refused(
        self, plain: Any, converted: Callable[..., Path], checkpoint: Path, wrong: Any
    ) -> None:
        calls: list[Callable[[], Any]] = [
            lambda: plain.generate(PROMPT, generation_config=wrong),
            lambda: plain.stream(PROMPT, generation_config=wrong),
            lambda: AutoModelForCausalLM.from_pretrained(converted("float32", checkpoint), generation_config=wrong),
            lambda: pipeline(model=str(converted("float32", checkpoint)), generation_config=wrong),
        ]
        for call in calls:
            with pytest.raises(InputError, match="generation_config must be a GenerationConfig, not"):
                call()


def test_convert_takes_the_names_that_from_pretrained_takes(checkpoint: Path, tmp_path: Path) -> None:
    class TorchType:
        def __str__(self) -> str:
            return "torch.float32"

    for i, (dtype, stored) in enumerate([(TorchType(), "float32"), ("float32", "float32"), ("auto", "int8"), (None, "int8")]):
        report = convert(checkpoint, tmp_path / str(i), dtype=dtype, num_threads=None, dry_run=True)
        assert report.scheme.dtype == stored
