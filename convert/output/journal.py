"""The progress of a calibration, on disk beside the output: the same conversion resumes from it after the process was
killed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gptbigcode_cpu.common import files
from gptbigcode_cpu.errors import InputError

_STATE, _WEIGHTS = "state.json", "weights"


@dataclass(frozen=True)
class ResumePoint:
    """A point that a conversion can go on from.

    Attributes:
        layer: The first block that is not written.
        position: Bytes of the weights file in front of its matrices.
        hidden: The residual stream in front of it, float32 ``[tokens, n_embd]``.
    """

    layer: int
    position: int
    hidden: NDArray[np.float32]


class Journal:
    """A directory ``.OUT.calibration``, locked as long as this object is open."""

    def __init__(self, out: Path, fingerprint: str) -> None:
        """
        Args:
            out: Where the model will be.
            fingerprint: A digest of sources and options. A journal with another digest is emptied.

        Raises:
            InputError: Another process is converting to `out`.
        """
        self._directory = directory(out)
        self._directory.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = files.Lock(self._directory, wait=False)
        except BlockingIOError as error:
            raise InputError(f"another process is converting to {out}") from error
        self._fingerprint = fingerprint
        self.resume_point = self._read()
        if self.resume_point is None:
            for path in self._directory.iterdir():
                path.unlink()

    @property
    def weights(self) -> Path:
        """The weights file while it grows."""
        return self._directory / _WEIGHTS

    def save(self, layer: int, file: BinaryIO, hidden: NDArray[np.float32]) -> None:
        """All before this block is in the file, its matrices come next."""
        file.flush()
        os.fsync(file.fileno())
        stream = self._directory / f"hidden-{layer}.npy"
        np.save(stream, hidden)
        files.flush(stream)
        state = {"fingerprint": self._fingerprint, "layer": layer, "position": file.tell()}
        files.write_file(self._directory / _STATE, json.dumps(state))
        for path in self._directory.glob("hidden-*.npy"):
            if path != stream:
                path.unlink()

    def close(self) -> None:
        """Release the lock. A journal that a conversion can resume from stays on disk."""
        if read_state(self._directory) is None:
            shutil.rmtree(self._directory, ignore_errors=True)
        self._lock.release()

    def _read(self) -> ResumePoint | None:
        state = read_state(self._directory)
        if state is None or state["fingerprint"] != self._fingerprint:
            return None
        try:
            if self.weights.stat().st_size < state["position"]:
                return None
            return ResumePoint(state["layer"], state["position"], np.load(self._directory / f"hidden-{state['layer']}.npy"))
        except (OSError, ValueError):
            return None


@contextmanager
def opened(out: Path, fingerprint: str) -> Iterator[Journal]:
    """A journal for the length of a ``with`` block."""
    journal = Journal(out, fingerprint)
    try:
        yield journal
    finally:
        journal.close()


def discard(out: Path) -> None:
    """Remove the journal of a model that is complete, unless a process uses it."""
    files.remove_unused(directory(out))


def directory(out: Path) -> Path:
    """Where the journal of a conversion is."""
    return out.parent / f".{out.name}.calibration"


def read_state(path: Path) -> dict[str, Any] | None:
    """``fingerprint``, ``layer`` and ``position`` of a journal, or None where there is none that can be used."""
    try:
        state = json.loads((path / _STATE).read_bytes())
        return {"fingerprint": str(state["fingerprint"]), "layer": int(state["layer"]), "position": int(state["position"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None
