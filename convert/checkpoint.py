"""A checkpoint that was checked, and the converted model that is made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.common.file_names import CONFIG, SAFETENSORS
from gptbigcode_cpu.common.json_files import json_bytes
from gptbigcode_cpu.common.progress import Progress
from gptbigcode_cpu.convert.output.tokenizer_files import write_side_files
from gptbigcode_cpu.convert.output.write import header_bytes
from gptbigcode_cpu.convert.spec import Plan
from gptbigcode_cpu.store.tensors import Scheme
from gptbigcode_cpu.store.weights import FORMAT_VERSION, QUANT_METHOD

if TYPE_CHECKING:
    from gptbigcode_cpu.convert.output.journal import Journal


@dataclass(frozen=True)
class Checkpoint:
    """The input of a conversion.

    Attributes:
        path: Its directory or GGUF file.
        work: Its tensors.
        files: Names and contents of the files beside the weights.
    """

    path: Path
    work: Plan
    files: Mapping[str, bytes]

    def header(self, scheme: Scheme) -> tuple[bytes, int]:
        """The start of the weights file, and the size of it."""
        return header_bytes((stored.name, stored.kind, stored.shape) for stored, _ in self.work.stored(scheme))

    def output_bytes(self, scheme: Scheme) -> int:
        """Bytes that the converted model needs on disk."""
        return self.header(scheme)[1] + sum(map(len, self.files.values())) + (64 << 10)

    def windows(self, texts: Sequence[str], n_tokens: int) -> NDArray[np.int32]:
        """Sample text for this model, see `sample_text.sample_windows`."""
        from gptbigcode_cpu.convert.quantize.sample_text import sample_windows
        from gptbigcode_cpu.tokenizer import AutoTokenizer

        with TemporaryDirectory() as name:  # the tokenizer may not be a file yet
            write_side_files(self.files, Path(name), self.work.config)
            return sample_windows(self.work.config, AutoTokenizer.from_pretrained(name), texts, n_tokens)

    def write(
        self,
        directory: Path,
        scheme: Scheme,
        num_threads: int,
        progress: Progress | None = None,
        *,
        journal: Journal | None = None,
        windows: NDArray[np.int32] | None = None,
    ) -> None:
        """Write the converted model into an empty directory.

        Args:
            directory: Where.
            scheme: The types that the tensors are stored in.
            num_threads: 0 = default.
            progress: Called with what is being done, and how many bytes are done of how many.
            journal: With `windows`: keeps what is done, if the codes are to be chosen on sample text.
            windows: The sample text.
        """
        # Loads the core, which a dry run does without.
        from gptbigcode_cpu.convert.output.weights_file import WeightsFile

        write_side_files(self.files, directory, self.work.config)
        weights = WeightsFile(self.work, scheme, *self.header(scheme), num_threads, progress)
        if journal is None or windows is None:
            weights.write(directory / SAFETENSORS)
        else:
            weights.write_calibrated(journal, windows)
            journal.weights.rename(directory / SAFETENSORS)
        # Last, because a directory without it is not a model.
        quantization = {
            "quant_method": QUANT_METHOD,
            "format_version": FORMAT_VERSION,
            "dtype": scheme.dtype,
            "overrides": dict(scheme.overrides),
            "calibrated": windows is not None,
        }
        converted = self.work.config.to_dict() | {"quantization_config": quantization}
        (directory / CONFIG).write_bytes(json_bytes(converted))
