"""Conversion of GPTBigCode checkpoints into the packed form that the core computes on (docs/format.md).

`read` hands out the tensors of a checkpoint, whatever its files; `gguf_*` and `gptq` know those that are quantised already;
`spec` says which of them the model needs; `quantize` packs them piece by piece; `write` makes the output directory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from gptbigcode_cpu.config import GPTBigCodeConfig
from gptbigcode_cpu.convert.read import read_checkpoint
from gptbigcode_cpu.convert.spec import Plan, plan
from gptbigcode_cpu.convert.tokenizer_files import json_bytes, side_files, write_side_files
from gptbigcode_cpu.convert.write import available_bytes, check_target, header_bytes, pad_to_alignment, replacing
from gptbigcode_cpu.errors import CheckpointError, ConfigError, DiskSpaceError, InputError, ModelNotFoundError
from gptbigcode_cpu.hub import read_config, resolve
from gptbigcode_cpu.progress import Progress
from gptbigcode_cpu.tensors import DTYPES, QUANTISED, Role, Scheme
from gptbigcode_cpu.weights import FORMAT_VERSION, QUANT_METHOD, WEIGHTS_NAME, check_num_threads, is_packed, kernel_name

__all__ = ["ConversionReport", "convert"]


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did, or with ``dry_run`` would do.

    Attributes:
        source: Directory of the checkpoint, or its GGUF file.
        out: Directory of the converted model.
        scheme: As what its tensors are stored.
        n_tensors: Tensors of the checkpoint.
        n_parameters: Their elements.
        source_bytes: Their bytes in the checkpoint, dequantised if it is quantised.
        output_bytes: Bytes that the converted model needs on disk.
        available_bytes: Bytes that were free before.
        notes: What was decided about doubtful points of the checkpoint.
    """

    source: Path
    out: Path
    scheme: Scheme
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
    keep: Mapping[str, str] = MappingProxyType({}),
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
        source: Directory of a checkpoint (safetensors, ``.bin``, GPTQ, AWQ), a GGUF file, or an id on the Hugging Face Hub.
        out: Directory to create.
        dtype: ``int8``, ``int6``, ``int4``, ``bfloat16`` or ``float32`` (docs/quantization.md).
        keep: Storage types of their own for some tensors, see `Scheme.keeping`.
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
        InputError: `dtype` or what `keep` says is unknown, a bad number of threads, or `out` must not be replaced.
        KernelError: ``GPTBIGCODE_CPU_ISA`` names a kernel set that is unknown or that this CPU cannot run.
        TokenizerError: The tokenizer in a GGUF file is damaged or of an unsupported kind.
        MissingDependencyError: The checkpoint is a ``.bin`` file and torch is not installed, or it is a quantised GGUF file and
            the gguf package is not.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
    check_num_threads(num_threads)
    # No resolve() of its own: symbolic links to the parts of a GGUF file may lead to names that say nothing.
    path = resolve(source, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only).absolute()
    out = Path(out).expanduser().resolve()
    if path.resolve() == out or out in path.resolve().parents:
        raise InputError(f"{out} contains the checkpoint {path}; choose another directory for the output")
    check_target(out, overwrite, _is_model(out))

    config = _source_config(path)
    work = plan(config, read_checkpoint(path, config))
    files, notes = side_files(path)
    scheme = Scheme.default(work.config, dtype).keeping(work.config, [spec for spec, _ in work.tensors], keep)
    header, file_bytes = header_bytes(
        (stored.name, stored.kind, stored.shape) for spec, _ in work.tensors for stored in scheme.stored(work.config, spec)
    )
    output_bytes = file_bytes + sum(map(len, files.values())) + (64 << 10)
    report = ConversionReport(
        path,
        out,
        scheme,
        len(work.tensors),
        work.n_parameters,
        work.source_bytes,
        output_bytes,
        available_bytes(out),
        work.notes + notes,
    )
    if report.available_bytes < output_bytes:
        raise DiskSpaceError(
            f"{out} needs {output_bytes:,} bytes, but its file system has {report.available_bytes:,} left; nothing was written"
        )
    if dry_run:
        return report
    kernel_name()  # packs the weights; an unusable one is an error before anything is written
    with replacing(out, overwrite) as temporary:
        write_side_files(files, temporary, work.config)
        _write_weights(temporary / WEIGHTS_NAME, work, header, file_bytes, scheme, num_threads, progress)
        # Last, because a directory without it is not a model.
        quantization = {
            "quant_method": QUANT_METHOD,
            "format_version": FORMAT_VERSION,
            "dtype": scheme.dtype,
            "overrides": dict(scheme.overrides),
        }
        converted = work.config.to_dict() | {"quantization_config": quantization}
        (temporary / "config.json").write_bytes(json_bytes(converted))
    return report


def _source_config(path: Path) -> GPTBigCodeConfig:
    config = read_config(path)
    if is_packed(config):
        raise CheckpointError(f"{path} is already converted; a conversion starts from the original checkpoint")
    return config


def _is_model(directory: Path) -> bool:
    try:
        return is_packed(GPTBigCodeConfig.from_json_file(directory / "config.json"))
    except (ConfigError, ModelNotFoundError):
        return False


def _write_weights(
    path: Path, work: Plan, header: bytes, file_bytes: int, scheme: Scheme, num_threads: int, progress: Progress | None
) -> None:
    # Loads the core, which a dry run does without.
    from gptbigcode_cpu.convert.quantize import column_scales, packed_chunks

    scales = column_scales(work.config, {spec.name: source for spec, source in work.tensors})
    with path.open("wb") as file:
        file.write(header)
        for spec, source in work.tensors:
            for stored in scheme.stored(work.config, spec):
                pad_to_alignment(file)
                if stored.rows is None:
                    file.write(scales[spec.name].data)
                    continue
                scale = scales[spec.name] if spec.role is Role.HEAD and stored.dtype in QUANTISED else None
                for chunk in packed_chunks(work.config, stored, source, num_threads, scale):
                    if progress is not None:
                        progress(stored.name, file.tell(), file_bytes)
                    file.write(chunk.data)
        if progress is not None:
            progress("", file_bytes, file_bytes)
        if file.tell() != file_bytes:
            raise AssertionError(f"{path} has {file.tell()} bytes, planned were {file_bytes}")
