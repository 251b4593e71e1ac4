"""Conversion of GPTBigCode checkpoints into the packed form that the core computes on (docs/format.md).

`read` hands out the tensors of a checkpoint, whatever its files; `spec` says which of them the model needs; `quantize` packs
them piece by piece; `write` makes the output directory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gptbigcode_cpu.config import GPTBigCodeConfig
from gptbigcode_cpu.convert.read import read_checkpoint
from gptbigcode_cpu.convert.spec import Plan, plan
from gptbigcode_cpu.convert.tokenizer_files import side_files, write_json, write_side_files
from gptbigcode_cpu.convert.write import available_bytes, check_target, header_bytes, pad_to_alignment, replacing
from gptbigcode_cpu.errors import CheckpointError, ConfigError, DiskSpaceError, InputError, ModelNotFoundError
from gptbigcode_cpu.hub import resolve
from gptbigcode_cpu.weights import (
    FORMAT_VERSIONS,
    HEAD_DTYPES,
    QUANT_METHOD,
    WEIGHTS_NAME,
    check_num_threads,
    is_packed,
    kernel_name,
)

__all__ = ["ConversionReport", "convert"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did, or with ``dry_run`` would do.

    Attributes:
        source: Directory of the checkpoint.
        out: Directory of the converted model.
        dtype: Storage type of the linear layers.
        head_dtype: Storage type of the token embedding and the LM head.
        n_tensors: Tensors in the converted model.
        n_parameters: Their elements.
        source_bytes: Their bytes in the checkpoint.
        output_bytes: Bytes that the converted model needs on disk.
        available_bytes: Bytes that were free before.
        notes: What was decided about doubtful points of the checkpoint.
    """

    source: Path
    out: Path
    dtype: str
    head_dtype: str
    n_tensors: int
    n_parameters: int
    source_bytes: int
    output_bytes: int
    available_bytes: int
    notes: tuple[str, ...]


def convert(
    source: str | Path,
    out: str | Path,
    *,
    dtype: str = "int8",
    overwrite: bool = False,
    num_threads: int = 0,
    dry_run: bool = False,
    progress: Progress | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> ConversionReport:
    """Convert a checkpoint.

    Nothing appears at `out` before the conversion is complete and on disk; a model that is there is not touched until then.

    Args:
        source: Directory of a checkpoint, or its id on the Hugging Face Hub.
        out: Directory to create.
        dtype: ``int8``, ``int4``, ``bfloat16`` or ``float32``.
        overwrite: Replace a converted model at `out`.
        num_threads: Threads that quantise; 0 = one for each performance core.
        dry_run: Check everything and report, but write nothing.
        progress: Called with the name of a tensor, the bytes written so far and the bytes in all.
        revision: Branch, tag or commit on the Hub.
        token: Access token for the Hub; true = the stored one.
        cache_dir: Where the Hub client keeps its downloads.
        local_files_only: Do not connect to the Hub.

    Raises:
        ModelNotFoundError: `source` does not lead to a checkpoint.
        ConfigError: The model is not a supported GPTBigCode model.
        CheckpointError: Its tensors do not fit its configuration, are damaged or not finite.
        DiskSpaceError: The file system of `out` is too small.
        InputError: `dtype` is unknown, a bad number of threads, or `out` must not be replaced.
        KernelError: ``GPTBIGCODE_CPU_ISA`` names a kernel set that is unknown or that this CPU cannot run.
        MissingDependencyError: The checkpoint is a ``.bin`` file and torch is not installed.
    """
    if dtype not in HEAD_DTYPES:
        raise InputError(f"dtype {dtype!r} is unknown; choose one of {', '.join(HEAD_DTYPES)}")
    check_num_threads(num_threads)
    directory = resolve(
        source, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
    ).resolve()
    out = Path(out).expanduser().resolve()
    if directory == out or out in directory.parents:
        raise InputError(f"{out} contains the checkpoint {directory}; choose another directory for the output")
    check_target(out, overwrite, _is_model(out))

    config = _source_config(directory)
    work = plan(config, read_checkpoint(directory))
    header, file_bytes = header_bytes((spec.name, *spec.stored_as(dtype)) for spec, _ in work.tensors)
    output_bytes = file_bytes + sum(path.stat().st_size for path in side_files(directory)) + (64 << 10)
    report = ConversionReport(
        directory,
        out,
        dtype,
        HEAD_DTYPES[dtype],
        len(work.tensors),
        work.n_parameters,
        work.source_bytes,
        output_bytes,
        available_bytes(out),
        work.notes,
    )
    if report.available_bytes < output_bytes:
        raise DiskSpaceError(
            f"{out} needs {output_bytes:,} bytes, but its file system has {report.available_bytes:,} left; nothing was written"
        )
    if dry_run:
        return report
    kernel_name()  # packs the weights; an unusable one is an error before anything is written
    with replacing(out, overwrite) as temporary:
        write_side_files(directory, temporary, work.config)
        _write_weights(temporary / WEIGHTS_NAME, work, header, file_bytes, dtype, num_threads, progress)
        # Last, because a directory without it is not a model.
        quantization = {
            "quant_method": QUANT_METHOD,
            "format_version": FORMAT_VERSIONS[dtype],
            "dtype": dtype,
            "head_dtype": HEAD_DTYPES[dtype],
        }
        write_json(temporary / "config.json", work.config.to_dict() | {"quantization_config": quantization})
    return report


def _source_config(directory: Path) -> GPTBigCodeConfig:
    config = GPTBigCodeConfig.from_json_file(directory / "config.json")
    if is_packed(config):
        raise CheckpointError(f"{directory} is already converted; a conversion starts from the original checkpoint")
    if config.quantization_config is not None:
        method = config.quantization_config.get("quant_method")
        raise ConfigError(f"{directory} is quantised with {method!r}; a conversion starts from unquantised weights")
    return config


def _is_model(directory: Path) -> bool:
    try:
        return is_packed(GPTBigCodeConfig.from_json_file(directory / "config.json"))
    except (ConfigError, ModelNotFoundError):
        return False


def _write_weights(
    path: Path, work: Plan, header: bytes, file_bytes: int, dtype: str, num_threads: int, progress: Progress | None
) -> None:
    # Loads the core, which a dry run does without.
    from gptbigcode_cpu.convert.quantize import packed_chunks

    with path.open("wb") as file:
        file.write(header)
        for spec, source in work.tensors:
            pad_to_alignment(file)
            for chunk in packed_chunks(work.config, spec, source, dtype, num_threads):
                if progress is not None:
                    progress(spec.name, file.tell(), file_bytes)
                file.write(chunk.data)
        if progress is not None:
            progress("", file_bytes, file_bytes)
        if file.tell() != file_bytes:
            raise AssertionError(f"{path} has {file.tell()} bytes, planned were {file_bytes}")
