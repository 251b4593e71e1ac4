"""Chat templates: those of checkpoints, those of this package, and what the sandbox keeps out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from gptbigcode_cpu import AutoTokenizer, GenerationConfig, GPTBigCodeTokenizer, pipeline
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
    def test_a_template_is_read_and_saved(self, directory: Path, tmp_path: Path, name: str, content: str) -> None:
        (directory / name).write_text(content)
        tokenizer = AutoTokenizer.from_pretrained(directory)
        assert prompt(tokenizer, USER) == "[user]Reverse a list."
        paths = tokenizer.save_pretrained(tmp_path / "saved")
        assert all(Path(path).is_file() for path in paths)
        again = AutoTokenizer.from_pretrained(tmp_path / "saved")
        assert again.chat_template == tokenizer.chat_template
        if isinstance(again.chat_template, dict):
            assert prompt(again, USER, "rag") == "R"

    def test_a_checkpoints_template_wins_over_the_recognised_one(self, directory: Path) -> None:
        (directory / "chat_template.jinja").write_text("mine")
        named = Path(directory).rename(directory.parent / "wizardcoder")
        assert prompt(AutoTokenizer.from_pretrained(named), USER) == "mine"
        (named / "chat_template.jinja").unlink()
        assert prompt(AutoTokenizer.from_pretrained(named), USER).startswith("Below is an instruction")

    def test_several_templates_without_a_default(self, tokenizer: GPTBigCodeTokenizer) -> None:
        tokenizer.chat_template = {"tool_use": "T{{ tools[0].name }}", "rag": "R"}
        with pytest.raises(TokenizerError, match="rag, tool_use"):
            tokenizer.get_chat_template()
        assert prompt(tokenizer, USER, tools=[{"name": "f"}]) == "Tf"

    def test_a_checkpoint_without_a_template(self, tokenizer: GPTBigCodeTokenizer) -> None:
        with pytest.raises(TokenizerError, match="'octocoder'"):
            tokenizer.apply_chat_template(USER)

    @pytest.mark.parametrize("content", [json.dumps({"chat_template": 3}), json.dumps({"chat_template": [{"name": "x"}]})])
    def test_a_damaged_template_file(self, directory: Path, content: str) -> None:
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


class TestContentInParts:
    PARTS: ClassVar = [{"role": "user", "content": [{"type": "text", "text": "Reverse "}, {"type": "text", "text": "a list."}]}]

    @pytest.mark.parametrize("name", chat.TEMPLATES)
    def test_parts_become_text_for_the_templates_of_this_package(self, tokenizer: GPTBigCodeTokenizer, name: str) -> None:
        assert prompt(tokenizer, self.PARTS, name) == prompt(tokenizer, USER, name)
        assert len(self.PARTS[0]["content"]) == 2  # the caller's messages are not changed
        answer = [{"role": "assistant", "content": [{"type": "text", "text": "Use l[:: "}]}]
        assert prompt(tokenizer, [*self.PARTS, *answer], name, continue_final_message=True).endswith("Use l[:: ")

    def test_parts_stay_parts_for_a_checkpoints_own_template(self, tokenizer: GPTBigCodeTokenizer) -> None:
        template = "{% for part in messages[0].content %}{{ part.type }}:{{ part.text }};{% endfor %}"
        assert prompt(tokenizer, self.PARTS, template) == "text:Reverse ;text:a list.;"
        assert prompt(tokenizer, self.PARTS, template, continue_final_message=True) == "text:Reverse ;text:a list."

    @pytest.mark.parametrize(
        ("parts", "message"),
        [
            ([{"type": "image_url", "image_url": {"url": "https://x"}}], "'image_url'.*text only"),
            ([{"type": "text", "text": "a"}, {"type": "image"}], "'image'.*text only"),
            ([{"type": "text"}], "text only"),
            ([{"type": "text", "text": 3}], "text only"),
            ([3], "that is 3"),
        ],
    )
    @pytest.mark.parametrize("template", ["starchat", "{{ messages[0].content }}"])
    def test_other_parts(self, tokenizer: GPTBigCodeTokenizer, parts: list[Any], message: str, template: str) -> None:
        with pytest.raises(InputError, match=message):
            prompt(tokenizer, [{"role": "user", "content": parts}], template)

    def test_nothing_to_continue(self, tokenizer: GPTBigCodeTokenizer) -> None:
        with pytest.raises(InputError, match="needs a text"):
            prompt(tokenizer, [{"role": "assistant", "content": []}], "x", continue_final_message=True)


class TestFailures:
    """A template is somebody's program: whatever it does ends in an error of this package, with its message."""

    @pytest.mark.parametrize(
        ("template", "message"),
        [
            ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
            ("{{ 1 + 'a' }}", "TypeError: unsupported operand"),
            ("{{ 'a' + messages[0] }}", "TypeError: can only concatenate"),
            ("{{ messages['x'].y }}", "undefined|no attribute|no element"),
            ("{{ missing.attribute }}", "'missing' is undefined"),
            ("{{ none() }}", "NoneType"),
            ("{{ messages | tojson(indent=messages) }}", "TypeError"),
            ("{{ raise_exception('roles must\nalternate') }}", "roles must alternate"),
            ("{{ ''.__class__.mro() }}", "unsafe"),
            ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError|recursion"),
            ("{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}", "steps"),
            ("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", "steps"),
            ("{% for a in range(10 ** 9) %}{% endfor %}", "Range too big"),
            ("{{ 9 ** 999999 }}", "larger than a prompt"),
            ("{{ 'a' * 10 ** 10 }}", "larger than a prompt"),
            ("{{ 10 ** 10 * [1] }}", "larger than a prompt"),
        ],
    )
    def test_errors_of_templates_have_their_message(self, tokenizer: GPTBigCodeTokenizer, template: str, message: str) -> None:
        with pytest.raises(InputError, match=message) as caught:
            prompt(tokenizer, USER, template)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("template", ["{% for %}", "{{ a", "{% if x %}", "{{ " + "(" * 5000, "{% block a b %}"])
    def test_errors_of_compiling(self, tokenizer: GPTBigCodeTokenizer, template: str) -> None:
        with pytest.raises(TokenizerError, match="chat template is damaged"):
            prompt(tokenizer, USER, template)

    def test_what_templates_do_still_works(self, tokenizer: GPTBigCodeTokenizer) -> None:
        template = (
            "{% macro twice(x) %}{{ x * 2 }}{% endmacro %}{% for i in range(3) %}{{ loop.index }}{{ twice('a') }}"
            "{% if loop.last %}{{ 2 ** 10 }}{% endif %}{% else %}none{% endfor %}{% for x in [] %}{% else %}!{% endfor %}"
        )
        assert prompt(tokenizer, USER, template) == "1aa2aa3aa1024!"

    def test_a_chat_that_contains_itself(self, tokenizer: GPTBigCodeTokenizer) -> None:
        message: dict[str, Any] = {"role": "user", "content": "x"}
        message["more"] = message
        with pytest.raises(InputError, match="nested too deep"):
            prompt(tokenizer, [message], "x")

    @pytest.mark.parametrize("template", [3, ["x"], {"a": "b"}])
    def test_a_template_must_be_a_text(self, tokenizer: GPTBigCodeTokenizer, template: Any) -> None:
        with pytest.raises(InputError, match="a chat template is a text"):
            prompt(tokenizer, USER, template)


@pytest.fixture(scope="module")
def starchat(converted: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with StarChat's tokens that writes ``<|end|>``, id 4, for ever."""
    directory = tmp_path_factory.mktemp("models") / "model"
    shutil.copytree(converted("int8"), directory)
    text = (directory / "tokenizer.json").read_text(encoding="utf-8")
    names = {"prefix": "system", "middle": "user", "suffix": "assistant", "pad": "end"}
    for old, new in names.items():
        text = text.replace(f"<fim_{old}>", f"<|{new}|>")
    (directory / "tokenizer.json").write_text(text, encoding="utf-8")
    (directory / "tokenizer_config.json").write_text("{}")
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": 0, "sequence_bias": [[[4], 1e4]]}))
    return directory


class TestEndOfAnswer:
    def test_of_starchat(self, starchat: Path) -> None:
        pipe = pipeline("text-generation", model=str(starchat), num_threads=1)
        options: dict[str, Any] = {"do_sample": False, "max_new_tokens": 5}

        def new_ids(given: Any, **more: Any) -> list[int]:
            ids: list[int] = pipe(given, return_tensors=True, **options, **more)[0]["generated_token_ids"]
            return ids[next(i for i in range(1, 7) if ids[-i] != 4 or i == 6) * -1 + 1 :]

        for given in (USER, "<|user|>\nhi<|end|>\n<|assistant|>x"):
            assert new_ids(given) == [4]
            assert new_ids(given, eos_token_id=0) == [4] * 5  # what a call says counts
            assert new_ids(given, generation_config=GenerationConfig(eos_token_id=0)) == [4] * 5
        assert pipe(USER, **options)[0]["generated_text"][-1] == {"role": "assistant", "content": ""}
        assert "".join(pipe.stream(USER, skip_special_tokens=False, **options)) == "<|end|>"

    def test_on_the_command_line(self, starchat: Path) -> None:
        chat = "<|user|>\nhi<|end|>\n<|assistant|>"
        command = [sys.executable, "-m", "gptbigcode_cpu", "generate", "-m", str(starchat), "-n", "5", "--json", chat]
        answer = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=240).stdout)
        assert (answer["tokens"], answer["finish_reason"], answer["text"]) == ([4], "stop", "")

    def test_of_each_format(self, tokenizer: GPTBigCodeTokenizer) -> None:
        assert tokenizer.end_of_answer_ids() == []
        assert tokenizer.end_of_answer_ids("octocoder") == tokenizer.end_of_answer_ids("wizardcoder") == [0]
        assert tokenizer.end_of_answer_ids("starchat") == []  # it has no <|end|>
        tokenizer.chat_template = "octocoder"
        assert tokenizer.end_of_answer_ids() == [0]
        assert tokenizer.end_of_answer_ids("{{ messages }}") == []

    def test_parts_are_continued(self, starchat: Path) -> None:
        pipe = pipeline("text-generation", model=str(starchat), num_threads=1)
        messages = [*USER, {"role": "assistant", "content": [{"type": "text", "text": "Use"}]}]
        (result,) = pipe(messages, do_sample=False, max_new_tokens=2, skip_special_tokens=False)
        assert result["generated_text"][-1]["content"] == [{"type": "text", "text": "Use<|end|>"}]
        assert messages[-1]["content"] == [{"type": "text", "text": "Use"}]
