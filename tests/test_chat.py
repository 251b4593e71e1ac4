"""Chat templates: those of checkpoints, those of this package, and what the sandbox keeps out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from gptbigcode_cpu import AutoTokenizer, GPTBigCodeTokenizer
from gptbigcode_cpu.errors import InputError, MissingDependencyError, TokenizerError
from gptbigcode_cpu.tokenizer import chat

USER = [{"role": "user", "content": "Reverse a list."}]
LONG = [
    {"role": "system", "content": "Be brief."},
    *USER,
    {"role": "assistant", "content": "l[::-1]"},
    {"role": "user", "content": "A string?"},
]


@pytest.fixture(scope="module", autouse=True)
def jinja() -> None:
    pytest.importorskip("jinja2")


@pytest.fixture
def tokenizer(checkpoint_dir: Path) -> GPTBigCodeTokenizer:
    return AutoTokenizer.from_pretrained(checkpoint_dir)


def prompt(tokenizer: GPTBigCodeTokenizer, messages: Any, template: str | None = None, **options: Any) -> str:
    text: str = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **options)
    return text


class TestTemplatesOfThisPackage:
    """Prompts as the model cards and training scripts of these models have them."""

    def test_starchat(self, tokenizer: GPTBigCodeTokenizer) -> None:
        assert prompt(tokenizer, USER, "starchat", add_generation_prompt=True) == (
            "<|system|>\n<|end|>\n<|user|>\nReverse a list.<|end|>\n<|assistant|>"
        )
        assert prompt(tokenizer, LONG, "starchat", add_generation_prompt=True) == (
            "<|system|>\nBe brief.<|end|>\n<|user|>\nReverse a list.<|end|>\n<|assistant|>\nl[::-1]<|end|>\n"
            "<|user|>\nA string?<|end|>\n<|assistant|>"
        )

    def test_octocoder(self, tokenizer: GPTBigCodeTokenizer) -> None:
        assert prompt(tokenizer, USER, "octocoder", add_generation_prompt=True) == "Question: Reverse a list.\n\nAnswer:"
        assert prompt(tokenizer, LONG, "octocoder", add_generation_prompt=True) == (
            "Be brief.\n\nQuestion: Reverse a list.\n\nAnswer: l[::-1]\n\nQuestion: A string?\n\nAnswer:"
        )

    def test_wizardcoder(self, tokenizer: GPTBigCodeTokenizer) -> None:
        assert prompt(tokenizer, USER, "wizardcoder", add_generation_prompt=True) == (
            "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
            "### Instruction:\nReverse a list.\n\n### Response:"
        )
        assert prompt(tokenizer, LONG[:3], "wizardcoder") == (
            "Be brief.\n\n### Instruction:\nReverse a list.\n\n### Response:l[::-1]"
        )

    @pytest.mark.parametrize("name", chat.TEMPLATES)
    def test_unknown_role(self, tokenizer: GPTBigCodeTokenizer, name: str) -> None:
        with pytest.raises(InputError, match="tool"):
            prompt(tokenizer, [*USER, {"role": "tool", "content": "x"}], name)

    @pytest.mark.parametrize("name", chat.TEMPLATES)
    def test_an_answer_can_be_continued(self, tokenizer: GPTBigCodeTokenizer, name: str) -> None:
        text = prompt(tokenizer, [*USER, {"role": "assistant", "content": "Use l[:: "}], name, continue_final_message=True)
        assert text.endswith("Use l[:: ")

    @pytest.mark.parametrize(
        ("name", "template"),
        [
            ("bigcode/octocoder", "octocoder"),
            ("models/OctoGeeX/", "octocoder"),
            ("WizardLM/WizardCoder-15B-V1.0", "wizardcoder"),
            ("wizardcoder/starcoder", None),
            ("", None),
        ],
    )
    def test_recognised_by_name(self, name: str, template: str | None) -> None:
        assert chat.recognise(name, []) == template

    def test_recognised_by_tokens(self, tokenizer: GPTBigCodeTokenizer, checkpoint_dir: Path) -> None:
        roles = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
        starchat = AutoTokenizer.from_pretrained(checkpoint_dir, additional_special_tokens=roles)
        assert starchat.chat_template == "starchat"
        ids = starchat.apply_chat_template(USER, add_generation_prompt=True, return_dict=False)
        assert ids[0] == starchat.convert_tokens_to_ids("<|system|>")
        assert ids[-1] == starchat.convert_tokens_to_ids("<|assistant|>")
        assert tokenizer.chat_template is None


class TestTemplatesOfCheckpoints:
    OWN = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"

    @pytest.fixture
    def directory(self, checkpoint_dir: Path, tmp_path: Path) -> Path:
        (tmp_path / "tokenizer.json").write_bytes((checkpoint_dir / "tokenizer.json").read_bytes())
        return tmp_path

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("chat_template.jinja", OWN),
            ("chat_template.json", json.dumps({"chat_template": OWN})),
            ("tokenizer_config.json", json.dumps({"chat_template": OWN})),
            (
                "tokenizer_config.json",
                json.dumps({"chat_template": [{"name": "default", "template": OWN}, {"name": "rag", "template": "R"}]}),
            ),
        ],
    )
    def test_is_read_and_saved(self, directory: Path, tmp_path: Path, name: str, content: str) -> None:
        (directory / name).write_text(content)
        tokenizer = AutoTokenizer.from_pretrained(directory)
        assert prompt(tokenizer, USER) == "[user]Reverse a list."
        paths = tokenizer.save_pretrained(tmp_path / "saved")
        assert all(Path(path).is_file() for path in paths)
        again = AutoTokenizer.from_pretrained(tmp_path / "saved")
        assert again.chat_template == tokenizer.chat_template
        if isinstance(again.chat_template, dict):
            assert prompt(again, USER, "rag") == "R"

    def test_wins_over_the_recognised_one(self, directory: Path) -> None:
        (directory / "chat_template.jinja").write_text("mine")
        named = Path(directory).rename(directory.parent / "wizardcoder")
        assert prompt(AutoTokenizer.from_pretrained(named), USER) == "mine"
        (named / "chat_template.jinja").unlink()
        assert prompt(AutoTokenizer.from_pretrained(named), USER).startswith("Below is an instruction")

    def test_several_without_a_default(self, tokenizer: GPTBigCodeTokenizer) -> None:
        tokenizer.chat_template = {"tool_use": "T{{ tools[0].name }}", "rag": "R"}
        with pytest.raises(TokenizerError, match="rag, tool_use"):
            tokenizer.get_chat_template()
        assert prompt(tokenizer, USER, tools=[{"name": "f"}]) == "Tf"

    def test_none(self, tokenizer: GPTBigCodeTokenizer) -> None:
        with pytest.raises(TokenizerError, match="'octocoder'"):
            tokenizer.apply_chat_template(USER)

    @pytest.mark.parametrize("content", [json.dumps({"chat_template": 3}), json.dumps({"chat_template": [{"name": "x"}]})])
    def test_damaged(self, directory: Path, content: str) -> None:
        (directory / "tokenizer_config.json").write_text(content)
        with pytest.raises(TokenizerError, match="chat_template"):
            AutoTokenizer.from_pretrained(directory)


class TestRendering:
    def test_results(self, tokenizer: GPTBigCodeTokenizer) -> None:
        tokenizer.chat_template, tokenizer.pad_token = "octocoder", "<fim_pad>"
        text = prompt(tokenizer, USER)
        one = tokenizer.apply_chat_template(USER)
        assert one["input_ids"] == tokenizer.encode(text)
        assert tokenizer.apply_chat_template(USER, return_dict=False) == one["input_ids"]
        assert tokenizer.apply_chat_template(USER, return_tensors="np")["input_ids"].tolist() == [one["input_ids"]]
        left = {"padding_side": "left"}
        both = tokenizer.apply_chat_template([USER, LONG], padding=True, return_tensors="np", tokenizer_kwargs=left)
        assert both["input_ids"].shape == both["attention_mask"].shape
        assert both["input_ids"][0, 0] == 4
        assert prompt(tokenizer, [USER, LONG]) == [text, prompt(tokenizer, LONG)]
        assert len(tokenizer.apply_chat_template(LONG, truncation=True, max_length=5)["input_ids"]) == 5

    def test_variables(self, tokenizer: GPTBigCodeTokenizer) -> None:
        template = "{{ eos_token }}{{ mine }}{{ documents[0].title }}{{ tools is none }}"
        assert prompt(tokenizer, USER, template, mine=3, documents=[{"title": "T"}]) == "<|endoftext|>3TTrue"

    @pytest.mark.parametrize(
        "template",
        [
            "{{ messages.__class__.__mro__ }}",
            "{{ ''.__class__.mro() }}",
            "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
            "{{ namespace(_x=1) }}",
            "{{ messages.append(1) }}",
            "{{ raise_exception('no') }}",
            "{{ undefined_name.attribute }}",
        ],
    )
    def test_sandbox(self, tokenizer: GPTBigCodeTokenizer, template: str) -> None:
        with pytest.raises(InputError, match="chat template"):
            prompt(tokenizer, USER, template)

    def test_templates_see_plain_data_only(self, tokenizer: GPTBigCodeTokenizer) -> None:
        class Text(str):
            def run(self) -> str:
                return "escaped"

        message = {"role": "user", "content": Text("x"), "path": Path("/"), "nothing": None}
        assert prompt(tokenizer, [message], "{{ messages[0].path }}{{ 'nothing' in messages[0] }}") == "<PosixPath>False"
        with pytest.raises(InputError):
            prompt(tokenizer, [message], "{{ messages[0].content.run() }}")

    @pytest.mark.parametrize(
        ("messages", "options", "message"),
        [
            ([], {}, "at least one"),
            ([[]], {}, "at least one"),
            (["text"], {}, "role"),
            ("text", {}, "list of messages"),
            (USER, {"add_generation_prompt": True, "continue_final_message": True}, "continue_final_message"),
            ([{"role": "user"}], {"continue_final_message": True}, "content"),
            (USER, {"chat_template": "fixed", "continue_final_message": True}, "last message"),
            (USER, {"tools": [len]}, "JSON schemas"),
            (USER, {"sanitize_control_tokens": True}, "not supported"),
            (USER, {"return_assistant_tokens_mask": True}, "tokenize"),
        ],
    )
    def test_mistakes(self, tokenizer: GPTBigCodeTokenizer, messages: Any, options: dict[str, Any], message: str) -> None:
        tokenizer.chat_template = "starchat"
        with pytest.raises(InputError, match=message):
            tokenizer.apply_chat_template(messages, tokenize=False, **options)

    def test_damaged_template(self, tokenizer: GPTBigCodeTokenizer) -> None:
        with pytest.raises(TokenizerError, match="damaged"):
            prompt(tokenizer, USER, "{% for %}")

    def test_without_jinja(self, tokenizer: GPTBigCodeTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "jinja2", None)
        with pytest.raises(MissingDependencyError, match=r"gptbigcode-cpu\[chat\]"):
            prompt(tokenizer, USER, "a template not seen before")

    def test_old_jinja(self, tokenizer: GPTBigCodeTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("jinja2.__version__", "3.1.5")
        with pytest.raises(MissingDependencyError, match=r"3\.1\.6"):
            prompt(tokenizer, USER, "another template not seen before")
