"""Special tokens, which have a role (end of text, padding, ...), and tokens added to the vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, overload

from gptbigcode_cpu.common.messages import shown
from gptbigcode_cpu.common.suggest import check_choice
from gptbigcode_cpu.errors import InputError, TokenizerError, UnsupportedError
from gptbigcode_cpu.tokenizer.added_tokens import added_token

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
EXTRA_NAMES = EXTRA, OLD_EXTRA = ("extra_special_tokens", "additional_special_tokens")
OWN_ROLES = "model_specific_special_tokens"
KNOWN = {*SPECIAL_NAMES, "add_bos_token", "add_eos_token"}


class _Token:
    """The attribute ``xxx_token``: the text of a token of the vocabulary, or None."""

    def __init__(self, doc: str) -> None:
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: SpecialTokens, owner: type) -> str | None: ...
    def __get__(self, instance: SpecialTokens | None, owner: type) -> Self | str | None:
        return self if instance is None else instance._special.get(self.name)

    def __set__(self, instance: SpecialTokens, token: str | AddedToken | None) -> None:
        text = None if token is None else str(token)
        if text is not None and instance.backend.token_to_id(text) is None:
            raise TokenizerError(
                f"{text!r} is not in the vocabulary; add it with add_special_tokens({{{self.name!r}: {text!r}}})"
            )
        instance._special[self.name] = text


class _TokenId:
    """The attribute ``xxx_token_id``: the id of the token ``xxx_token``, or None."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.__doc__ = f"The id of `{name}`, or None."

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: SpecialTokens, owner: type) -> int | None: ...
    def __get__(self, instance: SpecialTokens | None, owner: type) -> Self | int | None:
        if instance is None:
            return self
        token = instance._special.get(self.name)
        return None if token is None else instance.backend.token_to_id(token)

    def __set__(self, instance: SpecialTokens, token_id: int | None) -> None:
        token = None if token_id is None else instance.backend.id_to_token(token_id)
        if token_id is not None and token is None:
            raise TokenizerError(f"{token_id} is no token id of this tokenizer")
        instance._special[self.name] = token


# Names that older scripts use, and their replacements.
_INSTEAD = {
    **dict.fromkeys(("encode_plus", "batch_encode_plus"), "call the tokenizer itself"),
    "additional_special_tokens": "it is extra_special_tokens",
    "additional_special_tokens_ids": "it is extra_special_tokens_ids",
    "build_inputs_with_special_tokens": "call the tokenizer with add_special_tokens=True",
    "prepare_for_model": "call the tokenizer with the text",
    "all_special_tokens_extended": "it is all_special_tokens",
    "special_tokens_map_extended": "it is special_tokens_map",
}


class SpecialTokens:
    """Special and added tokens of `GPTBigCodeTokenizer`."""

    backend: Tokenizer
    _special: dict[str, str | None]
    _extra: list[str]

    bos_token = _Token("The token that begins a text, or None.")
    eos_token = _Token("The token that ends a text, or None.")
    unk_token = _Token("The token for text that is not in the vocabulary, or None.")
    sep_token = _Token("The token that separates two texts, or None.")
    pad_token = _Token("The token that fills shorter rows, or None; often ``tokenizer.pad_token = tokenizer.eos_token``.")
    cls_token = _Token("The token that stands for a whole text, or None.")
    mask_token = _Token("The token that stands for a hidden token, or None.")
    bos_token_id = _TokenId("bos_token")
    eos_token_id = _TokenId("eos_token")
    unk_token_id = _TokenId("unk_token")
    sep_token_id = _TokenId("sep_token")
    pad_token_id = _TokenId("pad_token")
    cls_token_id = _TokenId("cls_token")
    mask_token_id = _TokenId("mask_token")

    def _read_special_tokens(self, settings: Mapping[str, Any]) -> None:
        """Read the special tokens from the settings. Tokens that the vocabulary lacks are added, in transformers' order."""
        recorded: Mapping[int, AddedToken] = settings.get("added_tokens_decoder") or {}
        settings = collect_own_roles(settings)
        extra: Any = settings.get(EXTRA if EXTRA in settings else OLD_EXTRA) or []
        roles = {name: settings.get(name) for name in SPECIAL_NAMES} | settings.get(OWN_ROLES, {})
        values = {name: _as_given(value, name) for name, value in roles.items() if value is not None}
        if not isinstance(extra, (list, tuple)):
            raise TokenizerError(f"{EXTRA} must be a list of tokens or tokens by name, not {shown(extra)}")
        listed = [_as_given(token, EXTRA) for token in extra]
        named = {str(value) for value in values.values()}
        wanted: list[str | AddedToken] = [token for _, token in sorted(recorded.items())]
        known = {token.content for token in self.added_tokens_decoder.values()} | {token.content for token in recorded.values()}
        for value in (*values.values(), *listed):
            if str(value) not in known and value not in wanted:
                wanted.append(value)
        tokens = [added_token(token, "a token") for token in wanted]
        for token in tokens:
            token.special = token.special or token.content in named
        self._special = dict.fromkeys(SPECIAL_NAMES) | {name: str(value) for name, value in values.items()}
        self._extra = [str(token) for token in listed]
        # Two calls, because the library numbers the new tokens of a call from the largest id before the call.
        self._add_new(tokens[: len(recorded)])
        self._add_new(tokens[len(recorded) :])

    def _add_new(self, tokens: Sequence[AddedToken]) -> None:
        """Add tokens. New tokens get the next ids, which must be free."""
        new = [token.content for token in tokens if token.content and self.backend.token_to_id(token.content) is None]
        self.backend.add_tokens([*tokens])
        if new:
            owners = {token_id: token for token, token_id in self.backend.get_vocab(with_added_tokens=False).items()}
            for token in new:
                token_id = self.backend.token_to_id(token)
                if token_id in owners:
                    raise TokenizerError(
                        f"the token {shown(token)} is not in the vocabulary and cannot be added: the vocabulary has gaps, and "
                        f"the next id, {token_id}, belongs to {shown(owners[token_id])}; give it an id in added_tokens.json"
                    )

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Special tokens with model-specific roles, such as ``image_token``, and their ids."""
            roles = self.__dict__.get("_special", {})
            if name in roles:
                return roles[name]
            if name.removesuffix("_id") in roles:
                return self.backend.token_to_id(roles[name.removesuffix("_id")])
            if name in _INSTEAD:
                raise UnsupportedError(f"there is no {name}, nor is there one in transformers 5; {_INSTEAD[name]}")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def extra_special_tokens(self) -> list[str]:
        """Special tokens without a role of their own, such as those for fill-in-the-middle."""
        return list(self._extra)

    @property
    def extra_special_tokens_ids(self) -> list[int]:
        """The ids of `extra_special_tokens`."""
        return self._ids_of(self._extra)

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """The special tokens that have a role, by the name of the role."""
        return {name: token for name, token in self._special.items() if token is not None}

    @property
    def all_special_tokens(self) -> list[str]:
        """All special tokens without duplicates: first those with a role, then the extra ones."""
        return list(dict.fromkeys([*self.special_tokens_map.values(), *self._extra]))

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of `all_special_tokens`, in the same order."""
        return self._ids_of(self.all_special_tokens)

    @property
    def skipped_ids(self) -> frozenset[int]:
        """The ids that `decode` leaves out with ``skip_special_tokens=True``: added tokens that are marked as special."""
        return frozenset(token_id for token_id, token in self.added_tokens_decoder.items() if token.special)

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The added tokens by id, special or not."""
        return self.backend.get_added_tokens_decoder()

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """The added tokens and their ids, in ascending order of the ids."""
        return {token.content: token_id for token_id, token in sorted(self.added_tokens_decoder.items())}

    def get_added_vocab(self) -> dict[str, int]:
        """Same as `added_tokens_encoder`."""
        return self.added_tokens_encoder

    def add_tokens(self, new_tokens: str | AddedToken | Sequence[str | AddedToken], special_tokens: bool = False) -> int:
        """Add tokens that are never split. The model can only use ids below its ``vocab_size``.

        Args:
            new_tokens: One token or several. Tokens that are already in the vocabulary keep their ids.
            special_tokens: Mark the tokens as special, so that `decode` can leave them out.

        Returns:
            How many of the tokens were new.

        Raises:
            InputError: A token is neither a string nor an `AddedToken`.
        """
        tokens = list(new_tokens) if isinstance(new_tokens, (list, tuple)) else [new_tokens]
        for token in tokens:
            if not isinstance(token, str) and type(token).__name__ != "AddedToken":
                raise InputError(f"a token is a string or an AddedToken, not {token!r}")
        added = self.backend.add_special_tokens(tokens) if special_tokens else self.backend.add_tokens(tokens)
        self._vocabulary_changed()
        return added

    def add_special_tokens(self, special_tokens_dict: Mapping[str, Any], replace_extra_special_tokens: bool = True) -> int:
        """Add special tokens and give them their roles.

        Args:
            special_tokens_dict: Maps roles (``pad_token``, ...) to tokens, and ``extra_special_tokens`` to a list of tokens.
            replace_extra_special_tokens: Replace the extra special tokens; False: add to them.

        Returns:
            How many tokens were new.

        Raises:
            InputError: A role is unknown, or a value is not a token.
        """
        tokens: list[Any] = []
        extra: list[Any] = []
        for name, value in special_tokens_dict.items():
            check_choice("a role of special tokens", name, (*SPECIAL_NAMES, *EXTRA_NAMES))
            if name in EXTRA_NAMES:
                if not isinstance(value, (list, tuple)):
                    raise InputError(f"{name} is a list of tokens, not {value!r}")
                extra = list(value)
            else:
                tokens.append(value)
        added = self.add_tokens([*tokens, *extra], special_tokens=True)
        for name, value in special_tokens_dict.items():
            if name not in EXTRA_NAMES:
                self._special[name] = str(value)
        if extra:
            kept = [] if replace_extra_special_tokens else self._extra
            self._extra = list(dict.fromkeys([*kept, *map(str, extra)]))
        return added

    def _vocabulary_changed(self) -> None:
        """Called after the vocabulary has changed."""

    def _ids_of(self, tokens: Iterable[str]) -> list[int]:
        ids = (self.backend.token_to_id(token) for token in tokens)
        return [token_id for token_id in ids if token_id is not None]


def collect_own_roles(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Move special tokens with model-specific roles to the one key `OWN_ROLES` of the settings.

    In files they have keys such as ``image_token``, or are part of a dict `extra_special_tokens`.
    """
    kept = dict(settings)
    roles = {
        name: kept.pop(name) for name in settings if name.endswith("_token") and name not in KNOWN and _is_token(kept[name])
    }
    own = kept.get(OWN_ROLES)
    roles |= own if isinstance(own, Mapping) else {}
    if isinstance(kept.get(EXTRA), Mapping):
        roles |= kept.pop(EXTRA)
    return kept | ({OWN_ROLES: roles} if roles else {})


def _is_token(value: Any) -> bool:
    return isinstance(value, str) or type(value).__name__ == "AddedToken" or (isinstance(value, Mapping) and "content" in value)


def _as_given(token: Any, name: str) -> str | AddedToken:
    return token if isinstance(token, str) else added_token(token, name)
