"""How GPTQ or AWQ quantised a checkpoint, read from its files. Tools have different names for the same setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptbigcode_cpu.common.json_files import read_object
from gptbigcode_cpu.errors import ConfigError
from gptbigcode_cpu.hub.checkpoint_files import AWQ_CONFIG, GPTQ_CONFIG

_GPTQ_BITS = (2, 3, 4, 8)
_GPTQ_FORMATS = {"gptq": 1, "gptq_v2": 0}
# What is looked for -> the names that tools have for it.
_NAMES = {
    "quant_method": ("quant_method",),
    "bits": ("bits", "w_bit", "wbits"),
    "group_size": ("group_size", "q_group_size", "groupsize"),
    "format": ("checkpoint_format", "format", "version", "is_marlin_format"),
    "desc_act": ("desc_act",),
    "zero_point": ("zero_point",),
    "dynamic": ("dynamic",),
}
# What the files that old tools wrote leave out, because there was one tool for each.
_METHODS = {GPTQ_CONFIG: "gptq", AWQ_CONFIG: "awq"}

Settings = tuple[str, Mapping[str, Any]]
"""The name of the file or key, for messages, and its content."""


@dataclass(frozen=True)
class Method:
    """How a checkpoint was quantised.

    Attributes:
        awq: AWQ and not GPTQ.
        bits: Of a code.
        group_size: Inputs of a group; -1 = all.
        zero_offset: Is added to a stored zero.
        needs_g_idx: Groups are not of neighbouring inputs.
    """

    awq: bool
    bits: int
    group_size: int
    zero_offset: int
    needs_g_idx: bool


def read_method(directory: Path, quantization_config: Mapping[str, Any] | None) -> Method:
    """How the checkpoint in a directory was quantised.

    Args:
        directory: The checkpoint, for ``quantize_config.json`` of AutoGPTQ and ``quant_config.json`` of AutoAWQ.
        quantization_config: That of its ``config.json``.

    Raises:
        ConfigError: Nothing says how, two places contradict each other, a file is malformed, or it is a way that is not
            supported.
    """
    given: list[Settings] = []
    if quantization_config is not None:
        given.append(("quantization_config in config.json", quantization_config))
    beside = ((name, read_object(directory / name, ConfigError)) for name in _METHODS)
    given += [(name, content) for name, content in beside if content is not None]
    if not given:
        raise ConfigError(
            f"{directory} holds quantised layers, but its config.json has no quantization_config; put the content of "
            'quantize_config.json there, with "quant_method": "gptq" or "awq", or that file beside it'
        )
    return method_of(given)


def method_of(given: Sequence[Settings]) -> Method:
    """The method that all of `given` say.

    Raises:
        ConfigError: They contradict each other, or it is not supported.
    """
    name = _agreed("quant_method", given, False)
    if name is None:
        name = next((method for file, method in _METHODS.items() if file in dict(given)), None)
    found = {what: _agreed(what, given, name == "awq") for what in _NAMES}
    if name not in ("gptq", "awq"):
        raise ConfigError(
            f"the checkpoint is quantised with {name!r:.40}; supported are 'gptq' and 'awq', "
            "anything else is converted from the unquantised checkpoint"
        )
    bits, group_size = found["bits"], 128 if found["group_size"] is None else found["group_size"]
    if type(group_size) is not int or not (group_size == -1 or group_size > 0):
        raise ConfigError(f"quantization_config: group_size must be -1 or positive, not {group_size!r:.40}")
    if name == "awq":
        version = found["format"] or "gemm"
        if version != "gemm":
            raise ConfigError(f"the checkpoint is in AWQ's version {version!r:.40}, which packs otherwise; supported is 'gemm'")
        if bits not in (4, None) or found["zero_point"] not in (True, None):
            raise ConfigError(f"AWQ is supported with 4 bits and zero points, not with bits {bits!r:.40}")
        return Method(True, 4, group_size, 0, False)
    layout = found["format"] or "gptq"
    if not isinstance(layout, str) or layout not in _GPTQ_FORMATS:
        raise ConfigError(f"the checkpoint is in GPTQ's format {layout!r:.40}; supported are {', '.join(_GPTQ_FORMATS)}")
    if type(bits) is not int or bits not in _GPTQ_BITS:
        raise ConfigError(f"GPTQ is supported with {', '.join(map(str, _GPTQ_BITS))} bits, not with {bits!r:.40}")
    dynamic = found["dynamic"] or {}
    if not isinstance(dynamic, Mapping) or any(not str(pattern).startswith("-:") for pattern in dynamic):
        raise ConfigError("quantization_config: dynamic gives layers settings of their own, which is not supported")
    return Method(False, bits, group_size, _GPTQ_FORMATS[layout], found["desc_act"] is True)


def _agreed(what: str, given: Sequence[Settings], awq: bool) -> Any:
    """The one value that is given under any name in any place, or None."""
    found: list[tuple[str, Any]] = []
    for origin, settings in given:
        for name in _NAMES[what]:
            value = settings.get(name)
            if name == "is_marlin_format":
                value = "marlin" if value else None
            elif what in ("format", "quant_method") and isinstance(value, str):
                value = value.lower()
            elif isinstance(value, float) and value.is_integer():
                value = int(value)
            # GPTQ's tools have a version of their own there. AWQ's checkpoint_format "gptq" is a default that nobody set.
            if value is None or (name == "version" and not awq) or (awq and (name, value) == ("checkpoint_format", "gptq")):
                continue
            found.append((f"{origin} says {name} {value!r:.40}", value))
    for said, value in found[1:]:
        if value != found[0][1] or type(value) is not type(found[0][1]):
            raise ConfigError(f"{found[0][0]}, but {said}; correct the one that is wrong")
    return found[0][1] if found else None
