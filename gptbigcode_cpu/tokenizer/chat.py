"""Turn the messages of a chat into a prompt with a Jinja template, which runs in a sandbox as in transformers.

`TEMPLATES` has the templates of chat models whose checkpoints contain none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gptbigcode_cpu.common.messages import shown
from gptbigcode_cpu.errors import InputError, TokenizerError

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
# Parts of checkpoint names that tell the format. OctoCoder's and WizardCoder's formats have no special tokens to tell them by.
_NAMES = {"octocoder": "octocoder", "octogeex": "octocoder", "wizardcoder": "wizardcoder"}
# The token that ends an answer, by the names in TEMPLATES.
_ENDS = {"starchat": "<|end|>", "octocoder": "<|endoftext|>", "wizardcoder": "<|endoftext|>"}
_STARCHAT_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
_CONTINUE_MARK = "CONTINUE_FINAL_MESSAGE_TAG "


def recognise(name: str, added_tokens: Iterable[Any]) -> str | None:
    """The template in `TEMPLATES` for a checkpoint, recognised by StarChat's added tokens or by the checkpoint's name."""
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
        template: A Jinja template; it can use ``messages``, ``add_generation_prompt`` and the `variables`.
        messages: Dicts with the ``role`` and ``content`` of each message.
        add_generation_prompt: End the prompt with the start of an answer.
        continue_final_message: End the prompt inside the last message, so that the model continues it.
        variables: Further variables for the template: special tokens, tools, documents.

    Returns:
        The text, and the ranges of characters inside ``{% generation %}`` blocks.

    Raises:
        InputError: There are no messages, one is not a message, or the template refuses the chat.
        TokenizerError: The template is damaged.
        MissingDependencyError: Jinja is not installed.
    """
    if not messages:
        raise InputError("a chat needs at least one message")
    if wrong := [message for message in messages if not isinstance(message, Mapping) or "role" not in message]:
        raise InputError(f"a message is a dict with 'role' and 'content', not {shown(wrong[0])}")
    from gptbigcode_cpu.tokenizer.sandbox import plain, run  # imported here, because few programs need it

    try:
        # Templates are not trusted, so they see plain data only. Keys that are None are removed, because templates test for
        # absent keys.
        chat = [plain({key: value for key, value in message.items() if value is not None}) for message in messages]
        given = {"tools": None, "documents": None, **plain(variables or {})}
    except RecursionError as error:
        raise InputError("the chat is nested too deep, or contains itself") from error
    for message in chat:
        if isinstance(message.get("content"), list):
            parts = _text_parts(message["content"])
            message["content"] = "".join(parts) if template in TEMPLATES.values() else message["content"]
    if continue_final_message:
        if add_generation_prompt:
            raise InputError("continue_final_message continues a message, add_generation_prompt starts one; pass one of them")
        chat[-1]["content"] = extended(chat[-1].get("content"), _CONTINUE_MARK)
    given |= {"messages": chat, "add_generation_prompt": add_generation_prompt}
    text, spans = run(template, given)
    if continue_final_message:
        mark = text.rfind(_CONTINUE_MARK.strip())
        if mark < 0:
            raise InputError("continue_final_message: the chat template changes the text of the last message")
        kept_space = text.startswith(_CONTINUE_MARK, mark)
        text = text[:mark] if kept_space else text[:mark].rstrip()
    return text, spans


def _text_parts(parts: Sequence[Any]) -> list[str]:
    """The texts of a message content that consists of parts, as OpenAI's clients send it.

    Raises:
        InputError: A part is not a text, for example an image.
    """
    for part in parts:
        kind = part.get("type", "text") if isinstance(part, Mapping) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            reason = f"of type {shown(kind)}" if isinstance(kind, str) and kind != "text" else f"that is {shown(part)}"
            raise InputError(
                f"the content of a message has a part {reason}; these models read text only, {{'type': 'text', 'text': ...}}"
            )
    return [part["text"] for part in parts]


def extended(content: Any, more: str) -> Any:
    """Append text to the content of a message; if the content consists of parts, append it to the last part.

    Raises:
        InputError: The content is not a text.
    """
    if isinstance(content, str):
        return content + more
    if isinstance(content, (list, tuple)) and content and _text_parts(content):
        return [*content[:-1], {**content[-1], "text": content[-1]["text"] + more}]
    raise InputError("continue_final_message needs a text as the content of the last message")


class ChatTemplates:
    """The chat templates of `GPTBigCodeTokenizer`.

    Attributes:
        chat_template: A Jinja template, a dict of templates by name, or the name of a template of this package:
            ``"starchat"``, ``"octocoder"`` or ``"wizardcoder"``.
    """

    chat_template: str | dict[str, str] | None
    special_tokens_map: Any
    get_added_vocab: Any

    def end_of_answer_ids(self, chat_template: str | None = None) -> list[int]:
        """Ids that end an answer in a chat format of this package, independent of the model's configuration.

        For example, StarChat's configuration names ``<|endoftext|>``, but its answers end with ``<|end|>``. The pipeline and
        the command line stop at these ids; for `generate`, pass them as `eos_token_id`.

        Args:
            chat_template: As for `get_chat_template`.

        Returns:
            A list with the id, or an empty list if the template is not one of this package or the vocabulary lacks the token.
        """
        try:
            text = self.get_chat_template(chat_template)
        except TokenizerError:
            return []
        name = next((name for name, template in TEMPLATES.items() if template == text), None)
        end = None if name is None else self.get_added_vocab().get(_ENDS[name])
        return [] if end is None else [end]

    def get_chat_template(self, chat_template: str | None = None, tools: Sequence[Any] | None = None) -> str:
        """The text of a chat template.

        Args:
            chat_template: A template, or the name of a template of the checkpoint or of this package; default: the
                tokenizer's `chat_template`.
            tools: If there are tools, the checkpoint's template ``tool_use`` is preferred.

        Raises:
            TokenizerError: No template was given, and the checkpoint has none, or several without a default one.
            InputError: The template is not a string.
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
        if not isinstance(chosen, str):
            raise InputError(f"a chat template is a text, not {shown(chosen)}")
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
        """The prompt of one chat or several.

        Args:
            conversation: A list of messages, ``{"role": ..., "content": ...}``, or a list of such lists.
            tools: JSON schemas of functions, for templates that use them.
            documents: Dicts with ``title`` and ``text``, for templates that use them.
            chat_template: See `get_chat_template`.
            add_generation_prompt: End the prompt with the start of an answer.
            continue_final_message: End the prompt inside the last message, so that the model continues it.
            tokenize: Return token ids; False: return the text.
            sanitize_control_tokens: Must be False: names of special tokens in messages become special tokens.
            padding: As in a call of the tokenizer; so are `truncation`, `max_length` and `return_tensors`.
            return_dict: Return a `BatchEncoding`; False: return its ``input_ids``.
            return_assistant_tokens_mask: Add ``assistant_masks``, with 1 for tokens inside the template's
                ``{% generation %}`` blocks.
            tokenizer_kwargs: Further arguments for the tokenizer.
            **variables: Further variables for the template.

        Raises:
            InputError: There are no messages, the template refuses them, or an argument is not supported.
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
