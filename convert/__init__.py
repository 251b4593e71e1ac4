"""Conversion of GPTBigCode checkpoints into the packed form that the core computes on (docs/format.md).

`sources` reads the tensors of a checkpoint in any format, merges LoRA adapters, and gives GPT-2's tensors GPTBigCode's form.
`spec` says which tensors the model needs. `quantize` packs them piece by piece: `calibrate` collects the inputs of layers,
`sensitivity` measures the loss of storage types, and `choose` finds the types that meet a target. `output` writes the weights
file and the files beside it, and puts the directory in place.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gptbigcode_cpu.common.dtypes import DEFAULT_DTYPE, DTYPES
from gptbigcode_cpu.common.file_names import CONFIG
from gptbigcode_cpu.common.progress import Progress
from gptbigcode_cpu.common.regular_files import checked_path
from gptbigcode_cpu.common.threads import checked_threads
from gptbigcode_cpu.config import GPTBigCodeConfig, read_config
from gptbigcode_cpu.convert.checkpoint import Checkpoint
from gptbigcode_cpu.convert.output import journal
from gptbigcode_cpu.convert.output.tokenizer_files import (
    check_generation,
    side_files,
    with_chat_template,
    with_tokenizer_of,
)
from gptbigcode_cpu.convert.output.write import available_bytes, check_target, output_directory, scratch
from gptbigcode_cpu.convert.quantize.sample_text import Calibrate, sample_texts
from gptbigcode_cpu.convert.sources.lora import Adapter, adapted_config, open_adapter
from gptbigcode_cpu.convert.sources.read import read_checkpoint
from gptbigcode_cpu.convert.spec import Plan, plan
from gptbigcode_cpu.errors import CheckpointError, ConfigError, DiskSpaceError, InputError, ModelNotFoundError
from gptbigcode_cpu.hub.paths import resolve, resolve_adapter
from gptbigcode_cpu.hub.source import Source
from gptbigcode_cpu.store.kernel_set import kernel_name, warn_if_slow
from gptbigcode_cpu.store.precision import plain_name
from gptbigcode_cpu.store.room import what_would_fit
from gptbigcode_cpu.store.tensors import CALIBRATED, Scheme
from gptbigcode_cpu.store.weights import FORMAT_VERSION, is_packed, open_packed

__all__ = ["Calibrate", "ConversionReport", "convert", "exact_dtype"]


@dataclass(frozen=True)
class ConversionReport:
    """The result of a conversion; with ``dry_run``, of the one that would run.

    Attributes:
        source: Directory of the checkpoint, or its GGUF file.
        out: Directory of the converted model.
        scheme: The types that its tensors are stored in.
        n_tensors: Tensors of the checkpoint.
        n_parameters: Their elements.
        source_bytes: Their bytes in the checkpoint; of a quantised one, after dequantising.
        output_bytes: Bytes that the converted model needs on disk.
        linear_bits: Bits per weight of the matrices in its blocks, scales included.
        available_bytes: Bytes that were free before.
        notes: Decisions about doubtful points of the checkpoint.
    """

    source: Path
    out: Path
    scheme: Scheme
    n_tensors: int
    n_parameters: int
    source_bytes: int
    output_bytes: int
    linear_bits: float
    available_bytes: int
    notes: tuple[str, ...]


def convert(
    source: str | Path,
    out: str | Path,
    *,
    dtype: Any = None,
    keep: Mapping[str, str] = MappingProxyType({}),
    target_size: int | None = None,
    target_kld: float | None = None,
    calibrate: Calibrate | None = None,
    calibration_tokens: int = 8192,
    adapter: str | Path | Sequence[str | Path] = (),
    overwrite: bool = False,
    num_threads: int | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> ConversionReport:
    """Convert a checkpoint.

    Nothing appears at `out` before the conversion is complete and on disk; a model that is there is not touched until then. A
    calibrated conversion that is interrupted leaves what it did in a directory ``.OUT.calibration`` beside `out`, and the same
    call goes on from there.

    Args:
        source: Directory of a checkpoint (safetensors, ``.bin``, GPTQ, AWQ), a GGUF file, or an id on the Hugging Face Hub.
        out: Directory to create.
        dtype: ``int8`` (default, also ``auto``), ``int6``, ``int4``, ``bfloat16`` or ``float32`` (docs/quantization.md), or the
            torch dtype of that name.
        keep: Storage types of their own for some tensors, see `Scheme.keeping`.
        target_size: Bytes that the weights file may have: int4, int6 or int8 is chosen for every part of the model, such that
            it loses least. What each part loses is measured, on the text that `calibrate` names.
        target_kld: KL divergence from the weights in int8, in nats, that may be lost on that text, before calibration: the
            smallest file is chosen.
        calibrate: Files with sample text, or ``"builtin"``: the codes of int4 and int6 are then chosen such that the outputs of
            the layers change least on it (docs/quantization.md).
        calibration_tokens: About how many tokens of that text are used.
        adapter: Directories or Hub ids of LoRA adapters of PEFT, which are merged into the weights in this order
            (docs/importing.md). An adapter's tokenizer, if it has one, takes the place of the checkpoint's.
        overwrite: Replace a converted model at `out`.
        num_threads: Threads that quantise; None or 0 = one for each performance core.
        dry_run: Check everything and report, but write nothing.
        progress: Called with what is being done, and how many bytes or parts are done of how many.
        revision: Branch, tag or commit on the Hub.
        token: Access token for the Hub; true = the stored one.
        cache_dir: Where the Hub client keeps its downloads.
        local_files_only: Do not connect to the Hub.

    Raises:
        ModelNotFoundError: `source` does not lead to a checkpoint, or `adapter` to an adapter.
        ConfigError: The model is not a supported GPTBigCode model, its options of generation are not supported, or the adapter
            is of a kind that cannot be merged.
        CheckpointError: Its tensors do not fit its configuration, are damaged or not finite.
        DiskSpaceError: The file system of `out` is too small.
        InputError: `dtype` or what `keep` says is unknown, a bad number of threads, `out` must not be replaced, nothing is
            stored in a type that calibration changes, or its text is too short.
        KernelError: ``GPTBIGCODE_CPU_ISA`` names a kernel set that is unknown or that this CPU cannot run.
        TokenizerError: The tokenizer in a GGUF file is damaged or of an unsupported kind, or there is none to calibrate with.
        MissingDependencyError: The checkpoint is a ``.bin`` file and torch is not installed, or it is a quantised GGUF file and
            the gguf package is not.
    """
    num_threads = checked_threads(0 if num_threads is None else num_threads, least=0)
    dtype = None if dtype is None or plain_name(dtype) == "auto" else plain_name(dtype)
    aims = target_size is not None or target_kld is not None
    _check_options(dtype, target_size, target_kld, calibration_tokens)
    # No resolve() of its own: symbolic links to the parts of a GGUF file may lead to names that say nothing.
    where = Source(revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
    path = resolve(source, where, before_weights=_source_config).absolute()
    out = checked_path(out, "the output of a conversion").resolve()
    if path.resolve() == out or out in path.resolve().parents:
        raise InputError(f"{out} contains the checkpoint {path}; choose another directory for the output")
    check_target(out, overwrite, _is_model(out))

    adapters = _adapters(adapter, dataclasses.replace(where, revision=None))
    config = _source_config(path)
    tensors = read_checkpoint(path, config, adapters)
    work = plan(reduce(adapted_config, adapters, config), tensors)
    files, notes = side_files(path)
    check_generation(path, files, config)
    for merged in adapters:
        files, notes = with_tokenizer_of(merged.path, files, notes)
    files, chat_notes = with_chat_template(files, str(source))
    checkpoint = Checkpoint(path, work, files)
    scheme = Scheme.default(work.config, dtype or ("int4" if aims else DEFAULT_DTYPE))
    scheme = scheme.keeping(work.config, [spec for spec, _ in work.tensors], keep)
    texts = [] if calibrate is None and not aims else sample_texts("builtin" if calibrate is None else calibrate)
    notes = (*(merged.note for merged in adapters), *work.notes, *notes, *chat_notes)
    if aims:
        from gptbigcode_cpu.convert.quantize.sensitivity import SAMPLE_TOKENS, Sensitivity

        sensitivity = Sensitivity(checkpoint, scheme, keep)
        sensitivity.check(target_size)
        if not dry_run:
            windows = checkpoint.windows(texts, SAMPLE_TOKENS)
            with scratch(out) as directory:
                checkpoint.write(directory, sensitivity.reference, num_threads, progress)
                scheme, note = sensitivity.choose(
                    open_packed(directory),
                    windows,
                    target_size=target_size,
                    target_kld=target_kld,
                    num_threads=num_threads,
                    progress=progress,
                )
            notes += (note,)
    fingerprint = ""
    if calibrate is not None:
        if not any(stored.dtype in CALIBRATED for stored, _ in work.stored(scheme)):
            raise InputError(f"calibration changes tensors in {', '.join(sorted(CALIBRATED))}; here all are {scheme.dtype}")
        fingerprint = _fingerprint([path, *(merged.path for merged in adapters)], work, scheme, texts, calibration_tokens)
        notes += _resumed(out, fingerprint, work.config)
    report = ConversionReport(
        path,
        out,
        scheme,
        len(work.tensors),
        work.n_parameters,
        work.source_bytes,
        checkpoint.output_bytes(scheme),
        work.linear_bits(scheme),
        available_bytes(out),
        notes,
    )
    if report.available_bytes < report.output_bytes:
        raise DiskSpaceError(
            f"{out} needs {report.output_bytes:,} bytes, but its file system has {report.available_bytes:,} left; "
            f"nothing was written{what_would_fit(work.config, scheme.dtype, report.available_bytes)}"
        )
    if dry_run:
        return report
    kernel_name()  # packs the weights; an unusable one is an error before anything is written
    warn_if_slow()
    with output_directory(out, overwrite) as temporary:
        if calibrate is None:
            checkpoint.write(temporary, scheme, num_threads, progress)
        else:
            windows = checkpoint.windows(texts, calibration_tokens)
            with journal.opened(out, fingerprint) as record:
                checkpoint.write(temporary, scheme, num_threads, progress, journal=record, windows=windows)
    journal.discard(out)
    return report


def exact_dtype(source: Path) -> str:
    """The storage type that holds the weights of a plain checkpoint as they are: ``bfloat16``, or else ``float32``.

    Args:
        source: The directory or GGUF file that `gptbigcode_cpu.hub.paths.resolve` found.

    Raises:
        GPTBigCodeError: As `convert` does of the checkpoint.
    """
    config = _source_config(source)
    return plan(config, read_checkpoint(source, config)).exact_dtype


def _check_options(dtype: str | None, target_size: int | None, target_kld: float | None, calibration_tokens: int) -> None:
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
    if target_size is not None and target_kld is not None:
        raise InputError("pass either target_size or target_kld")
    if (target_size is not None or target_kld is not None) and dtype not in (None, "int4"):
        raise InputError(f"target_size and target_kld choose the types themselves; leave out dtype={dtype!r}")
    for name, value in (("target_size", target_size), ("target_kld", target_kld), ("calibration_tokens", calibration_tokens)):
        if value is not None and not value > 0:
            raise InputError(f"{name} is {value}, must be positive")


def _adapters(given: str | Path | Sequence[str | Path], where: Source) -> list[Adapter]:
    names = [given] if isinstance(given, str | Path) else given
    paths = [resolve_adapter(name, where) for name in names]
    return [open_adapter(path.absolute()) for path in paths]


def _source_config(path: Path) -> GPTBigCodeConfig:
    config = read_config(path)
    if is_packed(config):
        raise CheckpointError(f"{path} is already converted; a conversion starts from the original checkpoint")
    return config


def _is_model(directory: Path) -> bool:
    try:
        return is_packed(GPTBigCodeConfig.from_json_file(directory / CONFIG))
    except (ConfigError, ModelNotFoundError):
        return False


def _fingerprint(paths: Sequence[Path], work: Plan, scheme: Scheme, texts: Sequence[str], n_tokens: int) -> str:
    """A digest of the sources and options of a calibrated conversion. Only a conversion with the same digest resumes an
    interrupted one."""
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(filter(Path.is_file, path.iterdir())))]
    stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    parts = (FORMAT_VERSION, stats, work.config.to_dict(), scheme.dtype, sorted(scheme.overrides.items()), n_tokens)
    digest = hashlib.sha256(repr(parts).encode())
    for text in texts:
        digest.update(hashlib.sha256(text.encode()).digest())
    return digest.hexdigest()


def _resumed(out: Path, fingerprint: str, config: GPTBigCodeConfig) -> tuple[str, ...]:
    state = journal.read_state(journal.directory(out))
    if state is None or state["fingerprint"] != fingerprint:
        return ()
    return (f"goes on at block {state['layer'] + 1} of {config.n_layer}, where the same conversion was interrupted",)
