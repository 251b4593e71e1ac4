"""The tokenizer of a checkpoint, called the way transformers' tokenizers are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .arrays import to_int_array, to_torch
from .errors import InputError, TokenizerError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Side = Literal["left", "right"]
ReturnTensors = Literal["np", "pt"]
SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")
UNLIMITED = 10**30  # what transformers reports as model_max_length when nothing bounds it


class BatchEncoding(dict[str, Any]):
    """What calling a tokenizer returns: a dict whose values are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def to(self, device: object) -> BatchEncoding:
        """This object itself: everything is on the CPU already, which is the only device."""
        if str(device) != "cpu":
            raise InputError(f"the only device is 'cpu', not {str(device)!r}")
        return self


class GPTBigCodeTokenizer:
    """A byte-level BPE tokenizer read from ``tokenizer.json``, with the special tokens of ``tokenizer_config.json``.

    Attributes:
        padding_side: Where `padding` puts the pad tokens.
        truncation_side: Which end `truncation` removes.
        model_max_length: The longest sequence the model was made for.
    """

    def __init__(self, backend: Tokenizer, settings: dict[str, Any] | None = None) -> None:
        """
        Args:
            backend: The tokenizer of the `tokenizers` library; named special tokens that it lacks are added to it.
            settings: The content of a ``tokenizer_config.json``.

        Raises:
            TokenizerError: A setting has a wrong type or value.
        """
        self.backend = backend
        self.settings = dict(settings or {})
        self.padding_side: Side = _side(self.settings, "padding_side")
        self.truncation_side: Side = _side(self.settings, "truncation_side")
        limit = self.settings.get("model_max_length")
        self.model_max_length: int = UNLIMITED if limit is None else int(limit)
        self._special = {name: _token_text(self.settings.get(name), name) for name in SPECIAL_NAMES}
        extra = self.settings.get("additional_special_tokens") or self.settings.get("extra_special_tokens") or []
        named = [*self._special.values(), *(_token_text(token, "additional_special_tokens") for token in extra)]
        self.backend.no_padding()
        self.backend.no_truncation()
        self.backend.add_special_tokens(list(dict.fromkeys(token for token in named if token)))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> GPTBigCodeTokenizer:
        """Load the tokenizer of a directory, a GGUF file, a Hub id or ``"demo"``.

        Raises:
            ModelNotFoundError: The name leads nowhere.
            TokenizerError: ``tokenizer.json`` is missing or damaged, or the tokenizer in a GGUF file is or is not supported.
            CheckpointError: A GGUF file is damaged.
        """
        from tokenizers import Tokenizer

        from . import hub

        directory = hub.resolve(
            pretrained_model_name_or_path,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            weights=False,
        )
        if hub.is_gguf(directory):
            return cls._from_gguf(directory)
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise TokenizerError(f"{directory} has no tokenizer.json; save the tokenizer there with save_pretrained")
        try:
            backend = Tokenizer.from_file(str(path))
        except Exception as error:  # the tokenizers library raises bare Exception
            raise TokenizerError(f"{path} is damaged: {error}") from error
        # Older checkpoints keep the special tokens in a file of their own; tokenizer_config.json wins.
        settings = _read_json(directory / "special_tokens_map.json") | _read_json(directory / "tokenizer_config.json")
        return cls(backend, settings)

    @classmethod
    def _from_gguf(cls, path: Path) -> GPTBigCodeTokenizer:
        from tokenizers import Tokenizer

        from .convert import gguf_files, gguf_tokenizer

        files, _ = gguf_tokenizer.tokenizer_files(gguf_files.open_gguf(path))
        if not files:
            raise TokenizerError(f"{path} holds no tokenizer; load that of the original checkpoint")
        backend = Tokenizer.from_str(files["tokenizer.json"].decode())
        return cls(backend, json.loads(files["tokenizer_config.json"]))

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write ``tokenizer.json`` and ``tokenizer_config.json``."""
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.backend.save(str(directory / "tokenizer.json"))
        settings = self.settings | {name: token for name, token in self._special.items() if token is not None}
        settings |= {"padding_side": self.padding_side, "truncation_side": self.truncation_side}
        settings["model_max_length"] = self.model_max_length
        text = json.dumps(settings, indent=2, ensure_ascii=False)
        (directory / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        padding: bool | Literal["longest", "max_length"] = False,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: ReturnTensors | None = None,
        add_special_tokens: bool = True,
        padding_side: Side | None = None,
    ) -> BatchEncoding:
        """Encode one text or several.

        Args:
            text: A string or a list of strings.
            padding: True or ``"longest"``: to the longest row; ``"max_length"``: to `max_length`.
            truncation: Cut rows to `max_length`.
            max_length: Bound for `padding` and `truncation`; default `model_max_length`.
            return_tensors: None for lists, ``"np"`` for numpy and ``"pt"`` for torch, int64 ``[batch, tokens]``.
            add_special_tokens: Let the tokenizer add what its post-processor adds (nothing for most checkpoints).
            padding_side: Overrides the attribute of this name for one call.

        Returns:
            ``input_ids`` and ``attention_mask`` (1 = token, 0 = padding).

        Raises:
            InputError: A wrong argument, or rows of different lengths asked for as a tensor.
            TokenizerError: Padding was asked for and there is no pad token.
        """
        texts = [text] if isinstance(text, str) else text
        if not isinstance(texts, (list, tuple)) or not all(isinstance(item, str) for item in texts):
            raise InputError("text must be a string or a list of strings")
        if padding not in (False, True, "longest", "max_length"):
            raise InputError(f"padding must be True, False, 'longest' or 'max_length', not {padding!r}")
        if return_tensors not in (None, "np", "pt"):
            raise InputError(f"return_tensors must be None, 'np' or 'pt', not {return_tensors!r}")
        if max_length is not None and max_length < 1:
            raise InputError(f"max_length must be positive, not {max_length}")
        if max_length is not None and not truncation and padding != "max_length":
            raise InputError("max_length does nothing without truncation=True or padding='max_length'")
        limit = self.model_max_length if max_length is None else max_length
        rows = _encode(self.backend, texts, add_special_tokens)
        if truncation:
            rows = [row[:limit] if self.truncation_side == "right" else row[-limit:] for row in rows]
        mask = [[1] * len(row) for row in rows]
        if padding:
            width = max(map(len, rows), default=0)
            if padding == "max_length":
                if limit == UNLIMITED:
                    raise InputError("padding='max_length' needs max_length: this tokenizer has no bound of its own")
                width = max(width, limit)
            side = _side({"padding_side": padding_side or self.padding_side}, "padding_side")
            rows = [_pad(row, width, self._required_pad_id(), side) for row in rows]
            mask = [_pad(row, width, 0, side) for row in mask]
        if return_tensors is None and isinstance(text, str):
            return BatchEncoding(input_ids=rows[0], attention_mask=mask[0])
        return BatchEncoding(input_ids=_tensor(rows, return_tensors), attention_mask=_tensor(mask, return_tensors))

    def encode(
        self,
        text: str,
        *,
        add_special_tokens: bool = True,
        split_special_tokens: bool = False,
        return_tensors: ReturnTensors | None = None,
    ) -> Any:
        """Token ids of one text: a list, or an int64 tensor ``[1, tokens]``.

        Args:
            text: The text.
            add_special_tokens: As in `__call__`.
            split_special_tokens: Read the names of special tokens inside the text as plain text. Use it for text that
                is data, such as the file around a cursor.
            return_tensors: As in `__call__`.
        """
        if not isinstance(text, str):
            raise InputError(f"text must be a string, not {type(text).__name__}")
        backend = self._plain_backend if split_special_tokens else self.backend
        ids = _encode(backend, [text], add_special_tokens)[0]
        return ids if return_tensors is None else _tensor([ids], return_tensors)

    def decode(self, token_ids: Any, skip_special_tokens: bool = False) -> str:
        """Text of one token id or of a sequence of them (list, numpy array or torch tensor).

        Ids beyond the vocabulary, which padded embedding tables have, decode to nothing.
        """
        ids = _token_ids(token_ids)
        return self.backend.decode(ids if isinstance(ids, list) else [ids], skip_special_tokens=skip_special_tokens)

    def batch_decode(self, sequences: Iterable[Any], skip_special_tokens: bool = False) -> list[str]:
        """`decode` for each sequence."""
        return [self.decode(sequence, skip_special_tokens) for sequence in sequences]

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """Id of a token, or ids of tokens; that of the unknown token (None without one) for what is not in the vocabulary."""
        if isinstance(tokens, str):
            token_id = self.backend.token_to_id(tokens)
            return self._id_of("unk_token") if token_id is None else token_id
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Token of an id, or tokens of ids, in the byte-level alphabet of the vocabulary (a space is ``Ġ``)."""
        checked = _token_ids(ids)
        if isinstance(checked, int):
            return self.backend.id_to_token(checked)
        skipped = set(self.all_special_ids) if skip_special_tokens else set()
        return [self.backend.id_to_token(token_id) for token_id in checked if token_id not in skipped]

    def __len__(self) -> int:
        """Tokens, added ones included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @property
    def vocab_size(self) -> int:
        """Tokens without the added ones."""
        return self.backend.get_vocab_size(with_added_tokens=False)

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of every special token, ascending."""
        return sorted(token_id for token_id, token in self.backend.get_added_tokens_decoder().items() if token.special)

    @property
    def bos_token(self) -> str | None:
        return self._special["bos_token"]

    @property
    def bos_token_id(self) -> int | None:
        return self._id_of("bos_token")

    @property
    def eos_token(self) -> str | None:
        return self._special["eos_token"]

    @property
    def eos_token_id(self) -> int | None:
        return self._id_of("eos_token")

    @property
    def unk_token(self) -> str | None:
        return self._special["unk_token"]

    @property
    def unk_token_id(self) -> int | None:
        return self._id_of("unk_token")

    @property
    def pad_token(self) -> str | None:
        """May be assigned; the usual choice for these models is ``tokenizer.pad_token = tokenizer.eos_token``."""
        return self._special["pad_token"]

    @pad_token.setter
    def pad_token(self, token: str | None) -> None:
        if token is not None and self.backend.token_to_id(token) is None:
            raise TokenizerError(f"{token!r} is not in the vocabulary")
        self._special["pad_token"] = token

    @property
    def pad_token_id(self) -> int | None:
        return self._id_of("pad_token")

    def _id_of(self, name: str) -> int | None:
        token = self._special[name]
        return None if token is None else self.backend.token_to_id(token)

    def _required_pad_id(self) -> int:
        if (pad_id := self.pad_token_id) is None:
            raise TokenizerError("padding needs a pad token: set tokenizer.pad_token = tokenizer.eos_token")
        return pad_id

    @cached_property
    def _plain_backend(self) -> Tokenizer:
        # A second tokenizer, because switching the flag on a shared one would be seen by other threads.
        from tokenizers import Tokenizer

        plain = Tokenizer.from_str(self.backend.to_str())
        plain.encode_special_tokens = True
        return plain


AutoTokenizer = GPTBigCodeTokenizer


def _encode(backend: Tokenizer, texts: Sequence[str], add_special_tokens: bool) -> list[list[int]]:
    try:
        return [encoding.ids for encoding in backend.encode_batch(list(texts), add_special_tokens=add_special_tokens)]
    except TypeError as error:  # of all strings, only those that UTF-8 cannot express
        raise InputError("the text contains a lone surrogate and is not valid Unicode") from error


def _token_ids(values: Any) -> int | list[int]:
    array = to_int_array(values, "token_ids")
    if array.ndim > 1:
        raise InputError(f"token_ids must be one id or one sequence, not of shape {list(array.shape)}; see batch_decode")
    if array.size and not (array.min() >= 0 and array.max() < 2**32):
        raise InputError(f"token ids are in 0..2**32-1, not {array.min()} or {array.max()}")
    ids: int | list[int] = array.tolist()
    return ids


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TokenizerError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise TokenizerError(f"{path} must hold a JSON object")
    return content


def _token_text(token: Any, name: str) -> str | None:
    """A special token is stored as its text or as a serialised AddedToken."""
    if isinstance(token, dict):
        token = token.get("content")
    if token is None or isinstance(token, str):
        return token
    raise TokenizerError(f"{name} must be a string, not {token!r}")


def _side(settings: dict[str, Any], name: str) -> Side:
    match settings.get(name):
        case "left":
            return "left"
        case "right" | None:
            return "right"
        case side:
            raise TokenizerError(f"{name} must be 'left' or 'right', not {side!r}")


def _pad(row: list[int], width: int, value: int, side: Side) -> list[int]:
    filler = [value] * (width - len(row))
    return row + filler if side == "right" else filler + row


def _tensor(rows: list[list[int]], return_tensors: ReturnTensors | None) -> Any:
    if return_tensors is None:
        return rows
    if len(set(map(len, rows))) > 1:
        raise InputError("texts have different lengths; pass padding=True to make them one tensor")
    array = np.array(rows, dtype=np.int64)
    return to_torch(array) if return_tensors == "pt" else array
