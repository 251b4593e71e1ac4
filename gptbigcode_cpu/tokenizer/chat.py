"""Chats: from messages to a prompt, by a Jinja template, in a sandbox as in transformers.

The templates of models that were trained on chats but whose checkpoints carry no template are in `TEMPLATES`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from gptbigcode_cpu.errors import InputError, MissingDependencyError, TokenizerError

if TYPE_CHECKING:
    from jinja2 import Template

# Jinja escapes that older versions allow make a template from the Hub dangerous.
OLDEST_JINJA = (3, 1, 6)

TEMPLATES = {
    # StarChat alpha and beta: dialogues.py of bigcode-project/starcoder.
    "starchat": (
        "{% if messages[0]['role'] != 'system' %}{{ '<|system|>\\n<|end|>\\n' }}{% endif %}"
        "{% for message in messages %}"
        "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
        "{{ raise_exception('the roles of StarChat are system, user and assistant, not ' + message['role']) }}{% endif %}"
        "{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    ),
    # OctoCoder and OctoGeeX: bigcode-project/octopack.
    "octocoder": (
        "{% for message in messages %}"
        "{% if message['role'] == 'user' %}{{ 'Question: ' + message['content'] + '\\n\\n' }}"
        "{% elif message['role'] == 'assistant' %}{{ 'Answer: ' + message['content'] + ('' if loop.last else '\\n\\n') }}"
        "{% elif message['role'] == 'system' and loop.first %}{{ message['content'] + '\\n\\n' }}"
        "{% else %}{{ raise_exception('OctoCoder knows no message of ' + message['role'] + ' here') }}{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Answer:' }}{% endif %}"
    ),
    # WizardCoder 15B: train_wizardcoder.py of nlpxucan/WizardLM; a system message replaces the first sentences.
    "wizardcoder": (
        "{% if messages[0]['role'] != 'system' %}{{ 'Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\\n\\n' }}{% endif %}"
        "{% for message in messages %}"
        "{% if message['role'] == 'user' %}{{ '### Instruction:\\n' + message['content'] + '\\n\\n' }}"
        "{% elif message['role'] == 'assistant' %}{{ '### Response:' + message['content'] + ('' if loop.last else '\\n\\n') }}"
        "{% elif message['role'] == 'system' and loop.first %}{{ message['content'] + '\\n\\n' }}"
        "{% else %}{{ raise_exception('WizardCoder knows no message of ' + message['role'] + ' here') }}{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '### Response:' }}{% endif %}"
    ),
}
# What the names of checkpoints that speak OctoCoder's and WizardCoder's formats contain; these formats have no special tokens.
_NAMES = {"octocoder": "octocoder", "octogeex": "octocoder", "wizardcoder": "wizardcoder"}
_STARCHAT_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
_CONTINUE_MARK = "CONTINUE_FINAL_MESSAGE_TAG "


def recognise(name: str, added_tokens: Iterable[Any]) -> str | None:
    """The name in `TEMPLATES` that fits a checkpoint: by StarChat's added tokens, or by the checkpoint's name."""
    if {token.content for token in added_tokens}.issuperset(_STARCHAT_TOKENS):
        return "starchat"
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2].lower()
    return next((template for part, template in _NAMES.items() if part in last), None)


def is_message(value: object) -> bool:
    """Whether `value` is one message of a chat."""
    return isinstance(value, Mapping) and "role" in value and "content" in value


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = False,
    continue_final_message: bool = False,
    variables: Mapping[str, Any] | None = None,
) -> tuple[str, list[tuple[int, int]]]:
    """The prompt of a chat.

    Args:
        template: A Jinja template; it sees ``messages``, ``add_generation_prompt`` and the `variables`.
        messages: ``role`` and ``content`` of each message.
        add_generation_prompt: End with what begins an answer.
        continue_final_message: End inside the last message, so that the model goes on with it.
        variables: More for the template: special tokens, tools, documents.

    Returns:
        The text, and the ranges of characters inside ``{% generation %}`` blocks.

    Raises:
        InputError: No messages, something that is no message, or the template refuses the chat.
        TokenizerError: The template is damaged.
        MissingDependencyError: Jinja is not installed.
    """
    if not messages:
        raise InputError("a chat needs at least one message")
    if wrong := [message for message in messages if not isinstance(message, Mapping) or "role" not in message]:
        raise InputError(f"a message is a dict with 'role' and 'content', not {wrong[0]!r}")
    compiled = _compile(template)
    # Templates come from anywhere: they see plain data only. None means absent, for which templates test.
    chat = [_plain({key: value for key, value in message.items() if value is not None}) for message in messages]
    final = chat[-1].get("content")
    if continue_final_message:
        if add_generation_prompt:
            raise InputError("continue_final_message goes on with the last message, add_generation_prompt begins a new one")
        if not isinstance(final, str):
            raise InputError("continue_final_message needs a text as the content of the last message")
        chat[-1]["content"] = final + _CONTINUE_MARK
    spans: list[tuple[int, int]] = []
    given = {"tools": None, "documents": None, **_plain(variables or {})}
    try:
        with _tracked(spans) as blocks:
            for block in compiled.generate(messages=chat, add_generation_prompt=add_generation_prompt, **given):
                blocks.append(block)
    except import_module("jinja2").TemplateError as error:
        raise InputError(f"the chat template does not accept this chat: {error}") from error
    text = "".join(blocks)
    if continue_final_message:
        mark = text.rfind(_CONTINUE_MARK.strip())
        if mark < 0:
            raise InputError("continue_final_message: the chat template does not show the last message as it is")
        kept_space = text.startswith(_CONTINUE_MARK, mark)
        text = text[:mark] if kept_space else text[:mark].rstrip()
    return text, spans


_spans: ContextVar[tuple[list[str], list[tuple[int, int]]] | None] = ContextVar("spans", default=None)


@contextmanager
def _tracked(spans: list[tuple[int, int]]) -> Iterator[list[str]]:
    """Collect the ranges of ``{% generation %}`` blocks; the caller appends what is rendered to the list."""
    blocks: list[str] = []
    token = _spans.set((blocks, spans))
    try:
        yield blocks
    finally:
        _spans.reset(token)


@lru_cache(maxsize=32)
def _compile(template: str) -> Template:
    try:
        jinja2 = import_module("jinja2")
    except ImportError as error:
        raise MissingDependencyError('chat templates need Jinja: pip install "gptbigcode-cpu[chat]"') from error
    version = tuple(int(part) for part in jinja2.__version__.split(".")[:3])
    if version < OLDEST_JINJA:
        needed = ".".join(map(str, OLDEST_JINJA))
        raise MissingDependencyError(f"chat templates need Jinja {needed} or newer, not {jinja2.__version__}")
    try:
        compiled: Template = _environment().from_string(template)
    except jinja2.TemplateError as error:
        raise TokenizerError(f"the chat template is damaged: {error}") from error
    return compiled


@lru_cache(maxsize=1)
def _environment() -> Any:
    from jinja2 import TemplateError, nodes, pass_eval_context
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """``{% generation %} ... {% endgeneration %}`` marks what the assistant wrote."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_inside"), [], [], body).set_lineno(line)

        @pass_eval_context
        def _inside(self, _context: Any, caller: Any) -> str:
            text = str(caller())
            if (tracked := _spans.get()) is not None:
                start = sum(map(len, tracked[0]))
                tracked[1].append((start, start + len(text)))
            return text

    class PlainNamespace(Namespace):
        """A namespace without names that begin with an underscore, the way to Python's internals."""

        def __init__(*args: Any, **kwargs: Any) -> None:
            for name in dict(*args[1:], **kwargs):
                _refuse_private(name)
            Namespace.__init__(*args, **kwargs)

        def __setitem__(self, name: str, value: Any) -> None:
            _refuse_private(name)
            super().__setitem__(name, value)

    def _refuse_private(name: object) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"a chat template may not store {name!r}")

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def strftime_now(form: str) -> str:
        from datetime import datetime

        return datetime.now().strftime(form)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals.update(raise_exception=raise_exception, strftime_now=strftime_now, namespace=PlainNamespace)
    return environment


def _plain(value: Any) -> Any:
    """A copy of JSON-like data; anything else becomes the name of its type, since a template could call its methods."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    return f"<{type(value).__name__}>"


class ChatTemplates:
    """The chat templates of `GPTBigCodeTokenizer`.

    Attributes:
        chat_template: A Jinja template, templates by name, or the name of one of this package's: ``"starchat"``,
            ``"octocoder"``, ``"wizardcoder"``.
    """

    chat_template: str | dict[str, str] | None
    special_tokens_map: Any

    def get_chat_template(self, chat_template: str | None = None, tools: Sequence[Any] | None = None) -> str:
        """The text of a chat template.

        Args:
            chat_template: A template, or the name of one of the checkpoint or this package; default: `chat_template` of the
                tokenizer.
            tools: With tools, a checkpoint's template named ``tool_use`` is preferred.

        Raises:
            TokenizerError: None was given and the checkpoint has none.
        """
        own = self.chat_template
        if isinstance(own, dict):
            name = chat_template
            if name is None:
                name = "tool_use" if tools is not None and "tool_use" in own else "default"
                if name not in own:
                    raise TokenizerError(f"choose a chat template by name: {', '.join(sorted(own))}")
            chosen: str | None = own.get(name, name)
        else:
            chosen = own if chat_template is None else chat_template
        if chosen is None:
            raise TokenizerError(
                "this checkpoint has no chat template; pass chat_template= with a Jinja template or one of "
                + ", ".join(map(repr, TEMPLATES))
            )
        return TEMPLATES.get(chosen, chosen)

    def apply_chat_template(
        self,
        conversation: Any,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, str]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = True,
        sanitize_control_tokens: bool = False,
        padding: Any = False,
        truncation: Any = False,
        max_length: int | None = None,
        return_tensors: Any = None,
        return_dict: bool = True,
        return_assistant_tokens_mask: bool = False,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        **variables: Any,
    ) -> Any:
        """The prompt of a chat, or of several.

        Args:
            conversation: A list of messages, ``{"role": ..., "content": ...}``, or a list of such lists.
            tools: JSON schemas of functions, for templates that show them.
            documents: Dicts with ``title`` and ``text``, for templates that show them.
            chat_template: See `get_chat_template`.
            add_generation_prompt: End with what begins an answer.
            continue_final_message: End inside the last message, so that the model goes on with it.
            tokenize: Return token ids; False returns the text.
            sanitize_control_tokens: Only False: the names of special tokens in messages are those tokens.
            padding: As in a call of the tokenizer, as are `truncation`, `max_length` and `return_tensors`.
            return_dict: Return a `BatchEncoding`; False returns its ``input_ids``.
            return_assistant_tokens_mask: Add ``assistant_masks``: 1 for tokens inside the template's
                ``{% generation %}`` blocks.
            tokenizer_kwargs: More arguments for the call of the tokenizer.
            **variables: More variables for the template.

        Raises:
            InputError: No messages, or the template does not accept them.
            TokenizerError: There is no template, or it is damaged.
            MissingDependencyError: Jinja is not installed: ``pip install "gptbigcode-cpu[chat]"``.
        """
        if sanitize_control_tokens:
            raise InputError(
                "sanitize_control_tokens is not supported: take the names of special tokens out of messages you do not trust"
            )
        if return_assistant_tokens_mask and not (tokenize and return_dict):
            raise InputError("return_assistant_tokens_mask needs tokenize=True and return_dict=True")
        if return_assistant_tokens_mask and continue_final_message:
            raise InputError("return_assistant_tokens_mask and continue_final_message exclude each other")
        if tools is not None and not all(isinstance(tool, Mapping) for tool in tools):
            raise InputError("tools are JSON schemas (dicts); transformers.utils.get_json_schema makes them from functions")
        if not isinstance(conversation, (list, tuple)) or not conversation:
            raise InputError("a chat is a list of messages, at least one")
        template = self.get_chat_template(chat_template, tools)
        several = isinstance(conversation[0], (list, tuple))
        rendered = [
            render(
                template,
                messages,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                variables={**self.special_tokens_map, "tools": tools, "documents": documents, **variables},
            )
            for messages in (conversation if several else [conversation])
        ]
        texts = [text for text, _ in rendered]
        if not tokenize:
            return texts if several else texts[0]
        options = {"padding": padding, "truncation": truncation, "max_length": max_length, **(tokenizer_kwargs or {})}
        encoded = self(texts, add_special_tokens=False, **options)  # type: ignore[operator]
        if return_assistant_tokens_mask:
            encoded["assistant_masks"] = [
                [int(any(begin < stop and start < end for start, stop in spans)) for begin, end in row.offsets]
                for row, (_, spans) in zip(encoded.encodings, rendered, strict=True)
            ]
        if return_tensors is not None:
            encoded.convert_to_tensors(return_tensors)
        elif not several:
            encoded.update({name: value[0] for name, value in encoded.items()})
        return encoded if return_dict else encoded["input_ids"]
