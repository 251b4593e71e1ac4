"""Scripts written for transformers: loading arguments, attributes of the model, seeds, streamers, logging."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from oracle.gguf_models import gguf_bytes, model_pairs, model_tensors
from oracle.random_models import full_config, random_state
from tokenizers import Tokenizer

import gptbigcode_cpu
from gptbigcode_cpu import (
    AsyncTextIteratorStreamer,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GPTBigCodeForCausalLM,
    GPTBigCodeTokenizer,
    PreTrainedTokenizerFast,
    cli,
)
from gptbigcode_cpu.errors import (
    ConfigError,
    GPTBigCodeError,
    InputError,
    KernelError,
    ModelNotFoundError,
    TokenizerError,
    UnsupportedError,
)

MakeCheckpoint = Callable[..., Path]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("scripts") / "model")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTBIGCODE_CPU_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def model(source: Path) -> GPTBigCodeForCausalLM:
    return AutoModelForCausalLM.from_pretrained(source, dtype="float32", num_threads=1)


@pytest.fixture(scope="module")
def tokenizer(source: Path) -> GPTBigCodeTokenizer:
    return AutoTokenizer.from_pretrained(source)


@pytest.fixture(scope="module")
def repository(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a model in a subfolder, and two GGUF files."""
    directory = tmp_path_factory.mktemp("repository")
    shutil.copytree(source, directory / "inner")
    config = full_config()
    for name in ("a.gguf", "b.gguf"):
        (directory / name).write_bytes(gguf_bytes(model_pairs(config), model_tensors(config, random_state(config))))
    return directory


@pytest.fixture
def no_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be converted: that takes minutes."""

    def convert(*_: object, **__: object) -> None:
        raise AssertionError("converted")

    monkeypatch.setattr("gptbigcode_cpu.convert.convert", convert)


class TestPrecision:
    @pytest.mark.parametrize(
        ("options", "stored"),
        [
            ({"torch_dtype": "auto"}, "int8"),
            ({"dtype": None}, "int8"),
            ({"torch_dtype": "torch.bfloat16"}, "bfloat16"),
            ({"torch_dtype": "torch.float16"}, "bfloat16"),
            ({"dtype": "float16"}, "bfloat16"),
            ({"dtype": np.float32}, "float32"),
            ({"dtype": np.dtype("float32")}, "float32"),
            ({"load_in_8bit": True}, "int8"),
            ({"load_in_4bit": True, "torch_dtype": "float16"}, "int4"),
            ({"load_in_8bit": False, "dtype": "float32"}, "float32"),
            ({"quantization_config": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")}, "int4"),
            ({"quantization_config": {"load_in_8bit": True}}, "int8"),
            # The attributes of transformers' class.
            ({"quantization_config": SimpleNamespace(_load_in_8bit=False, _load_in_4bit=True)}, "int4"),
            ({"quantization_config": BitsAndBytesConfig()}, "int8"),
        ],
    )
    def test_every_way_to_ask_for_a_precision(self, source: Path, options: dict[str, Any], stored: str) -> None:
        assert AutoModelForCausalLM.from_pretrained(source, **options).dtype == stored

    @pytest.mark.parametrize(("kv_dtype", "stored"), [(None, "int8"), (np.float16, "float16"), ("torch.bfloat16", "bfloat16")])
    def test_keys_and_values(self, source: Path, kv_dtype: Any, stored: str) -> None:
        assert AutoModelForCausalLM.from_pretrained(source, kv_dtype=kv_dtype).kv_dtype == stored

    def test_float16_is_not_taken_silently(self, source: Path, caplog: pytest.LogCaptureFixture) -> None:
        AutoModelForCausalLM.from_pretrained(source, dtype="float16")
        assert "bfloat16 is used, which has the same size" in caplog.text
        caplog.clear()
        AutoModelForCausalLM.from_pretrained(source, dtype="bfloat16")
        assert caplog.text == ""

    @pytest.mark.usefixtures("no_conversion")
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"load_in_8bit": True, "load_in_4bit": True}, "exclude each other"),
            ({"load_in_8bit": True, "dtype": "int4"}, "dtype is 'int4', but"),
            ({"load_in_8bit": "yes"}, "load_in_8bit must be True or False"),
            ({"load_in_4bit": True, "quantization_config": BitsAndBytesConfig(load_in_4bit=True)}, "pass one of them"),
            ({"quantization_config": SimpleNamespace(bits=4)}, "pass dtype='int8' or 'int4'"),
            ({"dtype": "float64"}, "dtype must be one of"),
        ],
    )
    def test_contradictions(self, source: Path, options: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            AutoModelForCausalLM.from_pretrained(source, **options)

    def test_bad_configurations(self) -> None:
        with pytest.raises(InputError, match="did you mean 'bnb_4bit_quant_type'"):
            BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_typ="nf4")
        with pytest.raises(InputError, match="exclude each other"):
            BitsAndBytesConfig(load_in_4bit=True, load_in_8bit=True)


class TestBeforeTheConversion:
    """What is wrong with the arguments is said before the minutes that a conversion takes."""

    pytestmark = pytest.mark.usefixtures("no_conversion")

    @pytest.mark.parametrize(
        "options",
        [
            {"max_new_tokenz": 5},
            {"temperature": -1.0},
            {"batch_size": 0},
            {"return_full_txt": False},
            {"model_kwargs": {"low_cpu_mem_usag": True}},
            {"device": 0},
            {"device_map": "cuda:0"},
            {"torch_dtype": "float63"},
            {"framework": "tf"},
            {"load_in_8bit": True, "load_in_4bit": True},
            {"num_threads": 0},
            {"kv_dtype": "int3"},
            {"config": 5},
            {"tokenizer": object()},
        ],
    )
    def test_pipelines(self, source: Path, options: dict[str, Any]) -> None:
        with pytest.raises(InputError):
            gptbigcode_cpu.pipeline("text-generation", model=source, **options)

    @pytest.mark.parametrize("task", ["text-classification", "token-classification", "feature-extraction"])
    def test_pipelines_of_other_tasks(self, source: Path, task: str) -> None:
        with pytest.raises(InputError, match="has no argument 'batch_sise'; did you mean 'batch_size'"):
            gptbigcode_cpu.pipeline(task, model=source, batch_sise=2)

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"pad_token_id": "x"}, ConfigError),
            ({"num_labels": 4, "id2label": {0: "a"}}, GPTBigCodeError),
            ({"config": gptbigcode_cpu.GPTBigCodeConfig(n_embd=32, n_head=4)}, InputError),
            ({"low_cpu_mem_usag": True}, InputError),
            ({"max_memory": {0: "1GB"}}, InputError),
            ({"output_loading_info": True}, InputError),
        ],
    )
    def test_models(self, source: Path, options: dict[str, Any], error: type[Exception]) -> None:
        with pytest.raises(error):
            AutoModelForCausalLM.from_pretrained(source, **options)

    def test_the_environment(self, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GPTBIGCODE_CPU_ISA", "abacus")
        with pytest.raises(KernelError, match="abacus"):
            AutoModelForCausalLM.from_pretrained(source)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--max-new-tokens", "500", "a"], "exceed the model's 96 positions"),
            (["a" * 200], "exceed the model's 96 positions"),
            (["--fill", "a<cursor>b"], "cannot fill in the middle"),
        ],
    )
    def test_commands(
        self, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
    ) -> None:
        without_gaps = shutil.copytree(source, tmp_path / "model")
        tokenizer = without_gaps / "tokenizer.json"
        tokenizer.write_text(tokenizer.read_text().replace("<fim_", "<gap_"))
        assert cli.run(["generate", "-m", str(without_gaps), *arguments]) not in (0, 1)
        assert message in capsys.readouterr().err


def test_a_tokenizer_from_a_file_or_an_object(source: Path, tokenizer: GPTBigCodeTokenizer) -> None:
    file = source / "tokenizer.json"
    for own in (
        PreTrainedTokenizerFast(tokenizer_file=str(file), eos_token="<|endoftext|>", pad_token="<fim_pad>"),
        PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_file(str(file)), pad_token="<fim_pad>"),
    ):
        assert own("ab").input_ids == tokenizer("ab").input_ids
        assert own.pad_token_id == 4
    for wrong, message in (
        ({}, "pass one of"),
        ({"tokenizer_file": file, "tokenizer_object": tokenizer.backend}, "pass one of"),
        ({"tokenizer_object": 5}, "not from int"),
        ({"tokenizer_file": file, "pad_tokn": "a"}, "did you mean 'pad_token'"),
    ):
        with pytest.raises(InputError, match=message):
            PreTrainedTokenizerFast(**wrong)  # type: ignore[arg-type]
    with pytest.raises(TokenizerError, match="does not exist"):
        PreTrainedTokenizerFast(tokenizer_file=source / "nothing.json")


def test_names_of_older_tokenizers_say_what_to_write(tokenizer: GPTBigCodeTokenizer) -> None:
    with pytest.raises(UnsupportedError, match="call the tokenizer itself"):
        tokenizer.encode_plus("a")
    assert not hasattr(tokenizer, "batch_encode_plus")


def test_the_package_under_the_name_of_the_other() -> None:
    code = (
        "import gptbigcode_cpu as transformers; transformers.utils.logging.set_verbosity_error(); transformers.GPT2LMHeadModel"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class TestSource:
    def test_subfolder(self, repository: Path, model: GPTBigCodeForCausalLM) -> None:
        inner = AutoModelForCausalLM.from_pretrained(repository, subfolder="inner", dtype="float32")
        assert np.array_equal(inner([[5, 6]]).logits, model([[5, 6]]).logits)
        assert AutoTokenizer.from_pretrained(repository, subfolder="inner").encode("a") == [103]
        assert AutoConfig.from_pretrained(repository, subfolder="inner").n_embd == 64
        for wrong in ("outer", "../../"):
            with pytest.raises(ModelNotFoundError, match="no subfolder"):
                AutoModelForCausalLM.from_pretrained(repository, subfolder=wrong)

    def test_gguf_file(self, repository: Path) -> None:
        opened = AutoModelForCausalLM.from_pretrained(repository, gguf_file="b.gguf", dtype="float32")
        assert np.array_equal(
            opened([[5, 6]]).logits,
            AutoModelForCausalLM.from_pretrained(repository / "b.gguf", dtype="float32")([[5, 6]]).logits,
        )
        assert AutoConfig.from_pretrained(repository, gguf_file="b.gguf").n_embd == 64
        with pytest.raises(ModelNotFoundError, match=r"no GGUF file 'c\.gguf'"):
            AutoTokenizer.from_pretrained(repository, gguf_file="c.gguf")

    def test_older_names_and_what_changes_nothing(self, source: Path) -> None:
        options = {"use_auth_token": True, "resume_download": True, "proxies": None, "code_revision": "main"}
        assert AutoModelForCausalLM.from_pretrained(source, offload_folder="x", **options).device == "cpu"
        assert AutoTokenizer.from_pretrained(source, use_fast=False, legacy=True, **options).is_fast
        assert AutoConfig.from_pretrained(source, trust_remote_code=True, **options).n_layer == 2
        assert gptbigcode_cpu.GenerationConfig.from_pretrained(source, **options).eos_token_id == 0
        with pytest.raises(InputError, match="say different things"):
            AutoTokenizer.from_pretrained(source, token="a", use_auth_token="b")
        with pytest.raises(InputError, match="HTTPS_PROXY"):
            AutoTokenizer.from_pretrained(source, proxies={"https": "http://proxy"})

    @pytest.mark.parametrize("device_map", ["auto", "balanced", "cpu", {"": "cpu"}, {"transformer": "cpu", "lm_head": "cpu"}])
    def test_device_maps(self, source: Path, device_map: Any) -> None:
        assert AutoModelForCausalLM.from_pretrained(source, device_map=device_map).device.type == "cpu"

    @pytest.mark.usefixtures("no_conversion")
    @pytest.mark.parametrize("device_map", ["cuda", 0, {"": 0}, {"transformer": "cpu", "lm_head": "disk"}])
    def test_devices_that_are_not_here(self, source: Path, device_map: Any) -> None:
        with pytest.raises(InputError, match="computes on the CPU"):
            AutoModelForCausalLM.from_pretrained(source, device_map=device_map)

    def test_configurations_of_others(self, source: Path, model: GPTBigCodeForCausalLM) -> None:
        content = model.config.to_dict()
        theirs = SimpleNamespace(model_type="gpt_bigcode", to_dict=lambda: content | {"pad_token_id": 3})
        for config in (theirs, source, str(source)):
            assert AutoModelForCausalLM.from_pretrained(source, config=config).config.n_embd == 64
        assert AutoModelForCausalLM.from_pretrained(source, config=theirs).config.pad_token_id == 3


def test_a_generation_config_for_the_model(source: Path) -> None:
    config = gptbigcode_cpu.GenerationConfig(max_new_tokens=3, eos_token_id=[])
    opened = AutoModelForCausalLM.from_pretrained(source, generation_config=config)
    assert opened.generation_config is config
    assert opened.generate([[5, 6]]).shape == (1, 5)
    with pytest.raises(InputError, match="generation_config must be a GenerationConfig"):
        AutoModelForCausalLM.from_pretrained(source, generation_config=5)


def test_a_generation_config_is_assigned(source: Path) -> None:
    class GenerationConfig:  # as that of transformers looks from here
        def __init__(self, **options: Any) -> None:
            self.options = options

        def to_dict(self) -> dict[str, Any]:
            return {"max_new_tokens": None, "transformers_version": "5.0.0", **self.options}

    opened = AutoModelForCausalLM.from_pretrained(source)
    opened.generation_config = GenerationConfig(max_new_tokens=3, eos_token_id=[])
    assert opened.generate([[5, 6]]).shape == (1, 5)
    opened.generation_config.max_new_tokens = 4
    assert opened.generate([[5, 6]]).shape == (1, 6)
    for wrong in (None, 5, {"max_new_tokens": 3}):
        with pytest.raises(InputError, match="generation_config must be a GenerationConfig"):
            opened.generation_config = wrong
    assert opened.generation_config.max_new_tokens == 4


def test_a_generation_config_of_what_a_file_says() -> None:
    content = {"_from_model_config": True, "eos_token_id": 0, "transformers_version": "4.26.0"}
    assert gptbigcode_cpu.GenerationConfig(**content).to_diff_dict() == content


class TestLooksAtTheModel:
    def test_parameters(self, model: GPTBigCodeForCausalLM) -> None:
        assert sum(p.numel() for p in model.parameters()) == model.num_parameters()
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 0
        first = next(model.parameters())
        assert (first.name, first.shape, first.size(1), first.dim()) == ("transformer.wte.weight", (272, 64), 64, 2)
        assert (first.device, first.is_cuda, first.dtype) == ("cpu", False, "float32")
        for parameter in model.parameters():
            parameter.requires_grad = False
        with pytest.raises(UnsupportedError, match="not trained"):
            first.requires_grad = True
        with pytest.raises(UnsupportedError, match="its values are packed"):
            first.data  # noqa: B018
        names = [name for name, _ in model.named_parameters()]
        assert len(names) == len(set(names)) == 2 + 2 * 12 + 2

    def test_print(self, model: GPTBigCodeForCausalLM) -> None:
        assert repr(model).startswith("GPTBigCodeForCausalLM(name_or_path=")
        assert f"parameters={model.num_parameters()}, dtype='float32'" in repr(model)

    def test_resizing_to_the_size_it_has(self, model: GPTBigCodeForCausalLM) -> None:
        assert model.resize_token_embeddings(272)([[1]]).shape == (1, 1, 64)
        assert model.resize_token_embeddings(270, pad_to_multiple_of=16)([[1]]).shape == (1, 1, 64)
        with pytest.raises(UnsupportedError, match="a pad token needs none"):
            model.resize_token_embeddings(273)

    def test_half_is_what_float16_means(self, source: Path) -> None:
        stored = AutoModelForCausalLM.from_pretrained(source, dtype="float16")
        assert stored.half() is stored.to("torch.float16") is stored

    def test_names_for_isinstance(self, model: GPTBigCodeForCausalLM, tokenizer: GPTBigCodeTokenizer) -> None:
        assert isinstance(model, gptbigcode_cpu.PreTrainedModel)
        assert isinstance(model.config, gptbigcode_cpu.PretrainedConfig)
        for name in ("PreTrainedTokenizerBase", "PreTrainedTokenizer", "PreTrainedTokenizerFast", "GPT2TokenizerFast"):
            assert isinstance(tokenizer, getattr(gptbigcode_cpu, name))


class TestStreamers:
    def test_a_coroutine_gets_the_text(self, model: GPTBigCodeForCausalLM, tokenizer: GPTBigCodeTokenizer) -> None:
        options: dict[str, Any] = {"max_new_tokens": 12, "eos_token_id": []}

        async def read() -> list[str]:
            streamer = AsyncTextIteratorStreamer(tokenizer, timeout=60, skip_prompt=True, clean_up_tokenization_spaces=False)
            arguments = dict(tokenizer("a", return_tensors="np"), streamer=streamer, **options)
            threading.Thread(target=model.generate, kwargs=arguments).start()
            return [piece async for piece in streamer]

        ids = model.generate([tokenizer.encode("a")], **options)[0, 1:]
        assert "".join(asyncio.run(read())) == tokenizer.decode(ids)

    def test_a_coroutine_gets_the_error(self, model: GPTBigCodeForCausalLM, tokenizer: GPTBigCodeTokenizer) -> None:
        async def read() -> list[str]:
            streamer = AsyncTextIteratorStreamer(tokenizer, timeout=60)

            def run() -> None:
                with pytest.raises(InputError):
                    model.generate([[1]], streamer=streamer, max_new_tokens=-1)

            threading.Thread(target=run).start()
            return [piece async for piece in streamer]

        with pytest.raises(InputError, match="max_new_tokens"):
            asyncio.run(read())

    def test_outside_of_a_coroutine(self, tokenizer: GPTBigCodeTokenizer) -> None:
        with pytest.raises(InputError, match="inside a coroutine"):
            AsyncTextIteratorStreamer(tokenizer)
