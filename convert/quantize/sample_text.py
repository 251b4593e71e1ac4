"""The text that a calibration runs through a model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.common.corpus import read_texts
from gptbigcode_cpu.config import GPTBigCodeConfig
from gptbigcode_cpu.errors import InputError, TokenizerError
from gptbigcode_cpu.fim.prompt import build_prompt
from gptbigcode_cpu.fim.trim import encoded

if TYPE_CHECKING:
    from gptbigcode_cpu.tokenizer import GPTBigCodeTokenizer

Calibrate = Literal["builtin"] | Sequence[str | Path]
"""``"builtin"``, the text that comes with this package, or files as `corpus.read_texts` takes them."""

CONTEXT = 512

BUILTIN = Path(__file__).with_name("sample_text.jsonl")
"""400 KB of Python, C++, shell, CMake, TOML and Markdown: files of this project as they once were. It never changes, since it
decides which weights a calibrated conversion chooses."""


def sample_texts(calibrate: Calibrate) -> list[str]:
    """The texts of files, or those that come with the package.

    Raises:
        InputError: A file holds no text, see `corpus.read_texts`, or there is no file.
        OSError: A file cannot be read.
    """
    texts = read_texts([BUILTIN] if calibrate == "builtin" else calibrate)
    if not texts:
        raise InputError("calibration needs text: name files, or 'builtin' for the text that comes with this package")
    return texts


def sample_windows(
    config: GPTBigCodeConfig, tokenizer: GPTBigCodeTokenizer, texts: Sequence[str], n_tokens: int
) -> NDArray[np.int32]:
    """Windows of the texts, evenly spread, int32 ``[n_windows, up to 512]``, about `n_tokens` in all.

    Each text follows an end-of-text token. If the model can fill in the middle, every second text is cut at two random places
    and laid out for that, in both orders in turn, as in its training data.

    Raises:
        TokenizerError: The tokenizer names no end-of-text token, or does not fit the model.
        InputError: The texts are too short.
    """
    eos = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else config.eos_token_id
    if not isinstance(eos, int):
        raise TokenizerError("neither tokenizer nor configuration names an end-of-text token, which each text begins with")
    fills = tokenizer.fim_prefix_id is not None and tokenizer.fim_middle_id is not None and tokenizer.fim_suffix_id is not None
    draw = random.Random(0)
    stream: list[int] = []
    for number, text in enumerate(texts):
        stream.append(eos)
        if fills and number % 2:
            stream += _to_fill(tokenizer, text, draw, "psm" if number % 4 == 1 else "spm")
        else:
            stream += encoded(tokenizer, text)[0]
    if max(stream) >= config.vocab_size:
        raise TokenizerError(f"the tokenizer makes token {max(stream)}; the model's vocabulary has {config.vocab_size}")
    context = min(CONTEXT, config.n_positions)
    windows = np.array(stream[: len(stream) // context * context], np.int32).reshape(-1, context)
    if not len(windows):
        raise InputError(f"calibration needs at least {context} tokens of text; these are {len(stream)}")
    wanted = min(len(windows), max(1, -(-n_tokens // context)))
    return windows[[(2 * i + 1) * len(windows) // (2 * wanted) for i in range(wanted)]]


def _to_fill(tokenizer: GPTBigCodeTokenizer, text: str, draw: random.Random, mode: Literal["psm", "spm"]) -> list[int]:
    begin, end = sorted(draw.randrange(len(text) + 1) for _ in range(2))
    return build_prompt(tokenizer, text[:begin], text[end:], mode=mode) + encoded(tokenizer, text[begin:end])[0]
