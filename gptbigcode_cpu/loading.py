"""From the arguments of `from_pretrained` to an opened model."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from . import tensors
from .config import GPTBigCodeConfig
from .errors import InputError
from .progress import progress_bar
from .suggest import nearest
from .weights import MAX_THREADS, PackedModel, open_packed, resolve_kv_dtype

logger = logging.getLogger(__name__)

DTYPES = ("auto", *tensors.DTYPES)
THREADS_VARIABLE = "GPTBIGCODE_CPU_NUM_THREADS"

# Arguments of transformers that change nothing here, with the values for which that is so.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "device_map": (None, "auto", "cpu", {"": "cpu"}),
    "low_cpu_mem_usage": (None, True, False),
    "trust_remote_code": (None, True, False),
    "use_safetensors": (None, True, False),
    "weights_only": (None, True, False),
    "attn_implementation": (None, "eager", "sdpa"),
    "max_memory": (None,),
    "quantization_config": (None,),
    "load_in_8bit": (None, False),
    "load_in_4bit": (None, False),
}
_INSTEAD = {
    "load_in_8bit": "; pass dtype='int8'",
    "load_in_4bit": "; pass dtype='int4'",
    "quantization_config": "; pass dtype='int8' or 'int4'",
    "device_map": ": this package computes on the CPU",
}
# Values of a configuration that say what a call does, and not what the weights are.
_OF_CALLS = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "use_cache",
    "output_hidden_states",
    "output_attentions",
    "return_dict",
)
_OF_WEIGHTS = (
    "vocab_size",
    "n_positions",
    "n_embd",
    "n_layer",
    "n_head",
    "n_inner",
    "activation_function",
    "layer_norm_epsilon",
    "scale_attn_weights",
    "multi_query",
    "tie_word_embeddings",
    "num_labels",
)


@dataclass(frozen=True)
class Loading:
    """Checked arguments of `from_pretrained`.

    Attributes:
        dtype: Storage type of the weights, or ``"auto"``.
        kv_dtype: Storage type of keys and values, or ``"auto"``.
        num_threads: 0 = the core decides.
        prefill_threads: 0 = `num_threads`.
        config: What takes the place of the checkpoint's configuration.
        values: What replaces single values of it.
    """

    dtype: str
    kv_dtype: str
    num_threads: int
    prefill_threads: int
    config: GPTBigCodeConfig | None = None
    values: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_arguments(
        cls,
        *,
        dtype: Any,
        num_threads: int | None,
        prefill_threads: int | None,
        kv_dtype: Any,
        config: GPTBigCodeConfig | None,
        options: Mapping[str, Any],
    ) -> Self:
        """Check arguments before anything is fetched or converted.

        Raises:
            InputError: An unknown or unsupported argument, dtype or kv_dtype, or a bad number of threads.
        """
        remaining = dict(options)
        if (older := remaining.pop("torch_dtype", None)) is not None:
            if plain_name(dtype) not in ("auto", plain_name(older)):
                raise InputError(f"dtype is {plain_name(dtype)!r}, but its older name torch_dtype says {plain_name(older)!r}")
            dtype = older
        for name in remaining.keys() & _NEUTRAL.keys():
            value = remaining.pop(name)
            if value not in _NEUTRAL[name] and str(value) not in _NEUTRAL[name]:  # such as torch.device("cpu")
                raise InputError(f"{name}={value!r} is not supported{_INSTEAD.get(name, '')}")
        for name in remaining:
            if name in _OF_CALLS:
                continue
            if name in _OF_WEIGHTS or name in GPTBigCodeConfig.attribute_map:
                raise InputError(f"{name} is fixed by the checkpoint's weights and cannot be changed")
            known = (
                "dtype",
                "num_threads",
                "prefill_threads",
                "kv_dtype",
                "revision",
                "token",
                "cache_dir",
                "local_files_only",
            )
            raise InputError(f"unknown argument {name!r}{nearest(name, (*known, 'config', *_NEUTRAL, *_OF_CALLS))}")
        if config is not None and not isinstance(config, GPTBigCodeConfig):
            raise InputError(f"config must be a GPTBigCodeConfig of this package, not {type(config).__name__}")
        threads, dtype, kv_dtype = given_threads(num_threads), _dtype_name(dtype), plain_name(kv_dtype)
        for_prefill = 0 if prefill_threads is None else _checked_threads("prefill_threads", prefill_threads)
        resolve_kv_dtype(kv_dtype, dtype)
        return cls(dtype, kv_dtype, threads, for_prefill, config, remaining)


def open_model(
    name_or_path: str | Path,
    loading: Loading,
    check_architecture: Callable[[GPTBigCodeConfig, Path], None],
    *,
    revision: str | None,
    token: str | bool | None,
    cache_dir: str | Path | None,
    local_files_only: bool,
) -> PackedModel:
    """Open a model; a plain checkpoint is converted on first use.

    Args:
        name_or_path: As in `PreTrainedModel.from_pretrained`, like the last four.
        loading: Checked arguments.
        check_architecture: Called with the configuration and the directory before anything is converted; raises if the weights
            are those of another class.
        revision: See there.
        token: See there.
        cache_dir: See there.
        local_files_only: See there.

    Raises:
        GPTBigCodeError: As `from_pretrained` says.
    """
    from . import hub

    source = hub.resolve(name_or_path, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
    check_architecture(hub.read_config(source), source)
    with progress_bar() as progress:
        directory = hub.packed_dir(source, loading.dtype, num_threads=loading.num_threads, progress=progress)
    if name_or_path == hub.DEMO:
        logger.warning("'demo' is a tiny demonstration model: it knows elementary functions, not much else")
    packed = open_packed(directory)
    config = _replaced(packed.config, loading)
    config.name_or_path = str(name_or_path)
    return dataclasses.replace(packed, config=config)


def _replaced(stored: GPTBigCodeConfig, loading: Loading) -> GPTBigCodeConfig:
    """The configuration that the caller wants for weights that are stored with another."""
    config = GPTBigCodeConfig.from_dict((loading.config or stored).to_dict())
    config.quantization_config = stored.quantization_config
    if loading.config is not None:
        config.architectures = stored.architectures
    config.update(loading.values)
    for key in _OF_WEIGHTS:
        if getattr(config, key) != getattr(stored, key):
            raise InputError(
                f"{key} is {getattr(stored, key)!r} in the checkpoint and fixed by its weights; it cannot be "
                f"{getattr(config, key)!r}"
            )
    return config


def plain_name(dtype: Any) -> str:
    """The name of a dtype, without torch's prefix."""
    return str(dtype).removeprefix("torch.")


def _dtype_name(dtype: Any) -> str:
    name = plain_name(dtype)
    if name not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}, not {name!r}")
    return name


def default_num_threads() -> int:
    """Threads that a model computes with if its opener does not say: GPTBIGCODE_CPU_NUM_THREADS, or what suits the machine.

    Raises:
        InputError: The variable is no number of threads.
    """
    from . import _core

    return given_threads(None) or _core.default_num_threads()


def given_threads(argument: int | None) -> int:
    """The requested number of threads; 0 = the core decides."""
    if argument is not None:
        return _checked_threads("num_threads", argument)
    text = os.environ.get(THREADS_VARIABLE, "").strip()
    return _checked_threads(THREADS_VARIABLE, int(text) if text.isdecimal() else text) if text else 0


def _checked_threads(origin: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_THREADS:
        raise InputError(f"{origin} must be an integer from 1 to {MAX_THREADS}, not {value!r}")
    return value
