"""From the arguments of `from_pretrained` to an opened model."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from gptbigcode_cpu.common.dtypes import DEFAULT_DTYPE
from gptbigcode_cpu.common.progress import progress_bar
from gptbigcode_cpu.common.suggest import nearest
from gptbigcode_cpu.common.threads import checked_threads, given_threads
from gptbigcode_cpu.config import GPTBigCodeConfig, read_config
from gptbigcode_cpu.errors import InputError
from gptbigcode_cpu.hub.source import SOURCE_NAMES, Source
from gptbigcode_cpu.store.kernel_set import kernel_name
from gptbigcode_cpu.store.precision import OTHER_NAMES, plain_name, storage_dtype
from gptbigcode_cpu.store.weights import PackedModel, is_packed, open_packed, packed_scheme, resolve_kv_dtype

logger = logging.getLogger(__name__)

_ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
# Arguments of transformers that change nothing here, with the values for which that is so; None: any value.
_NEUTRAL: dict[str, tuple[Any, ...] | None] = {
    "device_map": (None, "auto", "balanced", "balanced_low_0", "sequential", "cpu"),
    "attn_implementation": (None, *_ATTENTIONS, *(f"paged|{name}" for name in _ATTENTIONS)),
    "use_flash_attention_2": None,
    "trust_remote_code": None,  # no code is downloaded
    "low_cpu_mem_usage": None,  # weights are mapped: none are in memory twice
    "use_safetensors": None,
    "weights_only": None,
    "disable_mmap": (None, False),
    "offload_folder": None,  # nothing is moved out of memory
    "offload_state_dict": None,
    "offload_buffers": None,
    "max_memory": (None,),
    "state_dict": (None,),
    "ignore_mismatched_sizes": (None, False),
    "output_loading_info": (None, False),
    "key_mapping": (None,),
    "adapter_kwargs": (None, {}),
    "torchscript": (None, False),
    "from_tf": (None, False),
    "from_flax": (None, False),
    "tp_plan": (None,),
    "use_kernels": (None, False),
}
_INSTEAD = {
    "device_map": ": this package computes on the CPU",
    "max_memory": ": a model takes what its weights take; dtype='int4' takes least",
    "state_dict": ": save the weights as a checkpoint and pass its directory",
}
LOADING_NAMES = (*OTHER_NAMES, *_NEUTRAL)
"""Arguments of transformers' `from_pretrained` that this one understands."""
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
        config: Takes the place of the checkpoint's configuration.
        values: Replace single values of the configuration.
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
        config: Any,
        options: Mapping[str, Any],
    ) -> Self:
        """Check arguments before anything is fetched or converted.

        Raises:
            InputError: An unknown or unsupported argument, dtype or kv_dtype, or a bad number of threads.
        """
        remaining = dict(options)
        dtype = storage_dtype(dtype, {name: remaining.pop(name) for name in OTHER_NAMES if name in remaining})
        for name in [name for name in _NEUTRAL if name in remaining]:
            check_neutral(name, remaining.pop(name))
        for name in remaining:
            if name in _OF_CALLS:
                continue
            if name in _OF_WEIGHTS or name in GPTBigCodeConfig.attribute_map:
                raise InputError(f"{name} is fixed by the checkpoint's weights and cannot be changed")
            known = ("dtype", "num_threads", "prefill_threads", "kv_dtype", "config", *SOURCE_NAMES)
            raise InputError(f"unknown argument {name!r}{nearest(name, (*known, *OTHER_NAMES, *_NEUTRAL, *_OF_CALLS))}")
        config = own_config(config)
        threads, kv_dtype = given_threads(num_threads), plain_name(kv_dtype)
        for_prefill = 0 if prefill_threads is None else checked_threads(prefill_threads, "prefill_threads")
        resolve_kv_dtype(kv_dtype, dtype)
        return cls(dtype, kv_dtype, threads, for_prefill, config, remaining)


def open_model(
    name_or_path: str | Path,
    loading: Loading,
    check_architecture: Callable[[GPTBigCodeConfig, Path], None],
    source: Source,
) -> PackedModel:
    """Open a model; a plain checkpoint is converted on first use.

    Whatever can be refused without the weights is refused before they are converted, which takes minutes.

    Args:
        name_or_path: As in `PreTrainedModel.from_pretrained`.
        loading: Checked arguments.
        check_architecture: Called with the configuration and the directory before anything is converted; raises if the weights
            are those of another class.
        source: Where the files are.

    Raises:
        GPTBigCodeError: As `from_pretrained` says.
    """
    from gptbigcode_cpu.hub.paths import DEMO, resolve
    from gptbigcode_cpu.store import room

    kernel_name()  # refuses a wrong GPTBIGCODE_CPU_ISA
    path = resolve(name_or_path, source, before_weights=read_config)
    config = read_config(path)
    check_architecture(config, path)
    _replaced(config, loading)
    if is_packed(config):
        dtype = packed_scheme(config, path, loading.dtype).dtype
    else:
        dtype = DEFAULT_DTYPE if loading.dtype == "auto" else loading.dtype
    room.note_memory(str(name_or_path), config, dtype)
    if name_or_path == DEMO:
        logger.warning("'demo' is a tiny demonstration model: it knows elementary functions, not much else")
    if is_packed(config):
        packed = open_packed(path, config)
    else:
        from gptbigcode_cpu.models.converted import open_converted

        with progress_bar() as progress:
            packed = open_converted(path, dtype, loading.num_threads, progress)
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


def own_config(config: Any) -> GPTBigCodeConfig | None:
    """The configuration that an argument stands for: itself, or a path, a Hub id, or an object of transformers.

    Raises:
        InputError: It is none of these.
        GPTBigCodeError: As `GPTBigCodeConfig.from_pretrained` says.
    """
    if config is None or isinstance(config, GPTBigCodeConfig):
        return config
    if isinstance(config, (str, Path)):
        return GPTBigCodeConfig.from_pretrained(config)
    if not isinstance(getattr(config, "model_type", None), str) or not hasattr(config, "to_dict"):
        raise InputError(f"config must be a GPTBigCodeConfig or the name of one, not {type(config).__name__}")
    return GPTBigCodeConfig.from_dict(config.to_dict())


def check_neutral(name: str, value: Any) -> None:
    """Refuse an argument of transformers that would change something there and can change nothing here.

    Raises:
        InputError: The value asks for something that is not supported.
    """
    neutral = _NEUTRAL[name]
    places = value.values() if name == "device_map" and isinstance(value, Mapping) else [value]
    # str: of torch.device("cpu").
    if neutral is not None and any(place not in neutral and str(place) not in neutral for place in places):
        raise InputError(f"{name}={value!r} is not supported{_INSTEAD.get(name, '')}")
