"""The model classes, used like those of transformers."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .arrays import is_torch, to_int_array, to_torch
from .config import GPTBigCodeConfig
from .errors import ConfigError, ContextLengthError, InputError
from .fim import FillMixin
from .generation import GenerationConfig, GenerationMixin, read_config, text_logits
from .progress import progress_bar
from .weights import CLASSIFIERS, MAX_THREADS, PackedModel, load_core, open_packed, resolve_kv_dtype

if TYPE_CHECKING:
    from . import _core

logger = logging.getLogger(__name__)

DTYPES = ("auto", "int8", "int4", "bfloat16", "float32")
THREADS_VARIABLE = "GPTBIGCODE_CPU_NUM_THREADS"


@dataclass(frozen=True)
class CausalLMOutput:
    """Result of a call of the model; ``output.logits``, ``output["logits"]`` and ``output[0]`` are the same.

    Attributes:
        logits: float32 ``[batch, tokens, vocab]``, zeros where the attention mask is 0.
    """

    logits: Any

    def to_tuple(self) -> tuple[Any, ...]:
        """The values in order."""
        return tuple(getattr(self, name) for name in self.keys())

    def keys(self) -> tuple[str, ...]:
        """The names in order."""
        return tuple(field.name for field in fields(self))

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in self.keys():
            raise KeyError(key)
        return getattr(self, key)


@dataclass(frozen=True)
class _Batch:
    """Checked input: the ids as given, and each row without its padding."""

    ids: NDArray[np.int64]  # [batch, tokens]
    mask: NDArray[np.bool_]  # [batch, tokens]
    rows: list[NDArray[np.int32]]


class GPTBigCodeForCausalLM(GenerationMixin, FillMixin):
    """A GPTBigCode language model.

    Attributes:
        config: The checkpoint's configuration.
        generation_config: What its ``generation_config.json`` sets.
        dtype: Storage type of its weights.
        core: The compiled model.
    """

    def __init__(
        self,
        packed: PackedModel,
        generation_config: GenerationConfig,
        num_threads: int = 0,
        prefill_threads: int = 0,
        kv_dtype: str = "auto",
    ) -> None:
        """
        Args:
            packed: An opened converted model.
            generation_config: Defaults for `generate`.
            num_threads: 0 = as many as `_core.default_num_threads` says.
            prefill_threads: For more than 16 new tokens at once; 0 = `num_threads`.
            kv_dtype: As in `from_pretrained`.
        """
        self.config: GPTBigCodeConfig = packed.config
        self.generation_config = generation_config
        self.dtype: str = packed.dtype
        self.core: _core.Model = load_core(packed, num_threads, prefill_threads, kv_dtype)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        dtype: Any = "auto",
        num_threads: int | None = None,
        prefill_threads: int | None = None,
        kv_dtype: Any = "auto",
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> GPTBigCodeForCausalLM:
        """Open a model. A plain checkpoint is quantised on first use and opened from a cache afterwards.

        Args:
            pretrained_model_name_or_path: A directory with a checkpoint or a converted model, a Hub id, or ``"demo"``
                for the tiny demonstration model inside this package.
            dtype: ``"int8"``, ``"int4"``, ``"bfloat16"``, ``"float32"`` or the torch dtype of that name; ``"auto"`` is
                what a converted model is stored in, and int8 for a plain checkpoint.
            num_threads: Default: the environment variable GPTBIGCODE_CPU_NUM_THREADS, or else what suits the machine.
            prefill_threads: For more than 16 new tokens at once, which profit from threads that share a core (SMT), where
                single steps wait for the memory. Default: `num_threads`. The results are the same.
            kv_dtype: Storage type of the keys and values of past tokens: ``"int8"``, ``"bfloat16"``, ``"float16"``,
                ``"float32"`` or the torch dtype of that name; ``"auto"`` is int8 for int8 and int4 models, and the dtype of
                the others.
            revision: Branch, tag or commit on the Hub.
            token: Access token for the Hub.
            cache_dir: Where downloads are kept.
            local_files_only: Do not use the network.

        Raises:
            ModelNotFoundError: The name leads nowhere.
            ConfigError: The checkpoint asks for something that is not supported, or it is a classifier and writes no text.
            CheckpointError: The checkpoint's tensors are not those of its configuration.
            FormatError: A converted model is damaged.
            InputError: An unknown dtype or kv_dtype, or a bad number of threads.
            KernelError: ``GPTBIGCODE_CPU_ISA`` names a kernel set that this CPU cannot run.
        """
        from . import hub

        threads, dtype, kv_dtype = _num_threads(num_threads), _dtype_name(dtype), _plain_name(kv_dtype)
        for_prefill = 0 if prefill_threads is None else _checked_threads("prefill_threads", prefill_threads)
        resolve_kv_dtype(kv_dtype, dtype)  # a mistake shows before anything is fetched or converted
        source = hub.resolve(
            pretrained_model_name_or_path,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        _require_language_model(source)
        with progress_bar() as progress:
            directory = hub.packed_dir(source, dtype, num_threads=threads, progress=progress)
        if pretrained_model_name_or_path == hub.DEMO:
            logger.warning("'demo' is a tiny demonstration model: it writes Python-looking text, not useful programs")
        packed = open_packed(directory)
        # A checkpoint without generation_config.json says in its config.json which tokens end a text.
        generation_config = GenerationConfig.from_model_config(packed.config)
        if (given := read_config(directory / "generation_config.json")) is not None:
            generation_config.update(**given.set_options())
            generation_config.carried.update(given.carried)
        return cls(packed, generation_config, threads, for_prefill, kv_dtype)

    @property
    def device(self) -> str:
        """Always ``"cpu"``."""
        return "cpu"

    @property
    def kv_dtype(self) -> str:
        """Storage type of keys and values."""
        return self.core.kv_dtype

    @property
    def num_threads(self) -> int:
        """Threads that compute steps of up to 16 tokens."""
        return self.core.num_threads

    @property
    def prefill_threads(self) -> int:
        """Threads that compute longer prompts."""
        return self.core.prefill_threads

    def __call__(self, input_ids: Any, attention_mask: Any = None, token_type_ids: Any = None) -> CausalLMOutput:
        """Logits at every position.

        Args:
            input_ids: Token ids ``[batch, tokens]``: list, numpy array or torch tensor.
            attention_mask: ``[batch, tokens]``, 0 for padding (or False), on either side; positions count the tokens.
            token_type_ids: Ignored; some tokenizers produce them.

        Returns:
            The logits: a torch tensor if `input_ids` is one, else a numpy array.

        Raises:
            InputError: Wrong shapes, an id outside the vocabulary, a row without tokens.
            ContextLengthError: A row is longer than ``n_positions``.
        """
        batch = self._batch(input_ids, attention_mask)
        logits = np.zeros((*batch.ids.shape, self.config.vocab_size), dtype=np.float32)
        positions = [np.flatnonzero(row_mask) for row_mask in batch.mask]
        for i, start, part in text_logits(self.core, batch.rows):
            logits[i, positions[i][start : start + len(part)]] = part
        return CausalLMOutput(logits=to_torch(logits) if is_torch(input_ids) else logits)

    def prompt(self, token_ids: Sequence[int]) -> NDArray[np.int32]:
        """The checked form of one prompt, int32 ``[tokens]``.

        Raises:
            InputError: It is empty or an id is outside the vocabulary.
            ContextLengthError: It is longer than ``n_positions``.
        """
        return self._batch(token_ids, None).rows[0]

    def _batch(self, input_ids: Any, attention_mask: Any, padding_token: int | None = None) -> _Batch:
        ids = np.atleast_2d(to_int_array(input_ids, "input_ids"))
        if ids.ndim != 2:
            raise InputError(f"input_ids must have the shape [batch, tokens], not {list(ids.shape)}")
        if ids.size == 0:
            raise InputError("the prompt is empty; pass at least one token, for example the model's bos_token_id")
        if attention_mask is not None:
            mask = np.atleast_2d(to_int_array(attention_mask, "attention_mask", "iub")) != 0
            if mask.shape != ids.shape:
                raise InputError(f"attention_mask has the shape {list(mask.shape)} and input_ids {list(ids.shape)}")
        elif padding_token is not None:
            mask = ids != padding_token
        else:
            mask = np.ones(ids.shape, dtype=np.bool_)
        self._check_rows(ids, mask)
        return _Batch(ids, mask, [row[row_mask].astype(np.int32) for row, row_mask in zip(ids, mask, strict=True)])

    def _check_rows(self, ids: NDArray[np.int64], mask: NDArray[np.bool_]) -> None:
        vocab_size, n_positions = self.config.vocab_size, self.config.n_positions
        outside = np.argwhere(mask & ((ids < 0) | (ids >= vocab_size)))
        if len(outside):
            row, column = outside[0].tolist()
            raise InputError(f"token id {ids[row, column]} in row {row}, column {column} is not in 0..{vocab_size - 1}")
        counts = mask.sum(axis=1)
        if not counts.all():
            raise InputError(f"row {int(counts.argmin())} of input_ids is empty: every token is padding")
        if counts.max() > n_positions:
            row = int(counts.argmax())
            raise ContextLengthError(f"row {row} has {counts[row]} tokens, the model has {n_positions} positions; shorten it")


AutoModelForCausalLM = GPTBigCodeForCausalLM


def _require_language_model(directory: Path) -> None:
    """Refuse a classifier before it is converted: its checkpoint may lack an LM head, and was not trained to write."""
    architectures = GPTBigCodeConfig.from_json_file(directory / "config.json").architectures
    if classifiers := [name for name in architectures if name in CLASSIFIERS]:
        raise ConfigError(f"{directory} is a {classifiers[0]}; this class runs language models, which write text")


def _plain_name(dtype: Any) -> str:
    """The name of a dtype, without torch's prefix."""
    return str(dtype).removeprefix("torch.")


def _dtype_name(dtype: Any) -> str:
    name = _plain_name(dtype)
    if name not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}, not {name!r}")
    return name


def default_num_threads() -> int:
    """Threads that a model computes with if its opener does not say: GPTBIGCODE_CPU_NUM_THREADS, or what suits the machine.

    Raises:
        InputError: The variable is no number of threads.
    """
    from . import _core

    return _num_threads(None) or _core.default_num_threads()


def _num_threads(argument: int | None) -> int:
    """The requested number of threads; 0 = the core decides."""
    if argument is not None:
        return _checked_threads("num_threads", argument)
    text = os.environ.get(THREADS_VARIABLE, "").strip()
    return _checked_threads(THREADS_VARIABLE, int(text) if text.isdecimal() else text) if text else 0


def _checked_threads(origin: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_THREADS:
        raise InputError(f"{origin} must be an integer from 1 to {MAX_THREADS}, not {value!r}")
    return value
