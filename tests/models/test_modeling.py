"""Opening models, and their logits."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptbigcode_cpu import AutoModelForCausalLM, GPTBigCodeForCausalLM
from gptbigcode_cpu.errors import ConfigError, ContextLengthError, GPTBigCodeError, InputError, ModelNotFoundError

ROW = [10, 500, 31, 8000, 77]
SHORT = [42, 43]


@pytest.fixture(scope="module", params=["float32", "int8"])
def model(converted: Callable[[str], Path], request: pytest.FixtureRequest) -> GPTBigCodeForCausalLM:
    return AutoModelForCausalLM.from_pretrained(converted(request.param))


class TestLogits:
    def test_output_is_object_mapping_and_tuple(self, model: GPTBigCodeForCausalLM) -> None:
        output = model([ROW])
        assert output.logits.shape == (1, 5, 8192)
        assert output.logits.dtype == np.float32
        assert output["logits"] is output[0] is output.to_tuple()[0] is output.logits
        assert list(output) == ["logits", "past_key_values"]
        assert dict(**output) == {"logits": output.logits, "past_key_values": output.past_key_values}
        assert output["cache"] is output.cache is output[1] is output.past_key_values
        assert (len(output), "logits" in output, "loss" in output, output.loss) == (2, True, False, None)
        assert output.get("loss", 7) == 7
        with pytest.raises(KeyError):
            output["loss"]
        with pytest.raises(IndexError):
            output[2]
        logits, cache = model([ROW], return_dict=False)
        assert np.array_equal(logits, output.logits)
        assert cache.get_seq_length() == 5

    def test_inputs_of_every_kind(self, model: GPTBigCodeForCausalLM) -> None:
        expected = model([ROW]).logits
        for ids in (np.array([ROW]), np.array([ROW], dtype=np.int32), [np.array(ROW)], ROW, np.asfortranarray([ROW])):
            assert np.array_equal(model(ids).logits, expected)
        assert np.array_equal(model([ROW], attention_mask=np.ones((1, 5), dtype=np.bool_)).logits, expected)
        assert np.array_equal(model(input_ids=[ROW], attention_mask=[[1] * 5]).logits, expected)

    def test_torch_in_torch_out(self, model: GPTBigCodeForCausalLM) -> None:
        torch = pytest.importorskip("torch")
        ids = torch.tensor([ROW])
        logits = model(ids, attention_mask=torch.ones_like(ids)).logits
        assert isinstance(logits, torch.Tensor)
        assert logits.dtype == torch.float32
        assert np.array_equal(logits.numpy(), model([ROW]).logits)
        output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=4)
        assert output.dtype == torch.int64
        assert output.tolist() == model.generate([ROW], max_new_tokens=4).tolist()

    @pytest.mark.parametrize("side", ["left", "right", "both"])
    def test_padding_changes_nothing(self, model: GPTBigCodeForCausalLM, side: str) -> None:
        places = {"left": slice(3, 5), "right": slice(0, 2), "both": slice(1, 3)}
        ids = np.full((2, 5), 99)
        mask = np.zeros((2, 5), dtype=np.int64)
        ids[0], mask[0] = ROW, 1
        ids[1, places[side]], mask[1, places[side]] = SHORT, 1
        logits = model(ids, attention_mask=mask).logits
        assert np.array_equal(logits[0], model([ROW]).logits[0])
        assert np.array_equal(logits[1, places[side]], model([SHORT]).logits[0])
        assert not logits[1][mask[1] == 0].any()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"input_ids": []}, "empty"),
            ({"input_ids": [[]]}, "empty"),
            ({"input_ids": [[1, 8192]]}, "token id 8192 in row 0, column 1 is not in 0..8191"),
            ({"input_ids": [[1], [-1]]}, "token id -1 in row 1, column 0"),
            ({"input_ids": [[2**40]]}, "token id 1099511627776"),
            ({"input_ids": [[1.5]]}, "integers"),
            ({"input_ids": [["a"]]}, "integers"),
            ({"input_ids": "text"}, "integers"),
            ({"input_ids": [[True]]}, "integers"),
            ({"input_ids": [[1], [1, 2]]}, "attention_mask"),
            ({"input_ids": [[[1]]]}, "shape"),
            ({"input_ids": [[1, 2]], "attention_mask": [[1]]}, "shape"),
            ({"input_ids": [[1], [2]], "attention_mask": [[1], [0]]}, "row 1 of .* is empty"),
        ],
    )
    def test_wrong_inputs(self, model: GPTBigCodeForCausalLM, arguments: dict[str, Any], message: str) -> None:
        for function in (model, model.generate):
            with pytest.raises(InputError, match=message):
                function(**arguments)

    def test_ids_under_padding_are_not_looked_at(self, model: GPTBigCodeForCausalLM) -> None:
        logits = model([[-100, *SHORT]], attention_mask=[[0, 1, 1]]).logits
        assert np.array_equal(logits[0, 1:], model([SHORT]).logits[0])

    def test_too_long(self, model: GPTBigCodeForCausalLM) -> None:
        with pytest.raises(ContextLengthError, match="2049 tokens, the model has 2048 positions"):
            model([[1] * 2049])


class TestOpening:
    def test_dtypes(self, converted: Callable[[str], Path]) -> None:
        for dtype in ("int8", "int4", "bfloat16", "float32"):
            assert AutoModelForCausalLM.from_pretrained(converted(dtype)).dtype == dtype
            assert AutoModelForCausalLM.from_pretrained(str(converted(dtype)), dtype=dtype).dtype == dtype

    def test_torch_dtype(self, converted: Callable[[str], Path]) -> None:
        torch = pytest.importorskip("torch")
        assert AutoModelForCausalLM.from_pretrained(converted("bfloat16"), dtype=torch.bfloat16).dtype == "bfloat16"
        assert AutoModelForCausalLM.from_pretrained(converted("bfloat16"), dtype=torch.float16).dtype == "bfloat16"
        with pytest.raises(InputError, match="'float64'"):
            AutoModelForCausalLM.from_pretrained(converted("bfloat16"), dtype=torch.float64)

    def test_stored_dtype_cannot_be_changed(self, converted: Callable[[str], Path]) -> None:
        with pytest.raises(InputError, match="int8"):
            AutoModelForCausalLM.from_pretrained(converted("int8"), dtype="int4")
        with pytest.raises(InputError, match="'int7'"):
            AutoModelForCausalLM.from_pretrained(converted("int8"), dtype="int7")

    def test_plain_checkpoint_is_converted_once(
        self,
        make_checkpoint: Callable[..., Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv("GPTBIGCODE_CPU_CACHE", str(tmp_path / "cache"))
        checkpoint = make_checkpoint(tmp_path / "checkpoint")
        first = AutoModelForCausalLM.from_pretrained(checkpoint)
        assert first.dtype == "int8"
        assert AutoModelForCausalLM.from_pretrained(checkpoint, dtype="float32").dtype == "float32"
        monkeypatch.setattr("gptbigcode_cpu.convert.convert", None)  # calling it again would fail
        again = AutoModelForCausalLM.from_pretrained(checkpoint)
        assert np.array_equal(again([[1, 2]]).logits, first([[1, 2]]).logits)
        assert capfd.readouterr() == ("", "")  # no progress bar without a terminal

    def test_progress_shows_on_a_terminal(
        self,
        make_checkpoint: Callable[..., Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv("GPTBIGCODE_CPU_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        AutoModelForCausalLM.from_pretrained(make_checkpoint(tmp_path / "checkpoint"))
        output = capsys.readouterr()
        assert "quantising block 1 of 2 [" in output.err
        assert output.out == ""

    def test_a_missing_model(self, tmp_path: Path) -> None:
        with pytest.raises(ModelNotFoundError):
            AutoModelForCausalLM.from_pretrained(tmp_path / "nowhere")
        with pytest.raises(GPTBigCodeError):
            AutoModelForCausalLM.from_pretrained(tmp_path)

    @pytest.mark.parametrize("architecture", ["GPTBigCodeForSequenceClassification", "GPTBigCodeForTokenClassification"])
    def test_classifiers_write_no_text(
        self,
        make_checkpoint: Callable[..., Path],
        converted: Callable[..., Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        architecture: str,
    ) -> None:
        monkeypatch.setenv("GPTBIGCODE_CPU_CACHE", str(tmp_path / "cache"))
        checkpoint = make_checkpoint(tmp_path / "checkpoint", architectures=[architecture])
        for directory in (checkpoint, converted("int8", checkpoint)):
            with pytest.raises(ConfigError, match=architecture):
                AutoModelForCausalLM.from_pretrained(directory)
        assert not (tmp_path / "cache").exists()

    def test_demo_says_what_it_is(self, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
        with caplog.at_level(logging.INFO, logger="gptbigcode_cpu"):
            demo = AutoModelForCausalLM.from_pretrained("demo")
        assert "tiny demonstration model" in caplog.text
        assert [record.levelname for record in caplog.records] == ["WARNING"]  # shown where logging is not configured
        assert demo.dtype == "int8"
        assert capfd.readouterr() == ("", "")

    def test_generation_config_is_honoured(self, converted: Callable[[str], Path], tmp_path: Path) -> None:
        directory = Path(shutil.copytree(converted("int8"), tmp_path / "model"))
        free = AutoModelForCausalLM.from_pretrained(directory).generate([ROW], max_new_tokens=8, eos_token_id=[])[0, 5:]
        end = int(free[2])
        content = {"eos_token_id": [end], "max_new_tokens": 8, "transformers_version": "5.0"}
        (directory / "generation_config.json").write_text(json.dumps(content))
        model = AutoModelForCausalLM.from_pretrained(directory)
        assert model.generate([ROW])[0, 5:].tolist() == free[: free.tolist().index(end) + 1].tolist()
        assert model.generate([ROW], eos_token_id=[]).shape == (1, 13)
        assert model.generate([ROW], eos_token_id=[], max_new_tokens=2).shape == (1, 7)
        (directory / "generation_config.json").unlink()
        assert AutoModelForCausalLM.from_pretrained(directory).generation_config.eos_token_ids == (0,)  # of config.json


class TestKVDtype:
    @pytest.mark.parametrize(("dtype", "expected"), [("int4", "int8"), ("int8", "int8"), ("bfloat16", "bfloat16")])
    def test_auto_follows_the_weights(self, converted: Callable[[str], Path], dtype: str, expected: str) -> None:
        for options in ({}, {"kv_dtype": None}):
            assert AutoModelForCausalLM.from_pretrained(converted(dtype), **options).kv_dtype == expected

    def test_argument(self, converted: Callable[[str], Path]) -> None:
        logits = {}
        for kv_dtype in ("auto", "int8", "torch.float16", "float32"):
            model = AutoModelForCausalLM.from_pretrained(converted("int8"), kv_dtype=kv_dtype)
            assert kv_dtype in ("auto", f"torch.{model.kv_dtype}", model.kv_dtype)
            logits[kv_dtype] = model([ROW]).logits
        assert np.array_equal(logits["auto"], logits["int8"])
        assert not np.array_equal(logits["int8"], logits["float32"])
        np.testing.assert_allclose(logits["torch.float16"], logits["float32"], atol=0.5)

    @pytest.mark.parametrize("value", ["int4", "", 5, "torch.float64"])
    def test_bad_argument(self, converted: Callable[[str], Path], value: Any) -> None:
        with pytest.raises(InputError, match="kv_dtype must be one of auto, int8, bfloat16, float16, float32"):
            AutoModelForCausalLM.from_pretrained(converted("int8"), kv_dtype=value)


class TestThreads:
    def test_argument_and_variable(self, converted: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
        directory = converted("int8")
        assert AutoModelForCausalLM.from_pretrained(directory, num_threads=3).num_threads == 3
        monkeypatch.setenv("GPTBIGCODE_CPU_NUM_THREADS", "2")
        assert AutoModelForCausalLM.from_pretrained(directory).num_threads == 2
        assert AutoModelForCausalLM.from_pretrained(directory, num_threads=1).num_threads == 1

    @pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "1025"])
    def test_bad_variable(self, converted: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, value: str) -> None:
        monkeypatch.setenv("GPTBIGCODE_CPU_NUM_THREADS", value)
        with pytest.raises(InputError, match="GPTBIGCODE_CPU_NUM_THREADS must be an integer from 1 to 1024"):
            AutoModelForCausalLM.from_pretrained(converted("int8"))

    @pytest.mark.parametrize("value", [0, -1, 1025, 1.5, True, "2"])
    def test_bad_argument(self, converted: Callable[[str], Path], value: Any) -> None:
        with pytest.raises(InputError, match="num_threads must be an integer from 1 to 1024"):
            AutoModelForCausalLM.from_pretrained(converted("int8"), num_threads=value)
        with pytest.raises(InputError, match="prefill_threads must be an integer from 1 to 1024"):
            AutoModelForCausalLM.from_pretrained(converted("int8"), prefill_threads=value)

    @pytest.mark.parametrize(("threads", "prefill_threads"), [(1, 3), (3, 1)])
    def test_prompts_may_have_threads_of_their_own(
        self, converted: Callable[[str], Path], threads: int, prefill_threads: int
    ) -> None:
        def running() -> int:
            return len(list(Path("/proc/self/task").iterdir()))

        before = running()
        model = AutoModelForCausalLM.from_pretrained(converted("int8"), num_threads=threads, prefill_threads=prefill_threads)
        assert (model.num_threads, model.prefill_threads) == (threads, prefill_threads)
        plain = AutoModelForCausalLM.from_pretrained(converted("int8"), num_threads=1)
        assert (plain.num_threads, plain.prefill_threads) == (1, 1)
        assert running() - before == 2, "the caller and two more"
        for count in (1, 16, 17, 70):  # on either side of what a prompt is
            ids = np.random.default_rng(count).integers(0, 8192, (1, count))
            assert np.array_equal(model(ids).logits, plain(ids).logits), count

    def test_number_of_threads_changes_nothing(self, converted: Callable[[str], Path]) -> None:
        ids = np.random.default_rng(1).integers(0, 8192, (2, 70))
        logits = [AutoModelForCausalLM.from_pretrained(converted("int8"), num_threads=n)(ids).logits for n in (1, 2, 3)]
        assert np.array_equal(logits[0], logits[1])
        assert np.array_equal(logits[0], logits[2])

    def test_a_forked_child_is_told_to_load_its_own(self, converted: Callable[[str], Path]) -> None:
        script = """
            import os, sys
            from gptbigcode_cpu import AutoModelForCausalLM
            model = AutoModelForCausalLM.from_pretrained(sys.argv[1], num_threads=2)
            expected = model([[5]]).logits
            child = os.fork()
            if child == 0:
                try:
                    model([[5]])
                except RuntimeError as error:
                    os._exit(0 if "load the model in each child" in str(error) else 1)
                os._exit(2)
            assert os.waitpid(child, 0)[1] == 0
            assert (model([[5]]).logits == expected).all()
        """
        subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(converted("int8"))], check=True, timeout=60)
