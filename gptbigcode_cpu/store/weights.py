"""Opening a converted model: every byte range is checked, then mapped; no weight is read or copied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from gptbigcode_cpu.common.dtypes import DTYPES, KV_DTYPES
from gptbigcode_cpu.common.file_names import CONFIG, SAFETENSORS
from gptbigcode_cpu.common.messages import listed, shown
from gptbigcode_cpu.common.threads import checked_threads
from gptbigcode_cpu.config import GPTBigCodeConfig
from gptbigcode_cpu.errors import FormatError, InputError, ModelNotFoundError
from gptbigcode_cpu.store.kernel_set import kernel_name, warn_if_slow
from gptbigcode_cpu.store.tensor_file import TensorEntry, TensorFileError, map_tensor_file
from gptbigcode_cpu.store.tensors import (
    LM_HEAD,
    QUANTISED,
    Scheme,
    StoredTensor,
    decoder_tensors,
    head_tensors,
    required_heads,
)

if TYPE_CHECKING:
    from gptbigcode_cpu import _core

QUANT_METHOD = "gptbigcode-cpu"
FORMAT_VERSION = 4
ALIGNMENT = 64
PAD_PREFIX = "__pad__."


@dataclass(frozen=True)
class PackedModel:
    """A converted model, mapped.

    Attributes:
        path: The directory.
        config: Its ``config.json``.
        scheme: The types that its tensors are stored in.
        tensors: Name -> read-only view on the mapped file, shapes as in docs/format.md; bfloat16 as uint16.
        nbytes: Bytes of these tensors.
    """

    path: Path
    config: GPTBigCodeConfig
    scheme: Scheme
    tensors: Mapping[str, NDArray[Any]]
    nbytes: int

    @property
    def dtype(self) -> str:
        """The name of its scheme: the storage type of most of its matrices."""
        return self.scheme.dtype


def open_packed(path: Path, config: GPTBigCodeConfig | None = None) -> PackedModel:
    """Check a converted model directory completely and map its weights.

    Args:
        path: The directory.
        config: The content of its ``config.json``, if that has been read.

    Raises:
        ModelNotFoundError: There is no such directory, or it holds no model.
        ConfigError: Its ``config.json`` is malformed.
        FormatError: It is not a converted model, or it is damaged; the message names the check that failed.
    """
    path = Path(path)
    if not path.is_dir():
        raise ModelNotFoundError(f"{path} is not a directory; a model is one, with config.json and {SAFETENSORS}")
    config = GPTBigCodeConfig.from_json_file(path / CONFIG) if config is None else config
    scheme = packed_scheme(config, path)
    try:
        file = map_tensor_file(path / SAFETENSORS)
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"{path} has no {SAFETENSORS}; convert the checkpoint again") from error
    except OSError as error:
        raise ModelNotFoundError(f"{path / SAFETENSORS} cannot be read: {error.strerror}") from error
    except TensorFileError as error:
        raise FormatError(f"{path / SAFETENSORS}: {error}; convert the checkpoint again") from error
    problems = list(_problems(config, scheme, file.entries))
    if problems:
        raise FormatError(f"{path / SAFETENSORS} does not fit its config.json: {listed(problems)}")
    file.prefer_huge_pages()
    tensors = {name: file.array(entry) for name, entry in file.entries.items() if not name.startswith(PAD_PREFIX)}
    return PackedModel(path, config, scheme, tensors, sum(array.nbytes for array in tensors.values()))


def is_packed(config: GPTBigCodeConfig) -> bool:
    """Whether a configuration is that of a converted model."""
    return config.quantization_config is not None and config.quantization_config.get("quant_method") == QUANT_METHOD


def packed_scheme(config: GPTBigCodeConfig, path: Path, wanted: str = "auto") -> Scheme:
    """The types that the tensors of a converted model are stored in.

    Args:
        config: Of the model.
        path: Its directory, for messages.
        wanted: The storage type that the caller asks for; ``"auto"``: any.

    Raises:
        FormatError: `path` is not a converted model, or one of an unknown version or type.
        InputError: It is stored in another type than `wanted`.
    """
    if config.quantization_config is None or not is_packed(config):
        raise FormatError(f"{path} is not a converted model: its config.json has no quantization_config of {QUANT_METHOD}")
    version, dtype, overrides = (config.quantization_config.get(key) for key in ("format_version", "dtype", "overrides"))
    if version != FORMAT_VERSION:
        raise FormatError(f"{path} has format version {shown(version)}, this package reads {FORMAT_VERSION}; convert it again")
    if not isinstance(overrides, Mapping):
        raise FormatError(f"{path} has overrides that are no object of tensor names and dtypes: {shown(overrides)}")
    for name in (dtype, *overrides.values()):
        if not isinstance(name, str) or name not in DTYPES:
            raise FormatError(f"{path} has the unknown dtype {shown(name)}; known are {', '.join(DTYPES)}")
    if wanted not in ("auto", dtype):
        raise InputError(f"{path} is stored as {dtype}; for {wanted} convert the original checkpoint")
    return Scheme(str(dtype), dict(overrides))


def _problems(config: GPTBigCodeConfig, scheme: Scheme, entries: Mapping[str, TensorEntry]) -> Iterator[str]:
    heads = head_tensors(config)
    specs = {spec.name: spec for spec in decoder_tensors(config)}
    required = specs.keys() | required_heads(config)
    specs |= {name: spec for name, spec in heads.items() if name in required or name in entries}
    if config.tie_word_embeddings:
        specs.pop(LM_HEAD, None)
    expected: dict[str, StoredTensor] = {}
    for name, spec in specs.items():
        stored = {part.name: part for part in scheme.stored(config, spec)}
        expected |= stored
        if name in required:
            for part in sorted(stored.keys() - entries.keys()):
                yield f"{part} is missing"
    for name in sorted(scheme.overrides.keys() - {name for name, stored in expected.items() if stored.dtype is not None}):
        if name != LM_HEAD:  # which not every classifier has
            yield f"{shown(name)} has an override, but is no packed tensor"
    for name in sorted(entries.keys() - expected.keys()):
        filler = entries[name]
        if not name.startswith(PAD_PREFIX):
            yield f"{shown(name)} is unexpected"
        elif filler.dtype != "U8" or filler.end - filler.begin >= ALIGNMENT:
            yield f"{shown(name)} is {filler.dtype} {list(filler.shape)}, which is not a gap between tensors"
    for name, tensor in expected.items():
        if (entry := entries.get(name)) is None:
            continue
        if (entry.dtype, entry.shape) != (tensor.kind, tensor.shape):
            yield f"{name} is {entry.dtype} {list(entry.shape)}, expected {tensor.kind} {list(tensor.shape)}"
        if entry.begin % ALIGNMENT:
            yield f"{name} begins at byte {entry.begin}, which is not a multiple of {ALIGNMENT}"


def resolve_kv_dtype(kv_dtype: str, dtype: str) -> str:
    """The storage type of keys and values for a model that is stored in `dtype`.

    Raises:
        InputError: `kv_dtype` is neither ``"auto"`` nor one of `KV_DTYPES`.
    """
    if kv_dtype not in ("auto", *KV_DTYPES):
        raise InputError(f"kv_dtype must be one of auto, {', '.join(KV_DTYPES)}, not {kv_dtype!r}")
    if kv_dtype == "auto":
        return "int8" if dtype in QUANTISED else dtype
    return kv_dtype


def load_core(
    packed: PackedModel,
    num_threads: int = 0,
    prefill_threads: int = 0,
    kv_dtype: str = "auto",
    isa: str | None = None,
) -> _core.Model:
    """The compute core on the mapped weights of a model.

    Args:
        packed: The model; its mapping stays alive as long as the result.
        num_threads: 0 = one for each performance core.
        prefill_threads: For calls of more than 16 new tokens; 0 = `num_threads`.
        kv_dtype: Storage type of keys and values, one of `KV_DTYPES`; ``"auto"`` = int8 for integer weights, else theirs.
        isa: The kernel set; None: the one of this process, see `kernel_name`.

    Raises:
        InputError: A bad number of threads or an unknown `kv_dtype`.
        KernelError: ``GPTBIGCODE_CPU_ISA`` names a kernel set that is unknown or that this CPU cannot run.
        FormatError: The core rejects a tensor.
        ThreadLimitError: The operating system starts no more threads.
    """
    from gptbigcode_cpu import _core

    num_threads = checked_threads(num_threads, least=0)
    prefill_threads = checked_threads(prefill_threads, "prefill_threads", least=0)
    kv_dtype = resolve_kv_dtype(kv_dtype, packed.dtype)
    if isa is None:
        isa = kernel_name()
        warn_if_slow()
    config = packed.config
    try:
        return _core.Model(
            dict(packed.tensors),
            dtype=packed.dtype,
            dtypes=dict(packed.scheme.overrides),
            vocab_size=config.vocab_size,
            n_positions=config.n_positions,
            n_embd=config.n_embd,
            n_layer=config.n_layer,
            n_head=config.n_head,
            n_kv_head=config.n_kv_head,
            n_inner=config.n_inner,
            activation=config.activation_function,
            layer_norm_epsilon=config.layer_norm_epsilon,
            attention_scale=config.attention_scale,
            kv_dtype=kv_dtype,
            num_threads=num_threads,
            prefill_threads=prefill_threads,
            isa=isa,
        )
    except ValueError as error:
        raise FormatError(f"{packed.path}: {error}") from error
