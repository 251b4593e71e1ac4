"""Where files come from: the arguments of every `from_pretrained` that say so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from gptbigcode_cpu.errors import InputError

# Arguments of transformers about downloads that change no file, with the values for which that is so; None: any value.
_NEUTRAL: dict[str, tuple[Any, ...] | None] = {
    "resume_download": None,  # an interrupted download always goes on
    "code_revision": None,  # no code is downloaded
    "proxies": (None, {}),
    "mirror": (None,),
    "variant": (None,),
}
_INSTEAD = {
    "proxies": "; the environment variables HTTP_PROXY and HTTPS_PROXY name proxies",
    "mirror": "; the environment variable HF_ENDPOINT names another server",
    "variant": "; give the directory of a checkpoint whose files have their usual names",
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where on the Hub, or in a directory, the files of a model are.

    Attributes:
        revision: Branch, tag or commit on the Hub.
        token: Access token for the Hub; True: the stored one.
        cache_dir: Where downloads are kept.
        local_files_only: Do not use the network.
        force_download: Download again what is there already.
        subfolder: The directory of the files inside the repository or the directory.
        gguf_file: The GGUF file, inside the repository or the directory, that holds the model.
    """

    revision: str | None = None
    token: str | bool | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    force_download: bool = False
    subfolder: str = ""
    gguf_file: str | None = None

    @classmethod
    def taken_from(cls, options: Mapping[str, Any]) -> tuple[Self, dict[str, Any]]:
        """The arguments among `options`, also by their older names, and the rest.

        Raises:
            InputError: A value is not supported, or two names of one argument say different things.
        """
        remaining = dict(options)
        given = {name: remaining.pop(name) for name in SOURCE_NAMES if name in remaining}
        older = remaining.pop("use_auth_token", None)
        if older is not None and given.get("token") not in (None, older):
            raise InputError("token and its older name use_auth_token say different things; pass token")
        given["token"] = older if older is not None else given.get("token")
        for name in [name for name in _NEUTRAL if name in remaining]:
            value, neutral = remaining.pop(name), _NEUTRAL[name]
            if neutral is not None and value not in neutral:
                raise InputError(f"{name}={value!r} is not supported{_INSTEAD[name]}")
        return cls(**{name: value for name, value in given.items() if value is not None}), remaining


SOURCE_NAMES = tuple(field.name for field in fields(Source))
"""The names of the arguments."""
SHARED_NAMES = (*SOURCE_NAMES, "use_auth_token", *_NEUTRAL)
"""Also by their older names, and what changes nothing."""
