"""The weights file of a conversion: one tensor after the other, packed piece by piece."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.common.progress import Progress
from gptbigcode_cpu.convert.output.journal import Journal
from gptbigcode_cpu.convert.output.write import pad_to_alignment
from gptbigcode_cpu.convert.quantize.calibrate import Calibration
from gptbigcode_cpu.convert.quantize.packing import column_scales, packed_chunks
from gptbigcode_cpu.convert.sources.tensors import SourceTensor
from gptbigcode_cpu.convert.spec import Plan
from gptbigcode_cpu.store.tensors import QUANTISED, Scheme, StoredTensor, column_scale_name


class WeightsFile:
    """Writes the tensors of a plan."""

    def __init__(
        self, work: Plan, scheme: Scheme, header: bytes, file_bytes: int, num_threads: int, progress: Progress | None
    ) -> None:
        """
        Args:
            work: The tensors.
            scheme: The types that they are stored in.
            header: The start of the file.
            file_bytes: Its size.
            num_threads: Threads that quantise; 0 = default.
            progress: Called with what is being done, and how many bytes are done of how many.
        """
        self._work, self._scheme, self._header = work, scheme, header
        self._file_bytes, self._num_threads, self._progress = file_bytes, num_threads, progress
        # Of the matrices that are calibrated: bytes that are done, and of all. They take nearly all of the time then.
        self._calibrated: tuple[int, int] | None = None
        self._scales = column_scales(work.config, {spec.name: source for spec, source in work.tensors})
        self._scales |= {column_scale_name(name): scale for name, scale in self._scales.items()}

    def write(self, path: Path) -> None:
        """Write all of it."""
        with path.open("wb") as file:
            file.write(self._header)
            for stored, source in self._work.stored(self._scheme):
                deque(self._write(file, stored, source), maxlen=0)
            self._finish(file)

    def write_calibrated(self, journal: Journal, windows: NDArray[np.int32]) -> None:
        """Write the file of a journal, calibrated on `windows` of sample text; where it was interrupted, go on."""
        config = self._work.config
        sources = {spec.name: source for spec, source in self._work.tensors}
        done = journal.resume_point
        calibration = Calibration(config, sources, windows, self._num_threads, None if done is None else done.hidden)
        first = "" if done is None else f"transformer.h.{done.layer}.attn.c_attn.query.weight"
        matrices = [stored for stored, _ in self._work.stored(self._scheme) if calibration.covers(stored)]
        finished, in_all = 0, sum(stored.nbytes for stored in matrices)
        with journal.weights.open("r+b" if done else "wb") as file:
            if done is None:
                file.write(self._header)
            else:
                file.truncate(done.position)
                file.seek(done.position)
            for stored, source in self._work.stored(self._scheme):
                if first and stored.name != first:
                    finished += stored.nbytes if calibration.covers(stored) else 0
                    continue
                self._calibrated = finished, in_all
                self._report(stored, file)
                if not calibration.covers(stored):
                    deque(self._write(file, stored, source), maxlen=0)
                    continue
                feedback = calibration.feedback(stored)
                if calibration.layer > 0 and stored.name.endswith(".c_attn.query.weight") and not first:
                    journal.save(calibration.layer, file, calibration.hidden)
                first = ""
                calibration.packed(stored, np.concatenate(list(self._write(file, stored, source, feedback))))
                finished += stored.nbytes
            self._finish(file)

    def _write(
        self, file: BinaryIO, stored: StoredTensor, source: SourceTensor, feedback: NDArray[np.float32] | None = None
    ) -> Iterator[NDArray[Any]]:
        """Write a tensor, and hand out its pieces."""
        pad_to_alignment(file)
        if stored.rows is None:
            file.write(self._scales[stored.name].data)
            return
        scale = self._scales.get(stored.name) if stored.dtype in QUANTISED else None
        for chunk in packed_chunks(self._work.config, stored, source, self._num_threads, scale, feedback):
            self._report(stored, file)
            file.write(chunk.data)
            yield chunk

    def _report(self, stored: StoredTensor, file: BinaryIO) -> None:
        if self._progress is None:
            return
        verb = "writing" if self._scheme.dtype not in QUANTISED else "quantising" if self._calibrated is None else "calibrating"
        if found := re.match(r"transformer\.h\.(\d+)\.", stored.name):
            what = f"{verb} block {int(found[1]) + 1} of {self._work.config.n_layer}"
        else:
            what = f"writing {stored.name.removeprefix('transformer.').removesuffix('.weight')}"
        self._progress(what, *(self._calibrated or (file.tell(), self._file_bytes)))

    def _finish(self, file: BinaryIO) -> None:
        if self._progress is not None:
            _, in_all = self._calibrated or (0, self._file_bytes)
            self._progress("", in_all, in_all)
        if file.tell() != self._file_bytes:
            raise AssertionError(f"{file.name} has {file.tell()} bytes, planned were {self._file_bytes}")
