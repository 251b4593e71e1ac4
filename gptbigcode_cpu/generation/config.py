"""The options of text generation."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gptbigcode_cpu.common.file_names import GENERATION_CONFIG
from gptbigcode_cpu.common.json_files import read_object
from gptbigcode_cpu.engine.options import RULES, by_full_names, checked, idle_options
from gptbigcode_cpu.errors import ConfigError, InputError, ModelNotFoundError
from gptbigcode_cpu.generation.files import options_of_model, sorted_content
from gptbigcode_cpu.generation.unsupported import CHANGE_TOKENS, METADATA, refuse

logger = logging.getLogger(__name__)


@dataclass(init=False)
class GenerationConfig:
    """Options of `generate`, `stream` and the pipeline, with the names of transformers. None means that an option is not set.

    An option that is not set comes from the model's ``generation_config.json``, or else from transformers' defaults: greedy
    decoding of 20 new tokens; when sampling, ``temperature=1``, ``top_k=50``, ``top_p=1``. A value is checked when it is set.

    Attributes:
        max_length: Maximum number of tokens of prompt (padding included) and output together.
        max_new_tokens: Maximum number of tokens to generate. It wins over a `max_length` from the same or an earlier source.
        min_length: No end token is chosen before prompt and output together have this many tokens.
        min_new_tokens: No end token is chosen before this many new tokens.
        early_stopping: When a beam search stops. True: when `num_beams` beams are finished; False: when better beams are
            unlikely; ``"never"``: when no better beam is possible.
        max_time: Seconds after which generation stops; the token that is being computed is finished.
        stop_strings: One text or several that end a sequence; needs ``tokenizer=``. Other names: ``stop``, ``stop_sequence``.
        do_sample: Draw tokens at random instead of taking the most probable one.
        num_beams: Number of beams of a beam search; 1 = no beam search.
        length_penalty: A beam's log-probability is divided by ``n_new_tokens ** length_penalty``.
        num_return_sequences: Number of outputs per prompt.
        temperature: The logits are divided by this before sampling, > 0.
        top_k: Sample from the k most probable tokens; 0 = off.
        top_p: Sample from the most probable tokens that together reach p, in (0, 1].
        min_p: Sample from tokens with at least min_p times the best probability, in [0, 1].
        top_h: Sample from the most probable tokens, up to this share of the entropy of the best 100, in (0, 1].
        typical_p: Sample from the most typical tokens that together reach p, in (0, 1].
        epsilon_cutoff: Sample from tokens with at least this probability, in [0, 1); 0 = off.
        eta_cutoff: Like `epsilon_cutoff`, but less strict where the distribution is flat.
        repetition_penalty: > 1 makes tokens of prompt and output less likely.
        encoder_repetition_penalty: > 1 makes tokens of the prompt more likely.
        no_repeat_ngram_size: No sequence of this many tokens occurs twice; 0 = off.
        encoder_no_repeat_ngram_size: No sequence of this many tokens of the prompt is repeated; 0 = off.
        bad_words_ids: Token sequences that are never generated.
        sequence_bias: Maps token sequences (tuples) to a number that is added to the logit of their last token.
        logit_bias: Maps token ids to a number that is added to their logit. Not an option of transformers.
        suppress_tokens: Token ids that are never generated.
        begin_suppress_tokens: Token ids that are not generated as the first new token.
        forced_bos_token_id: The first new token if the prompt has one token.
        forced_eos_token_id: Token id or ids, one of which is forced when the length limit is reached.
        exponential_decay_length_penalty: ``(start, factor)``: n tokens after the first `start` new ones, the score s of an end
            token becomes ``s + abs(s) * (factor**n - 1)``.
        guidance_scale: Classifier-free guidance: moves the scores away from the scores after ``negative_prompt_ids``; 1 = off.
        remove_invalid_values: Replace NaN and infinities in the logits.
        renormalize_logits: Turn the processed scores into log-probabilities.
        return_dict_in_generate: Return an object with the sequences, the cache, and, if asked for, scores and logits.
        output_scores: With `return_dict_in_generate`, return the processed scores of every step.
        output_logits: With `return_dict_in_generate`, return the logits of every step.
        use_cache: With `return_dict_in_generate`, return the kv cache as ``past_key_values``; default: true.
        pad_token_id: Token that fills rows which have ended; default: the first end token.
        bos_token_id: The prompt of a call without a prompt. It is never added to other prompts.
        eos_token_id: Token id or ids that end a sequence; -1 or an empty list: no token does.
        prompt_lookup_num_tokens: Draft up to this many tokens by finding an earlier occurrence of the last tokens.
        max_matching_ngram_size: Maximum number of tokens that prompt lookup compares; default: no limit.
        num_assistant_tokens: Number of tokens that `assistant_model` drafts at a time.
        num_assistant_tokens_schedule: ``"heuristic"`` and ``"heuristic_transient"`` draft two more tokens after a success and
            one less after a failure; ``"constant"`` always drafts the same number.
        assistant_confidence_threshold: `assistant_model` stops drafting at a token that is less probable than this.
        seed: Makes sampling repeatable, 0 <= seed < 2**64. Default: a new seed for every call. Not an option of transformers.

    Raises:
        InputError: An unknown or unsupported option, or a value of the wrong type or outside its range.
    """

    max_length: int | None
    max_new_tokens: int | None
    min_length: int | None
    min_new_tokens: int | None
    early_stopping: bool | str | None
    max_time: float | None
    stop_strings: str | Sequence[str] | None
    do_sample: bool | None
    num_beams: int | None
    length_penalty: float | None
    num_return_sequences: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    top_h: float | None
    typical_p: float | None
    epsilon_cutoff: float | None
    eta_cutoff: float | None
    repetition_penalty: float | None
    encoder_repetition_penalty: float | None
    no_repeat_ngram_size: int | None
    encoder_no_repeat_ngram_size: int | None
    bad_words_ids: Sequence[Sequence[int]] | None
    sequence_bias: Mapping[tuple[int, ...], float] | Sequence[Any] | None
    logit_bias: Mapping[int, float] | None
    suppress_tokens: Sequence[int] | None
    begin_suppress_tokens: Sequence[int] | None
    forced_bos_token_id: int | None
    forced_eos_token_id: int | Sequence[int] | None
    exponential_decay_length_penalty: tuple[int, float] | None
    guidance_scale: float | None
    remove_invalid_values: bool | None
    renormalize_logits: bool | None
    return_dict_in_generate: bool | None
    output_scores: bool | None
    output_logits: bool | None
    use_cache: bool | None
    pad_token_id: int | None
    bos_token_id: int | None
    eos_token_id: int | Sequence[int] | None
    prompt_lookup_num_tokens: int | None
    max_matching_ngram_size: int | None
    num_assistant_tokens: int | None
    num_assistant_tokens_schedule: str | None
    assistant_confidence_threshold: float | None
    seed: int | None

    def __init__(self, **options: Any) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, None)
        self.__dict__["carried"] = {name: options.pop(name) for name in METADATA if name in options}
        for name, value in by_full_names(options).items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in RULES:
            refuse(name, value)
            return
        object.__setattr__(self, name, checked(name, value))
        self.carried.pop(name, None)

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The ids that end a sequence, without -1, which means "none" in checkpoints."""
        eos = self.eos_token_id
        ids = () if eos is None else eos if isinstance(eos, Sequence) else (eos,)
        return tuple(int(token_id) for token_id in ids if token_id >= 0)

    def set_options(self) -> dict[str, Any]:
        """The options that are not None."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}

    def check(self) -> None:
        """Check that the options do not contradict each other and that all of them are supported.

        Raises:
            InputError: Options contradict each other, or one is not supported.
        """
        for name, reason in self.refused().items():
            raise InputError(f"{name} comes from a file or an object of transformers, and cannot be used: {reason}")
        self.check_together()

    def check_together(self) -> None:
        """Check that the options do not contradict each other.

        Raises:
            InputError: Two options contradict each other.
        """
        beams, copies = self.num_beams or 1, self.num_return_sequences or 1
        if 1 < beams < copies:
            raise InputError(f"num_return_sequences is {copies}, more than the {beams} beams of num_beams")
        for name in ("forced_bos_token_id", "forced_eos_token_id"):
            forced = getattr(self, name)
            ids = {*forced} if isinstance(forced, Sequence) else {forced}
            if forced is not None and ids <= {*(self.suppress_tokens or ())}:
                raise InputError(f"{name} and suppress_tokens both name {sorted(ids)}: no token is left when it is forced")

    def validate(self, strict: bool = False) -> None:
        """Do what `check` does, and find options that have no effect because of other options.

        Args:
            strict: Raise an error for options without effect, instead of logging a warning.

        Raises:
            InputError: `check` fails, or with `strict` an option has no effect.
        """
        self.check()
        if idle := self.idle_options():
            message = "; ".join(f"{name} has no effect {reason}" for name, reason in idle.items())
            if strict:
                raise InputError(message)
            logger.warning("%s", message)

    def idle_options(self) -> dict[str, str]:
        """Options that are set but have no effect because of other options, each with the reason."""
        given = self.set_options()
        idle = idle_options(given)
        return {name: reason for name, (neutral, reason) in idle.items() if name in given and given[name] != neutral}

    def refused(self) -> dict[str, str]:
        """The unsupported options in `carried` that would change the generated tokens, each with the reason."""
        idle = idle_options(self.set_options())
        reasons = {}
        for name, value in self.carried.items():
            if name in idle or not (name in RULES or name in CHANGE_TOKENS):
                continue
            try:
                if name in RULES:
                    checked(name, value)
                else:
                    refuse(name, value)
            except InputError as error:
                reasons[name] = str(error)
        return reasons

    def update(self, defaults_only: bool = False, **options: Any) -> dict[str, Any]:
        """Set the generation options among `options`, and return the others.

        Args:
            defaults_only: Do not change options that are already set.
            **options: Names and values.

        Raises:
            InputError: A value is wrong. In this case no option is set.
        """
        options = by_full_names(options)
        known = {name: checked(name, value) for name, value in options.items() if name in RULES}
        for name, value in known.items():
            if not defaults_only or getattr(self, name) is None:
                setattr(self, name, value)
        return {name: value for name, value in options.items() if name not in RULES}

    def updated(self, options: Mapping[str, Any]) -> GenerationConfig:
        """A copy with `options` set; see `merged_options`.

        Raises:
            InputError: An option is unknown or its value is wrong.
        """
        copy = GenerationConfig(**merged_options(self.set_options(), options))
        copy.carried.update(self.carried)
        return copy

    @property
    def carried(self) -> dict[str, Any]:
        """Other content of a file: metadata, unsupported options, and values that are not allowed as arguments.

        It is kept so that it can be saved again. `check` refuses the part that would change the generated tokens.
        """
        carried: dict[str, Any] = self.__dict__["carried"]
        return carried

    def to_dict(self) -> dict[str, Any]:
        """All options, also those that are None, and the entries of `carried`."""
        return {**{field.name: getattr(self, field.name) for field in fields(self)}, **self.carried}

    def to_diff_dict(self) -> dict[str, Any]:
        """Like `to_dict`, without entries that are None."""
        return {name: value for name, value in self.to_dict().items() if value is not None}

    def to_json_string(self) -> str:
        """The text of a ``generation_config.json``."""
        return json.dumps(self.file_content(), indent=2, sort_keys=True) + "\n"

    def file_content(self) -> dict[str, Any]:
        """The content of a ``generation_config.json``, as a dict."""
        content = self.to_diff_dict()
        if isinstance(self.sequence_bias, Mapping):  # JSON keys cannot be tuples; transformers also takes a list of pairs
            content["sequence_bias"] = [[list(ids), bias] for ids, bias in self.sequence_bias.items()]
        return content

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], **options: Any) -> GenerationConfig:
        """Read the content of a ``generation_config.json``, as transformers does.

        Values that switch an option off, such as null or ``min_length: -1``, are left out. A value that is not allowed as an
        argument, such as ``temperature: 0.0``, is kept in `carried`; only calls that would use it raise an error.

        Args:
            config_dict: Options, and other content, which is kept in `carried`.
            **options: Options that win over `config_dict`.

        Raises:
            InputError: One of `options` is unknown or wrong.
        """
        known, carried = sorted_content(config_dict)
        config = cls(**known)
        config.carried.update(carried)
        for name, value in by_full_names(options).items():
            setattr(config, name, value)
        return config

    @classmethod
    def from_model_config(cls, model_config: Any) -> GenerationConfig:
        """Read the options in a model's ``config.json``, where older checkpoints store them.

        Args:
            model_config: A `GPTBigCodeConfig`, or its content as a dict.
        """
        return cls.from_dict(options_of_model(model_config if isinstance(model_config, Mapping) else model_config.to_dict()))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name: str | Path,
        config_file_name: str = GENERATION_CONFIG,
        **options: Any,
    ) -> GenerationConfig:
        """Read the ``generation_config.json`` of a model.

        Args:
            pretrained_model_name: A directory, a Hub id, or ``"demo"``.
            config_file_name: The name of the file.
            **options: ``revision``, ``token``, ``cache_dir``, ... as in `from_pretrained` of the models, and options that win
                over the options in the file.

        Raises:
            ModelNotFoundError: There is no such file.
            ConfigError: The file is damaged.
            InputError: One of `options` is unknown or wrong.
        """
        from gptbigcode_cpu.hub import paths as hub
        from gptbigcode_cpu.hub.source import Source

        source, options = Source.taken_from(options)
        options.pop("trust_remote_code", None)  # no code is downloaded
        directory = hub.resolve(pretrained_model_name, source, weights=False)
        content = read_object(directory / config_file_name, ConfigError)
        if content is None:
            raise ModelNotFoundError(f"{directory} has no {config_file_name}; GenerationConfig(...) makes one")
        config = cls.from_dict(content)
        for name, value in options.items():
            setattr(config, name, value)
        return config

    def save_pretrained(self, save_directory: str | Path, config_file_name: str = GENERATION_CONFIG) -> None:
        """Write a ``generation_config.json``, which transformers can read as well.

        Raises:
            InputError: Options contradict each other, or an option has no effect because of another.
        """
        from gptbigcode_cpu.common.files import write_file

        self.validate(strict=True)
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        write_file(directory / config_file_name, self.to_json_string())


def merged_options(*sources: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the options of several sources. Later sources win; a `max_length` replaces an earlier `max_new_tokens`."""
    merged: dict[str, Any] = {}
    for source in sources:
        if source.get("max_length") is not None:
            merged.pop("max_new_tokens", None)
        merged |= source
    return merged
