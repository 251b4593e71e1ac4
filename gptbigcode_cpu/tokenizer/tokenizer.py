"""The tokenizer of a checkpoint, with the interface of transformers' tokenizers."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gptbigcode_cpu.common.arrays import is_torch
from gptbigcode_cpu.common.messages import one_line
from gptbigcode_cpu.common.suggest import check_choice, refuse_unknown
from gptbigcode_cpu.config.checks import LIMITS
from gptbigcode_cpu.errors import InputError, ThreadLimitError, TokenizerError
from gptbigcode_cpu.tokenizer import files
from gptbigcode_cpu.tokenizer.batch_encoding import BatchEncoding, ReturnTensors
from gptbigcode_cpu.tokenizer.chat import ChatTemplates, recognise
from gptbigcode_cpu.tokenizer.inputs import check_lengths, rows
from gptbigcode_cpu.tokenizer.padding import Padding, pad_encodings, pad_values
from gptbigcode_cpu.tokenizer.setting_checks import check_settings, length_limit
from gptbigcode_cpu.tokenizer.stored import StoredTokenizer
from gptbigcode_cpu.tokenizer.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

logger = logging.getLogger(__name__)

Side = Literal["left", "right"]
UNLIMITED = int(1e30)  # transformers' model_max_length of a tokenizer without a limit
_BOUNDED = LIMITS["n_positions"]  # larger limits count as no limit, because no model has so many positions
TRUNCATIONS = (None, False, True, "longest_first", "only_first", "only_second", "do_not_truncate")

# Held while a second backend is made or used, and while the process is forked. Otherwise a lock inside the library could stay
# locked forever in the child.
_second_lock = threading.Lock()
os.register_at_fork(before=_second_lock.acquire, after_in_parent=_second_lock.release, after_in_child=_second_lock.release)


class GPTBigCodeTokenizer(StoredTokenizer, Vocabulary, ChatTemplates):
    """A byte-level BPE tokenizer read from ``tokenizer.json``, with the settings of ``tokenizer_config.json``.

    Attributes:
        backend: The tokenizer of the `tokenizers` library. Use `add_tokens` to add tokens, not the backend.
        padding_side: The side on which `padding` adds pad tokens.
        truncation_side: The side on which `truncation` removes tokens.
        model_max_length: The longest sequence that the model was made for, in tokens.
        model_input_names: The values that a call returns by default.
        split_special_tokens: Whether names of special tokens inside texts are plain text.
        name_or_path: The name or path that the tokenizer was loaded from.
    """

    is_fast = True
    pad_token_type_id = 0

    def __init__(
        self,
        backend: Tokenizer | None = None,
        settings: Mapping[str, Any] | None = None,
        name_or_path: str = "",
        *,
        tokenizer_object: Tokenizer | None = None,
        tokenizer_file: str | Path | None = None,
        **more_settings: Any,
    ) -> None:
        """
        Args:
            backend: The tokenizer of the `tokenizers` library. Special tokens of the settings that it lacks are added to it.
            settings: The content of a ``tokenizer_config.json``.
            name_or_path: The name or path that the tokenizer comes from.
            tokenizer_object: Another name of `backend`.
            tokenizer_file: A ``tokenizer.json`` to read, instead of `backend`.
            **more_settings: Single settings, such as ``eos_token``; they win over `settings`.

        Raises:
            TokenizerError: A setting has a wrong type or value, or the file is missing or damaged.
            InputError: No tokenizer or more than one is given, or a setting is unknown.
        """
        if len(given := [it for it in (backend, tokenizer_object, tokenizer_file) if it is not None]) != 1:
            raise InputError("pass one of backend, tokenizer_object and tokenizer_file, or use from_pretrained")
        refuse_unknown({it: 0 for it in more_settings if it not in files.SETTINGS}, files.SETTINGS, "a tokenizer")
        self.backend: Tokenizer = files.backend_of(given[0])
        self.settings = dict(settings or {}) | more_settings
        check_settings(self.settings)
        self.name_or_path = name_or_path
        self.padding_side: Side = files.side(self.settings, "padding_side")
        self.truncation_side: Side = files.side(self.settings, "truncation_side")
        self.model_max_length: int = length_limit(self.settings.get("model_max_length"), UNLIMITED)
        self.model_input_names: list[str] = list(self.settings.get("model_input_names") or ("input_ids", "attention_mask"))
        self.split_special_tokens: bool = bool(self.settings.get("split_special_tokens", False))
        self.backend.no_padding()
        self.backend.no_truncation()
        self._read_special_tokens(self.settings)
        files.set_post_processor(self.backend, self.settings, self.bos_token, self.eos_token)
        own_template = files.chat_template(self.settings)
        self.chat_template = own_template or recognise(name_or_path, self.backend.get_added_tokens_decoder().values())
        self._warned = False

    def __call__(
        self,
        text: Any,
        text_pair: Any = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | Literal["longest", "max_length", "do_not_pad"] = False,
        truncation: bool | Literal["longest_first", "only_first", "only_second", "do_not_truncate"] | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: Side | None = None,
        return_tensors: ReturnTensors | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        split_special_tokens: bool | None = None,
        verbose: bool = True,
        **unknown: Any,
    ) -> BatchEncoding:
        """Encode one text or several.

        Args:
            text: A string or a list of strings; with `is_split_into_words`, a list of words or a list of such lists.
            text_pair: Second texts, as many as in `text`; each is appended to its row.
            add_special_tokens: Add the special tokens of the tokenizer's post-processor (none for most checkpoints).
            padding: True or ``"longest"``: pad to the longest row; ``"max_length"``: pad to `max_length`.
            truncation: Cut rows to `max_length`. True or ``"longest_first"`` removes tokens from the longer of two texts,
                ``"only_first"`` and ``"only_second"`` from the first or second. Default: True if there is a `max_length`
                but no `padding`.
            max_length: Length for `padding` and `truncation`; default: `model_max_length`.
            stride: Number of tokens by which a row and its overflowing rows overlap.
            is_split_into_words: Whether the texts are lists of words.
            pad_to_multiple_of: Make the padded length a multiple of this.
            padding_side: Overrides the attribute `padding_side` for this call.
            return_tensors: None for lists, ``"np"`` for numpy and ``"pt"`` for torch, int64 ``[batch, tokens]``.
            return_token_type_ids: Add ``token_type_ids``, 0 for the first text and 1 for the second. Default: only if
                `model_input_names` contains them.
            return_attention_mask: Add ``attention_mask``. Default: only if `model_input_names` contains it.
            return_overflowing_tokens: Add the tokens that `truncation` cut as further rows, and
                ``overflow_to_sample_mapping``.
            return_special_tokens_mask: Add ``special_tokens_mask``, 1 for added special tokens and padding.
            return_offsets_mapping: Add ``offset_mapping``, the characters of each token, ``[batch, tokens, 2]``.
            return_length: Add ``length``, the number of tokens of each row, padding included.
            split_special_tokens: Treat names of special tokens inside the texts as plain text. Use it for text that is data,
                such as the file around a cursor. Default: the attribute `split_special_tokens`.
            verbose: Log a warning, once, if a row is longer than `model_max_length`.
            **unknown: Any other argument raises an error.

        Returns:
            ``input_ids``, ``attention_mask`` (1 = token, 0 = padding), and the other values that were asked for.

        Raises:
            InputError: An argument is wrong or unknown, or `return_tensors` is set and rows have different lengths.
            TokenizerError: `padding` is set, but there is no pad token.
        """
        refuse_unknown(unknown, _argument_names(GPTBigCodeTokenizer.__call__), "the tokenizer")
        inputs, batched = rows(text, text_pair, is_split_into_words)
        check_choice("truncation", truncation, TRUNCATIONS)
        check_choice("return_tensors", return_tensors, (None, "np", "pt"))
        if truncation is None and max_length is not None and padding is False:
            truncation = True
        cut = truncation not in (None, False, "do_not_truncate")
        pad = self._padding(padding, max_length, pad_to_multiple_of, padding_side)
        limit = self.model_max_length if max_length is None else max_length
        check_lengths(max_length, limit, stride, cut, padding)
        if pad and cut and pad.multiple and limit % pad.multiple:
            raise InputError(f"max_length must be a multiple of pad_to_multiple_of={pad.multiple}")
        split = self.split_special_tokens if split_special_tokens is None else split_special_tokens
        cutting: dict[str, Any] | None = None
        if cut and limit < _BOUNDED:
            strategy = "longest_first" if truncation is True else truncation
            cutting = {"max_length": limit, "stride": stride, "strategy": strategy, "direction": self.truncation_side}
        encodings = self._encode(inputs, add_special_tokens, is_split_into_words, split, cutting)
        if pad:
            pad_encodings(encodings, pad, self._required_pad_id(), str(self.pad_token))
        if verbose and max_length is None:
            self._warn_if_long(encodings)

        kept = [[row, *row.overflowing] if return_overflowing_tokens else [row] for row in encodings]
        flat = [row for group in kept for row in group]
        defaults = self.model_input_names
        data: dict[str, Any] = {"input_ids": [row.ids for row in flat]}
        if "token_type_ids" in defaults if return_token_type_ids is None else return_token_type_ids:
            data["token_type_ids"] = [row.type_ids for row in flat]
        if "attention_mask" in defaults if return_attention_mask is None else return_attention_mask:
            data["attention_mask"] = [row.attention_mask for row in flat]
        if return_special_tokens_mask:
            data["special_tokens_mask"] = [row.special_tokens_mask for row in flat]
        if return_offsets_mapping:
            data["offset_mapping"] = [row.offsets for row in flat]
        if return_length:
            data["length"] = [len(row) for row in flat]
        if return_overflowing_tokens:
            data["overflow_to_sample_mapping"] = [i for i, group in enumerate(kept) for _ in group]
        if not batched and return_tensors is None and not return_overflowing_tokens:
            data = {name: value[0] if isinstance(value[0], list) else value for name, value in data.items()}
        return BatchEncoding(data, flat, return_tensors)

    def encode(self, text: Any, text_pair: Any = None, **options: Any) -> Any:
        """Token ids of one text: a list, or with `return_tensors` an int64 tensor ``[1, tokens]``.

        Args:
            text: The text.
            text_pair: As in `__call__`.
            **options: Further arguments of `__call__`.
        """
        return self(text, text_pair, **options)["input_ids"]

    def tokenize(self, text: str, pair: str | None = None, add_special_tokens: bool = False, **options: Any) -> list[str]:
        """The tokens of a text in the byte-level alphabet of the vocabulary; `options` are arguments of `__call__`."""
        return self(text, pair, add_special_tokens=add_special_tokens, **options).tokens()

    def pad(
        self,
        encoded_inputs: Any,
        padding: bool | Literal["longest", "max_length", "do_not_pad"] = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: Side | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: ReturnTensors | None = None,
        **unknown: Any,
    ) -> BatchEncoding:
        """Pad rows of token ids.

        Args:
            encoded_inputs: A dict with ``input_ids`` and optionally ``attention_mask``, ``token_type_ids`` and
                ``special_tokens_mask`` of one row or several, or a list of such dicts with one row each.
            padding: As in `__call__`; so are the other arguments.
            **unknown: Any other argument raises an error.

        Returns:
            The padded values; tensors if tensors were given or `return_tensors` is set.

        Raises:
            InputError: There are no ``input_ids``, or an argument is wrong or unknown.
            TokenizerError: There is no pad token.
        """
        refuse_unknown(unknown, _argument_names(GPTBigCodeTokenizer.pad), "pad")
        if isinstance(encoded_inputs, (list, tuple)):
            encoded_inputs = {name: [row[name] for row in encoded_inputs] for name in (encoded_inputs or [{}])[0]}
        if not isinstance(encoded_inputs, Mapping) or "input_ids" not in encoded_inputs:
            raise InputError("pad needs input_ids: a BatchEncoding, or a list of them")
        first = encoded_inputs["input_ids"]
        while isinstance(first, (list, tuple)) and first:
            first = first[0]
        if return_tensors is None and not isinstance(first, (int, list, tuple)):
            return_tensors = "pt" if is_torch(first) else "np"
        wanted = "attention_mask" in self.model_input_names if return_attention_mask is None else return_attention_mask
        how = self._padding(padding, max_length, pad_to_multiple_of, padding_side)
        pad_id = self._required_pad_id() if how else 0
        values = pad_values(encoded_inputs, how, pad_id, wanted)
        return BatchEncoding(values, tensor_type=return_tensors)

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Number of special tokens that a call adds to one text, or with `pair` to two."""
        return self.backend.num_special_tokens_to_add(pair)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(name_or_path={self.name_or_path!r}, vocab_size={self.vocab_size}, "
            f"model_max_length={self.model_max_length}, padding_side={self.padding_side!r}, "
            f"truncation_side={self.truncation_side!r}, special_tokens={self.special_tokens_map})"
        )

    def __getstate__(self) -> dict[str, Any]:
        # The second backend is left out; it is made again on demand.
        return {name: value for name, value in self.__dict__.items() if name != "_second_backend"}

    @property
    def add_bos_token(self) -> bool:
        """The setting `add_bos_token`: add `bos_token` before texts. False even if ``tokenizer.json`` itself adds it."""
        return bool(self.settings.get("add_bos_token", False))

    @add_bos_token.setter
    def add_bos_token(self, value: bool) -> None:
        self._set_switch("add_bos_token", value)

    @property
    def add_eos_token(self) -> bool:
        """The setting `add_eos_token`: add `eos_token` after texts. False even if ``tokenizer.json`` itself adds it."""
        return bool(self.settings.get("add_eos_token", False))

    @add_eos_token.setter
    def add_eos_token(self, value: bool) -> None:
        self._set_switch("add_eos_token", value)

    def _set_switch(self, name: str, value: bool) -> None:
        self.settings[name] = value
        files.set_post_processor(self.backend, self.settings, self.bos_token, self.eos_token)
        self._vocabulary_changed()

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """Same as `backend`."""
        return self.backend

    @property
    def max_len_single_sentence(self) -> int:
        """`model_max_length` minus the number of special tokens that a call adds to one text."""
        return self.model_max_length - self.num_special_tokens_to_add()

    @property
    def max_len_sentences_pair(self) -> int:
        """`model_max_length` minus the number of special tokens that a call adds to two texts."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=True)

    def _encode(
        self, rows: list[Any], add_special_tokens: bool, is_pretokenized: bool, split: bool, cutting: dict[str, Any] | None
    ) -> list[Encoding]:
        options = {"add_special_tokens": add_special_tokens, "is_pretokenized": is_pretokenized}
        try:
            if cutting is None and not split:
                return self.backend.encode_batch(rows, **options)
            # The library stores these settings in the tokenizer. So they are changed in a second one, by one thread at a time.
            with _second_lock:
                backend = self._second_backend
                backend.encode_special_tokens = split
                if cutting is None:
                    backend.no_truncation()
                else:
                    backend.enable_truncation(**cutting)
                return backend.encode_batch(rows, **options)
        except TypeError as error:  # only strings that UTF-8 cannot encode raise this
            raise InputError("the text contains a lone surrogate and is not valid Unicode") from error
        except BaseException as error:  # the library raises bare Exception; a panic of its Rust code is a BaseException
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            if "thread pool" in str(error):
                advice = (
                    "set TOKENIZERS_PARALLELISM=false, or raise the limit of processes (ulimit -u, the pids of a container)"
                )
                raise ThreadLimitError(f"the tokenizer could not start its threads: {advice}") from error
            if cutting is None:
                where = self.name_or_path or "this tokenizer"
                raise TokenizerError(f"{where}: tokenizer.json cannot encode this text: {one_line(error)}") from error
            raise InputError(f"the text cannot be cut to max_length: {one_line(error)}") from error

    @cached_property
    def _second_backend(self) -> Tokenizer:
        from tokenizers import Tokenizer

        return Tokenizer.from_str(self.backend.to_str())

    def _vocabulary_changed(self) -> None:
        self.__dict__.pop("_second_backend", None)

    def _padding(self, padding: Any, max_length: int | None, multiple: int | None, side: Side | None) -> Padding | None:
        check_choice("padding", padding, (False, True, "longest", "max_length", "do_not_pad"))
        check_choice("padding_side", side, (None, "left", "right"))
        if multiple is not None and multiple < 1:
            raise InputError(f"pad_to_multiple_of must be positive, not {multiple}")
        if padding in (False, "do_not_pad"):
            return None
        length = None
        if padding == "max_length":
            length = self.model_max_length if max_length is None else max_length
            if length >= _BOUNDED:
                raise InputError("padding='max_length' needs max_length, because this tokenizer has no model_max_length")
        return Padding(length, multiple, side or self.padding_side)

    def _required_pad_id(self) -> int:
        if (pad_id := self.pad_token_id) is None:
            raise TokenizerError("padding needs a pad token: set tokenizer.pad_token = tokenizer.eos_token")
        return pad_id

    def _warn_if_long(self, encodings: list[Encoding]) -> None:
        longest = max(map(len, encodings), default=0)
        if longest > self.model_max_length and not self._warned:
            self._warned = True
            logger.warning("a text has %d tokens, the model was made for %d", longest, self.model_max_length)


# The names of tokenizer classes in transformers.
AutoTokenizer = GPTBigCodeTokenizer
PreTrainedTokenizerBase = PreTrainedTokenizer = PreTrainedTokenizerFast = GPTBigCodeTokenizer
GPT2Tokenizer = GPT2TokenizerFast = GPTBigCodeTokenizer


def _argument_names(function: Callable[..., Any]) -> list[str]:
    names = function.__code__.co_varnames[: function.__code__.co_argcount + function.__code__.co_kwonlyargcount]
    return [name for name in names if name != "self"]
