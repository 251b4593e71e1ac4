"""The sandbox of chat templates: Jinja with the settings of transformers, and with limits on time and memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from gptbigcode_cpu.common.messages import one_line
from gptbigcode_cpu.errors import InputError, MissingDependencyError, TokenizerError

if TYPE_CHECKING:
    from jinja2 import Template

# In older versions, a template can escape Jinja's sandbox, which makes templates from the Hub dangerous.
OLDEST_JINJA = (3, 1, 6)
# Maximum number of loop iterations and macro calls in one prompt: hundreds of times as many as long chats need, which takes
# about a second.
MAX_STEPS = 200_000
_STEP = " step"  # a name that no template can write
# Maximum number of characters, elements or bits of a product or a power.
MAX_LENGTH = 1 << 20
_MESSAGE = 500  # characters of a template's own message


@dataclass
class _Rendering:
    """The state of a prompt that is being rendered.

    Attributes:
        blocks: The text so far.
        spans: The ranges of characters inside ``{% generation %}`` blocks.
        steps: Loop iterations and macro calls so far.
    """

    blocks: list[str] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    steps: int = 0


_current: ContextVar[_Rendering | None] = ContextVar("current", default=None)


@contextmanager
def _rendering() -> Iterator[_Rendering]:
    started = _Rendering()
    token = _current.set(started)
    try:
        yield started
    finally:
        _current.reset(token)


def run(template: str, variables: Mapping[str, Any]) -> tuple[str, list[tuple[int, int]]]:
    """Run a template; return its text, and the ranges of characters inside its ``{% generation %}`` blocks.

    Args:
        template: A Jinja template.
        variables: The variables of the template: plain data, see `plain`.

    Raises:
        InputError: The template refuses the variables, fails on them, or takes too long.
        TokenizerError: The template is damaged.
        MissingDependencyError: Jinja is not installed.
    """
    compiled = _compile(template)
    try:
        with _rendering() as rendering:
            for block in compiled.generate(**variables):
                rendering.blocks.append(block)
    except import_module("jinja2").TemplateError as error:
        raise InputError(f"the chat template does not accept this chat: {one_line(error, _MESSAGE)}") from error
    except Exception as error:  # a template is a program, so any error is possible
        reason = f"{type(error).__name__}: {one_line(error, _MESSAGE)}"
        raise InputError(f"the chat template does not accept this chat, it fails with {reason}") from error
    return "".join(rendering.blocks), rendering.spans


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
    except Exception as error:  # including RecursionError if it is nested too deep, and errors of the generated Python code
        raise TokenizerError(f"the chat template is damaged: {one_line(error, _MESSAGE) or type(error).__name__}") from error
    return compiled


@lru_cache(maxsize=1)
def _environment() -> Any:
    from jinja2 import TemplateError, nodes, pass_context, pass_eval_context
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """The tag ``{% generation %} ... {% endgeneration %}``, which marks the text of the assistant."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_inside"), [], [], body).set_lineno(line)

        @pass_eval_context
        def _inside(self, _context: Any, caller: Any) -> str:
            text = str(caller())
            if (rendering := _current.get()) is not None:
                start = sum(map(len, rendering.blocks))
                rendering.spans.append((start, start + len(text)))
            return text

    class Bounded(ImmutableSandboxedEnvironment):
        """Stops templates that would run forever or fill the memory."""

        intercepted_binops = frozenset(["*", "**"])

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if _size(operator, left, right) > MAX_LENGTH:
                raise SecurityError(f"the result of {operator} is larger than a prompt may be")
            return super().call_binop(context, operator, left, right)

        def _generate(self, source: Any, *arguments: Any, **options: Any) -> str:
            for node in [*source.find_all((nodes.For, nodes.Macro, nodes.CallBlock))]:
                call = nodes.Filter(nodes.Const(None), _STEP, [], [], None, None)
                node.body.insert(0, nodes.ExprStmt(call, lineno=node.lineno))
            return super()._generate(source, *arguments, **options)

    class PlainNamespace(Namespace):
        """A namespace that refuses names with a leading underscore, because these give access to Python's internals."""

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

    @pass_context  # so that Jinja calls it every time, and not once at compile time
    def step(_context: Any, _value: Any) -> None:
        """Called in every loop iteration and macro. It is a filter, because the sandbox would check a function call."""
        if (rendering := _current.get()) is not None:
            rendering.steps += 1
            if rendering.steps > MAX_STEPS:
                raise SecurityError(f"it takes more than {MAX_STEPS:,} steps")

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def strftime_now(form: str) -> str:
        from datetime import datetime

        return datetime.now().strftime(form)

    environment = Bounded(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters |= {"tojson": tojson, _STEP: step}
    environment.globals.update(raise_exception=raise_exception, strftime_now=strftime_now, namespace=PlainNamespace)
    return environment


def _size(operator: str, left: Any, right: Any) -> int:
    """Approximate size of a product or a power, in bits, characters or elements."""
    if operator == "**":
        return left.bit_length() * abs(right) if isinstance(left, int) and isinstance(right, int) else 0
    for sequence, count in ((left, right), (right, left)):
        if isinstance(sequence, (str, list, tuple)) and isinstance(count, int):
            return len(sequence) * max(count, 0)
    return 0


def plain(value: Any) -> Any:
    """Copy JSON-like data. Other objects become the name of their type, because a template could call their methods."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    return f"<{type(value).__name__}>"
