"""Fill a gap with a model: choose the options, build the prompt, and clean the generated text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, cast

from gptbigcode_cpu.config import GPTBigCodeConfig
from gptbigcode_cpu.errors import ConfigError, ContextLengthError
from gptbigcode_cpu.fim.hygiene import MiddleFilter
from gptbigcode_cpu.fim.line_ends import LineEnd, line_end, with_line_end
from gptbigcode_cpu.fim.prompt import ExtraFiles, build_prompt
from gptbigcode_cpu.fim.tokens import Mode, stop_token_ids
from gptbigcode_cpu.generation import GenerateArguments, GenerationConfig, by_full_names, given_config, merged_options
from gptbigcode_cpu.tokenizer import GPTBigCodeTokenizer, own_tokenizer
from gptbigcode_cpu.tokenizer.incremental import IncrementalDecoder

if TYPE_CHECKING:
    from gptbigcode_cpu.generation.language_model import LanguageModel

# A given suffix leaves less choice than a plain continuation, so the most probable text is wanted: greedy decoding.
DEFAULTS: dict[str, Any] = {"max_new_tokens": 256, "do_sample": False}
# The arguments of `stream` that are not options.
CALL_ARGUMENTS = {item.name for item in fields(GenerateArguments)} - {"torch", "negative_prompts", "tokenizer", "streamer"}
# The key of a config.json that names the better order for the checkpoint, as measured.
MODE_KEY = "fim_mode"


@dataclass(frozen=True)
class Fill:
    """A fill-in-the-middle request, ready to run.

    Attributes:
        prompt_ids: Token ids of the prompt.
        options: Options for `generate` or `stream`.
        mode: The order of the prompt, ``"psm"`` or ``"spm"``.
    """

    prompt_ids: list[int]
    options: dict[str, Any]
    mode: Mode


def preferred_mode(config: GPTBigCodeConfig) -> Mode:
    """The order that ``"auto"`` stands for: ``fim_mode`` in the checkpoint's ``config.json``, or else ``"psm"``.

    Raises:
        ConfigError: ``fim_mode`` is neither ``"psm"`` nor ``"spm"``.
    """
    value: Any = getattr(config, MODE_KEY, None) or "psm"
    if value not in ("psm", "spm"):
        raise ConfigError(f"{MODE_KEY} must be 'psm' or 'spm', not {value!r}")
    mode: Mode = value
    return mode


def plan_fill(
    model: LanguageModel,
    tokenizer: GPTBigCodeTokenizer,
    prefix: str,
    suffix: str,
    *,
    extra_files: ExtraFiles | None = None,
    repo_name: str | None = None,
    mode: Mode = "auto",
    options: Mapping[str, Any] | None = None,
) -> Fill:
    """Choose the options, and build a prompt with room for the new tokens. Arguments and errors as in `FillMixin.fill`."""
    tokenizer = own_tokenizer(tokenizer)
    given = by_full_names(options or {})
    call = {"tokenizer": tokenizer, **{name: value for name, value in given.items() if name in CALL_ARGUMENTS}}
    asked = {name: value for name, value in given.items() if name not in CALL_ARGUMENTS}
    said = merged_options(model.generation_config.set_options(), asked)
    n_positions = model.config.n_positions
    if said.get("max_new_tokens") is None and said.get("max_length") is None:
        asked["max_new_tokens"] = min(DEFAULTS["max_new_tokens"], n_positions // 2)
    asked |= {name: value for name, value in DEFAULTS.items() if name not in said and name != "max_new_tokens"}
    config = model.resolve_options(None, asked)
    # The last new token needs no position.
    if config.max_new_tokens is not None:
        room = n_positions + 1 - config.max_new_tokens
    else:
        room = min(n_positions, config.max_length or 0) * 3 // 4
    if room < 3:
        raise ContextLengthError(
            f"{config.max_new_tokens or config.max_length} new tokens leave no room for a prompt "
            f"in {n_positions} positions; ask for fewer"
        )
    mode = preferred_mode(model.config) if isinstance(mode, str) and mode == "auto" else mode
    prompt = build_prompt(tokenizer, prefix, suffix, mode=mode, extra_files=extra_files, repo_name=repo_name, max_tokens=room)
    asked["eos_token_id"] = sorted({*config.eos_token_ids, *stop_token_ids(tokenizer)})
    return Fill(prompt, asked | call, mode)


class FillMixin:
    """Adds `fill` and `stream_fill` to a model that has `stream`."""

    def fill(
        self,
        prefix: str,
        suffix: str,
        *,
        tokenizer: GPTBigCodeTokenizer,
        extra_files: ExtraFiles | None = None,
        repo_name: str | None = None,
        mode: Mode = "auto",
        generation_config: GenerationConfig | None = None,
        **options: Any,
    ) -> str:
        """Generate the text between `prefix` and `suffix`.

        The new text ends where it starts to repeat the suffix, at a blank line that is followed by less indentation, or at a
        special token. It uses the line ends of the text around it: LF, CRLF or CR. Long input is cut to the part near the
        cursor; see `fim.build_prompt`.

        Args:
            prefix: The text before the cursor.
            suffix: The text after the cursor.
            tokenizer: The tokenizer of the model.
            extra_files: Other files as context, ``{path: text}`` or ``[(path, text), ...]``, the most relevant last.
            repo_name: The repository of the files.
            mode: Order of the parts in the prompt: ``"psm"``, ``"spm"``, or ``"auto"`` for the value of
                ``fim_mode`` in the checkpoint's ``config.json``, or else psm.
            generation_config: Options. Default: greedy decoding of up to 256 tokens.
            **options: Fields of `GenerationConfig`, and the other arguments of `stream`.

        Returns:
            The new text.

        Raises:
            TokenizerError: The model was not trained to fill in the middle.
            InputError: The mode or an option is unknown, or a value is bad.
            ContextLengthError: The requested tokens leave no room for a prompt.
        """
        pieces = self.stream_fill(
            prefix,
            suffix,
            tokenizer=tokenizer,
            extra_files=extra_files,
            repo_name=repo_name,
            mode=mode,
            generation_config=generation_config,
            **options,
        )
        return "".join(pieces)

    def stream_fill(
        self,
        prefix: str,
        suffix: str,
        *,
        tokenizer: GPTBigCodeTokenizer,
        extra_files: ExtraFiles | None = None,
        repo_name: str | None = None,
        mode: Mode = "auto",
        generation_config: GenerationConfig | None = None,
        **options: Any,
    ) -> Iterator[str]:
        """Like `fill`, but yields the text in pieces. Errors are raised by the call. Closing the iterator stops the work."""
        if (config := given_config(generation_config)) is not None:
            options = merged_options(config.set_options(), by_full_names(options))
        model = cast("LanguageModel", self)
        plan = plan_fill(
            model,
            tokenizer,
            prefix,
            suffix,
            extra_files=extra_files,
            repo_name=repo_name,
            mode=mode,
            options=options,
        )
        tokens = model.stream(plan.prompt_ids, **plan.options)
        gap, end = MiddleFilter(prefix, suffix), line_end(prefix, suffix)
        return middle(tokens, tokenizer, gap, plan.options["eos_token_id"], end)


def middle(
    tokens: Iterator[int], tokenizer: GPTBigCodeTokenizer, gap: MiddleFilter, stops: list[int], end: LineEnd | None
) -> Iterator[str]:
    """Decode new tokens, and yield the part of their text that belongs into the gap, with `end` as line end."""
    decoder = IncrementalDecoder(tokenizer)
    for token in tokens:
        if token in stops:
            break
        if piece := gap.push(decoder.push(token)):
            yield with_line_end(piece, end)
        if gap.done:
            return
    if rest := gap.push(decoder.flush()) + gap.flush():
        yield with_line_end(rest, end)
