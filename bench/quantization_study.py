"""What ways to store weights in few bits lose: the study behind docs/quantization-study.md.

Weights are replaced by what a format makes of them, the rest of the model stays float32, and the next-token distributions are
compared with those of the original: mean KL divergence in nats over the second halves of windows of 512. Formats of this
package are the core's own; the others are simulated with numpy. Bits count scales and offsets, not the float per row.

    python bench/quantization_study.py tests/data/python-8m tests/data/python_stdlib_held_out.jsonl
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from gptbigcode_cpu import AutoTokenizer, _core
from gptbigcode_cpu.common.corpus import read_texts
from gptbigcode_cpu.common.softmax import divergence, log_softmax
from gptbigcode_cpu.config import read_config
from gptbigcode_cpu.convert import convert
from gptbigcode_cpu.convert.checkpoint import Checkpoint
from gptbigcode_cpu.convert.output.tokenizer_files import side_files
from gptbigcode_cpu.convert.quantize.calibrate import Calibration, error_feedback
from gptbigcode_cpu.convert.quantize.packing import column_scales, packed_chunks, stored_rows
from gptbigcode_cpu.convert.quantize.sample_text import sample_texts, sample_windows
from gptbigcode_cpu.convert.sources.read import read_checkpoint
from gptbigcode_cpu.convert.spec import plan
from gptbigcode_cpu.fim.trim import encoded
from gptbigcode_cpu.store.tensors import EMBEDDING, POSITIONS, Role, Scheme
from gptbigcode_cpu.store.weights import load_core, open_packed

Floats = NDArray[np.float32]
Weights = dict[str, Floats]
Quantise = Callable[[str, Floats], Floats]  # name and values of a matrix -> the values that are stored

CODEBOOK = np.array([-15, -13, -10, -8, -6, -4, -3, -1, 0, 1, 3, 5, 7, 9, 11, 14], np.float32)  # int4's, docs/format.md
OFFSETS = (-1, 0, 1, 2)


def uniform(bits: int) -> Floats:
    """Equal steps."""
    return np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1), dtype=np.float32)


STEPS = uniform(4)


def simulated(
    levels: Floats,
    group: int,
    *,
    coded: int | None = None,
    signs: bool = False,
    offsets: Sequence[int] = (0,),
    factors: Sequence[float] = (0.7, 0.8, 0.9, 1.0),
    importance: str = "magnitude",
    moments: Mapping[str, Floats] | None = None,
) -> Quantise:
    """A format in groups of columns: weight = scale * (level + offset).

    Args:
        levels: What codes stand for, ascending.
        group: Columns that share a scale.
        coded: Scales are this many steps of a float of the row; None = a float each.
        signs: Scales may be negative.
        offsets: That a group chooses from.
        factors: Where the largest weight may lie, relative to the largest level; 1 alone is no search.
        importance: What an error at x counts: ``plain`` 1, ``magnitude`` x^2 + mean(x^2), ``activation`` the mean square of
            the inputs.
        moments: Name of a matrix -> mean square of its inputs.
    """
    middles = (levels[1:] + levels[:-1]) / 2

    def quantise(name: str, weight: Floats) -> Floats:
        n, k = weight.shape
        padded = np.zeros((n, -(-k // group) * group), np.float32)
        padded[:, :k] = weight
        x = padded.reshape(n, -1, group)
        if importance == "magnitude":
            counts = x * x + (x * x).mean(axis=2, keepdims=True)
        elif importance == "activation":
            assert moments is not None
            column = np.zeros(padded.shape[1], np.float32)
            column[:k] = moments[name]
            counts = np.broadcast_to(column.reshape(1, -1, group), x.shape)
        else:
            counts = np.ones_like(x)
        extreme = np.take_along_axis(x, np.abs(x).argmax(axis=2)[..., None], axis=2)

        def coded_with(scale: Floats, offset: int) -> Floats:
            units = np.divide(x, scale, out=np.zeros_like(x), where=scale != 0) - offset
            return levels[np.searchsorted(middles, units)] + offset

        best, least = np.zeros_like(extreme), np.full(extreme.shape, np.inf, np.float32)
        for end in (levels[0], levels[-1]):
            for factor in factors:
                for offset in offsets:
                    scale = extreme / (end * factor)
                    values = coded_with(scale, offset)
                    if len(factors) > 1:  # refitted by least squares
                        weighed = (counts * values * values).sum(axis=2, keepdims=True)
                        scale = (counts * values * x).sum(axis=2, keepdims=True) / np.maximum(weighed, 1e-30)
                    if not signs:
                        scale = np.abs(scale)
                    error = (counts * (scale * coded_with(scale, offset) - x) ** 2).sum(axis=2, keepdims=True)
                    best, least = np.where(error < least, scale, best), np.minimum(error, least)
        if coded is not None:
            row = np.abs(best).max(axis=1, keepdims=True) / coded
            best = np.round(best / np.maximum(row, 1e-30)) * row
        out, least = np.zeros_like(x), np.full(extreme.shape, np.inf, np.float32)
        for offset in offsets:
            values = best * coded_with(best, offset)
            error = (counts * (values - x) ** 2).sum(axis=2, keepdims=True)
            out, least = np.where(error < least, values, out), np.minimum(error, least)
        return np.ascontiguousarray(out.reshape(n, -1)[:, :k])

    return quantise


def like_int4(levels: Floats, group: int, **options: Any) -> Quantise:
    """The scales and offsets of int4 with any levels, in groups of any size."""
    return simulated(levels, group, coded=31, signs=True, offsets=OFFSETS, **options)


def stored(dtype: str) -> Quantise:
    """A format of this package."""
    return lambda _name, weight: _core.unpack_weight(_core.pack_weight(weight, dtype), dtype, *weight.shape)


def fitted(weights: Weights, group: int, largest: int) -> Floats:
    """Sixteen levels fitted to groups of these matrices by Lloyd's algorithm, rounded to integers up to `largest`."""
    x = np.concatenate([weight[:, : weight.shape[1] // group * group].reshape(-1, group) for weight in weights.values()])
    x = x[:: max(1, len(x) // 20000)]
    units = (x / np.take_along_axis(x, np.abs(x).argmax(axis=1)[:, None], axis=1)).reshape(-1)  # the largest is 1
    levels = np.quantile(units, (np.arange(16) + 0.5) / 16)
    for _ in range(60):
        nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, units)
        sums, counts = np.bincount(nearest, units, 16), np.bincount(nearest, minlength=16)
        levels = np.where(counts > 0, sums / np.maximum(counts, 1), levels)
    return np.unique(np.round(levels * largest / np.abs(levels).max())).astype(np.float32)


def scaled(inner: Quantise, moments: Mapping[str, Floats], outputs: Mapping[str, Floats], fold: Sequence[str]) -> Quantise:
    """AWQ (arXiv:2306.00978): columns times a power of their inputs' size, which the LayerNorm before divides by; of
    some powers the one that changes the layer's outputs least."""

    def quantise(name: str, weight: Floats) -> Floats:
        if not name.endswith(tuple(fold)):
            return inner(name, weight)
        size, x = np.sqrt(moments[name]) + 1e-6, outputs[name]
        tries = []
        for power in (0.0, 0.15, 0.3, 0.5):
            scale = size**power / np.sqrt((size**power).max() * (size**power).min())
            found = inner(name, weight * scale) / scale
            tries.append((float(np.square(x @ (found - weight).T).sum()), found))
        best: Floats = min(tries, key=lambda pair: pair[0])[1]
        return best

    return quantise


class Study:
    """A model, held-out text, and the inputs of its layers on sample text."""

    def __init__(self, checkpoint: Path, texts: Sequence[Path], n_windows: int) -> None:
        config = read_config(checkpoint)
        self.work = plan(config, read_checkpoint(checkpoint, config))
        self._checkpoint = Checkpoint(checkpoint, self.work, side_files(checkpoint)[0])
        self.weights: Weights = {
            spec.name: stored_rows(config, source, np.arange(source.shape[0])) for spec, source in self.work.tensors
        }
        self.linear = [spec.name for spec, _ in self.work.tensors if spec.role is Role.LINEAR]
        self.column_scale = column_scales(config, {spec.name: source for spec, source in self.work.tensors})[EMBEDDING]
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        tokens = [token for text in read_texts(texts) for token in (tokenizer.eos_token_id, *encoded(tokenizer, text)[0])]
        windows = np.array(tokens[: len(tokens) // 512 * 512], np.int32).reshape(-1, 512)
        self._windows = windows[:: max(1, len(windows) // n_windows)][:n_windows]
        self.inputs = dict(self._layer_inputs(sample_windows(config, tokenizer, sample_texts("builtin"), 8192)))
        self._expected = list(self.log_probabilities(self.weights))

    def log_probabilities(self, weights: Weights) -> Iterator[NDArray[np.float64]]:
        """Of the second halves of the windows."""
        with tempfile.TemporaryDirectory() as name:
            source, out = Path(name, "source"), Path(name, "out")
            source.mkdir()
            for file in self._checkpoint.path.iterdir():
                if file.suffix == ".json":
                    shutil.copy(file, source)
            save_file(weights, source / "model.safetensors")
            convert(source, out, dtype="float32")
            core = load_core(open_packed(out))
            for window in self._windows:
                yield log_softmax(core.forward([_core.KVCache(core)], [window], [len(window) // 2]), np.float64)

    def loss(self, weights: Mapping[str, Floats]) -> float:
        """KL divergence with some weights replaced."""
        found = self.log_probabilities({**self.weights, **weights})
        return float(np.mean([divergence(theirs, ours).mean() for theirs, ours in zip(self._expected, found, strict=True)]))

    def linear_loss(self, quantise: Quantise) -> float:
        """With the linear layers in a format, but for what int4 models have in int6 anyway: rows of keys and values, and the
        first ``attn.c_proj``, which would hide the rest."""
        width, changed = self.work.config.n_embd, {}
        for name in self.linear:
            if "h.0.attn.c_proj" not in name:
                weight = self.weights[name]
                end = width if "c_attn" in name else len(weight)
                changed[name] = np.concatenate([quantise(name, np.ascontiguousarray(weight[:end])), weight[end:]])
        return self.loss(changed)

    def moments(self) -> dict[str, Floats]:
        """Mean square of every column of the inputs of every linear layer on sample text."""
        return {name: np.square(x).mean(axis=0) for name, x in self.inputs.items()}

    def prefiltered(self, weights: Weights, kept: int) -> float:
        """How often the likeliest token is among the `kept` likeliest by other weights."""
        hits = [
            (np.argpartition(-ours, kept, axis=1)[:, :kept] == theirs.argmax(axis=1)[:, None]).any(axis=1).mean()
            for theirs, ours in zip(self._expected, self.log_probabilities({**self.weights, **weights}), strict=True)
        ]
        return float(np.mean(hits))

    def _layer_inputs(self, windows: NDArray[np.int32]) -> Iterator[tuple[str, Floats]]:
        config = self.work.config
        calibration = Calibration(config, {spec.name: source for spec, source in self.work.tensors}, windows, 0)
        for each, source in self.work.stored(Scheme("float32")):
            if calibration.covers(each):
                calibration.feedback(each)
                yield each.name.replace(".query.", ".").replace(".key_value.", "."), calibration.inputs
                tiles = np.concatenate(list(packed_chunks(config, each, source, 0)))
                calibration.packed(each, tiles)


Report = Callable[[str, str, float], None]  # format, bits per weight, loss


def codes(study: Study, report: Report) -> None:
    """Kinds of codes and sizes of groups, all linear layers."""
    for group in (16, 32, 64, 128):
        report(
            f"16 equal steps, float16 scale per {group}", f"{4 + 16 / group:.3f}", study.linear_loss(simulated(STEPS, group))
        )
    for group in (16, 32, 64, 128):
        loss = study.linear_loss(like_int4(CODEBOOK, group))
        report(f"int4's codes: 5-bit multiplier, sign and offset per {group}", f"{4 + 8 / group:.3f}", loss)
    report("int4 as it is stored (per 128, better search)", "4.062", study.linear_loss(stored("int4")))
    report("int6 as it is stored (per 32)", "6.250", study.linear_loss(stored("int6")))


def parts_of_int4(study: Study, report: Report) -> None:
    """What each property of int4's codes does, all linear layers, groups of 32."""
    moments = study.moments()
    report("all of it", "4.250", study.linear_loss(like_int4(CODEBOOK, 32)))
    report("float32 scales", "5.000", study.linear_loss(simulated(CODEBOOK, 32, signs=True, offsets=OFFSETS)))
    report("no offset", "4.250", study.linear_loss(simulated(CODEBOOK, 32, coded=31, signs=True)))
    report("no sign", "4.250", study.linear_loss(simulated(CODEBOOK, 32, coded=31, offsets=OFFSETS)))
    report("no search: the largest weight on an end", "4.250", study.linear_loss(like_int4(CODEBOOK, 32, factors=(1.0,))))
    report("all errors count alike", "4.250", study.linear_loss(like_int4(CODEBOOK, 32, importance="plain")))
    by_inputs = like_int4(CODEBOOK, 32, importance="activation", moments=moments)
    report("errors count as the inputs' mean square", "4.250", study.linear_loss(by_inputs))
    report("equal steps", "4.250", study.linear_loss(like_int4(STEPS, 32)))
    every = {name: study.weights[name] for name in study.linear}
    for largest, bits in ((15, 5), (63, 7), (127, 8)):
        levels = fitted(every, 32, largest)
        report(f"codebook fitted to this model, entries of {bits} bits", "4.250", study.linear_loss(like_int4(levels, 32)))
    own = {}
    for kind in (kinds := ("c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")):
        own[kind] = like_int4(fitted({name: matrix for name, matrix in every.items() if kind in name}, 32, 127), 32)
    loss = study.linear_loss(lambda name, weight: next(own[kind] for kind in kinds if kind in name)(name, weight))
    report("a codebook fitted to each kind of matrix, 8 bits", "4.250", loss)


def sample_text(study: Study, report: Report) -> None:
    """What sample text is good for, linear layers as int4 stores them."""
    int4 = stored("int4")
    report("none", "4.062", study.linear_loss(int4))
    awq = scaled(int4, study.moments(), study.inputs, ("attn.c_attn.weight", "mlp.c_fc.weight"))
    report("AWQ: columns of c_attn and c_fc scaled, folded into LayerNorm", "4.062", study.linear_loss(awq))

    def fed_back(name: str, weight: Floats) -> Floats:
        packed = _core.pack_weight(weight, "int4", feedback=error_feedback(study.inputs[name]))
        return _core.unpack_weight(packed, "int4", *weight.shape)

    report("errors fed back (GPTQ), inputs of the float32 model", "4.062", study.linear_loss(fed_back))


def matrices(study: Study, report: Report) -> None:
    """One kind of matrix in int4, the rest exact."""
    int4 = stored("int4")
    for part in ("mlp.c_proj", "mlp.c_fc", "attn.c_proj", "h.0.attn.c_proj", "attn.c_attn"):
        names = [name for name in study.linear if part in name]
        report(part, "4.062", study.loss({name: int4(name, study.weights[name]) for name in names}))
    width = study.work.config.n_embd
    for label, chosen in (("query rows", slice(0, width)), ("rows of keys and values", slice(width, None))):
        changed = {name: study.weights[name].copy() for name in study.linear if "c_attn" in name}
        for name, values in changed.items():
            values[chosen] = int4(name, np.ascontiguousarray(values[chosen]))
        report(f"attn.c_attn, its {label}", "4.062", study.loss(changed))


def embedding(study: Study, report: Report) -> None:
    """The token embedding, which is the head too; over a scale per column unless something else is said."""
    plain, scale = study.weights[EMBEDDING], study.column_scale

    def loss(values: Floats) -> float:
        return study.loss({EMBEDDING: values * scale})

    eight, four = stored("int8")("", plain / scale), stored("int4")("", plain / scale)
    report("int8", "8.125", loss(eight))
    report("int8, no column scales", "8.125", study.loss({EMBEDDING: stored("int8")("", plain)}))
    report("int6", "6.250", loss(stored("int6")("", plain / scale)))
    report("int6, no column scales", "6.250", study.loss({EMBEDDING: stored("int6")("", plain)}))
    report("32 equal steps, float16 scale per 32", "5.500", loss(simulated(uniform(5), 32)("", plain / scale)))
    frequent = len(plain) // 4
    mixed = np.concatenate([eight[:frequent], four[frequent:]])
    report("the first quarter of the tokens in int8, the others in int4", "5.078", loss(mixed))
    report("int4", "4.062", loss(four))
    for kept in (8, 64):
        hits = study.prefiltered({EMBEDDING: four * scale}, kept)
        report(f"int8 for the {kept} likeliest by int4: the likeliest is not among them in a share of", "", 1 - hits)


def positions(study: Study, report: Report) -> None:
    """The position table."""
    for dtype, bits in (("int8", "8.125"), ("int6", "6.250"), ("int4", "4.062")):
        report(dtype, bits, study.loss({POSITIONS: stored(dtype)("", study.weights[POSITIONS])}))


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="a small one: every row is a conversion to float32 and a run")
    parser.add_argument("text", type=Path, nargs="+", help=".jsonl with a text field, or plain text")
    parser.add_argument("--windows", type=int, default=40, help="of 512 tokens, spread over the text; half of each is scored")
    arguments = parser.parse_args()
    study = Study(arguments.checkpoint, arguments.text, arguments.windows)
    for table in (codes, parts_of_int4, sample_text, matrices, embedding, positions):
        print(f"\n{table.__doc__}\n\n| | bits | KL divergence |\n|---|---|---|")
        table(study, lambda label, bits, loss: print(f"| {label} | {bits} | {loss:.5f} |", flush=True))


if __name__ == "__main__":
    main()
