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
    """Options of `generate`, `stream` and the pipeline, by the names of transformers. None means: not set here.

    What is not set comes from the model's ``generation_config.json`` and then from transformers' defaults: greedy; when
    sampling, ``temperature=1``, ``top_k=50``, ``top_p=1``; 20 new tokens. Every value is checked when it is set.

    Attributes:
        max_length: Tokens of prompt (padding included) and output together.
        max_new_tokens: Tokens to generate at most; wins over a `max_length` from the same or an earlier source.
        min_length: No end token before prompt and output together have this many tokens.
        min_new_tokens: No end token before this many new tokens.
        early_stopping: For beams. True: stop at `num_beams` finished ones; False: when better ones are unlikely; ``"never"``:
            when there cannot be better ones.
        max_time: Seconds after which no further token is begun.
        stop_strings: A text or texts that end a sequence; needs ``tokenizer=``. Other names: ``stop``, ``stop_sequence``.
        do_sample: Draw tokens at random instead of taking the most probable one.
        num_beams: Beams of a beam search; 1 = none.
        length_penalty: A beam's log-probability is divided by its new tokens to this power.
        num_return_sequences: Outputs per prompt.
        temperature: Divides the logits when sampling, > 0.
        top_k: Sample from the k most probable tokens; 0 = off.
        top_p: Sample from the most probable tokens that together reach p, in (0, 1].
        min_p: Sample from tokens with at least min_p times the best probability, in [0, 1].
        top_h: Sample from the most probable tokens whose entropy is at most this share of all, in (0, 1].
        typical_p: Sample from the most typical tokens that together reach p, in (0, 1].
        epsilon_cutoff: Sample from tokens with at least this probability, in [0, 1); 0 = off.
        eta_cutoff: Like `epsilon_cutoff`, but less strict where the distribution is flat.
        repetition_penalty: > 1 makes tokens of prompt and output less likely.
        encoder_repetition_penalty: > 1 makes tokens of the prompt more likely.
        no_repeat_ngram_size: No sequence of this many tokens comes twice; 0 = off.
        encoder_no_repeat_ngram_size: No sequence of this many tokens of the prompt comes again; 0 = off.
        bad_words_ids: Token sequences that are not written.
        sequence_bias: Token sequences, as tuples -> what is added to the logit of their last token.
        logit_bias: Token id -> what is added to its logit; an option of this package.
        suppress_tokens: Token ids that are not written.
        begin_suppress_tokens: Token ids that are not written first.
        forced_bos_token_id: The token after a prompt of one token.
        forced_eos_token_id: The last token that the length allows is this one, or one of these.
        exponential_decay_length_penalty: ``(start, factor)``: makes the end likelier by ``factor**n``, n tokens after `start`.
        guidance_scale: Classifier-free guidance: moves the scores away from those after ``negative_prompt_ids``; 1 = off.
        remove_invalid_values: Replace NaN and infinities in the logits.
        renormalize_logits: Make the processed scores log-probabilities.
        return_dict_in_generate: Return an object with the sequences and what `output_scores` and `output_logits` ask for.
        output_scores: Return the processed scores of every step.
        output_logits: Return the logits of every step.
        use_cache: Return the cache with `return_dict_in_generate`, as ``past_key_values``; true by default.
        pad_token_id: What fills finished rows; default: the first end token.
        bos_token_id: The prompt where none is given; other prompts are used as they are.
        eos_token_id: Token id or ids that end a sequence; -1 or an empty list: none.
        prompt_lookup_num_tokens: Guess up to this many tokens by looking for the last tokens earlier in prompt and output.
        max_matching_ngram_size: Tokens that such a match may have at most; default: no bound.
        num_assistant_tokens: Tokens that `assistant_model` guesses at once.
        num_assistant_tokens_schedule: ``"heuristic"`` and ``"heuristic_transient"`` guess two more tokens after a success, one
            less after a failure; ``"constant"`` always as many.
        assistant_confidence_threshold: `assistant_model` stops guessing at a token less probable than this.
        seed: For repeatable sampling, 0 <= seed < 2**64; without it every call draws another one; an option of this package.

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
        """The ids that end a sequence; -1, with which checkpoints say "none", is left out."""
        eos = self.eos_token_id
        ids = () if eos is None else eos if isinstance(eos, Sequence) else (eos,)
        return tuple(int(token_id) for token_id in ids if token_id >= 0)

    def set_options(self) -> dict[str, Any]:
        """The options that are not None."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}

    def check(self) -> None:
        """Check that the options fit together and nothing is asked for that is not supported.

        Raises:
            InputError: They do not, or it is.
        """
        for name, reason in self.refused().items():
            raise InputError(f"{name} comes from a file or an object of transformers, and cannot be used: {reason}")
        self.check_together()

    def check_together(self) -> None:
        """Check that the options do not contradict each other.

        Raises:
            InputError: They do.
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
        """`check`, and look for options that others make idle.

        Args:
            strict: Refuse those, which are otherwise logged.

        Raises:
            InputError: The options contradict each other.
        """
        self.check()
        if idle := self.idle_options():
            message = "; ".join(f"{name} has no effect {reason}" for name, reason in idle.items())
            if strict:
                raise InputError(message)
            logger.warning("%s", message)

    def idle_options(self) -> dict[str, str]:
        """Options that are set and do nothing because of others, each with the reason."""
        given = self.set_options()
        idle = idle_options(given)
        return {name: reason for name, (neutral, reason) in idle.items() if name in given and given[name] != neutral}

    def refused(self) -> dict[str, str]:
        """What is carried along, would change the tokens and is not possible, each with the reason."""
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
        """Set those of `options` that are options of generation, and return the others.

        Args:
            defaults_only: Leave what is set already.
            **options: Names and values.

        Raises:
            InputError: A value is wrong; then nothing is set.
        """
        options = by_full_names(options)
        known = {name: checked(name, value) for name, value in options.items() if name in RULES}
        for name, value in known.items():
            if not defaults_only or getattr(self, name) is None:
                setattr(self, name, value)
        return {name: value for name, value in options.items() if name not in RULES}

    def updated(self, options: Mapping[str, Any]) -> GenerationConfig:
        """A copy with `options` set, see `merged_options`.

        Raises:
            InputError: An option is unknown or its value is wrong.
        """
        copy = GenerationConfig(**merged_options(self.set_options(), options))
        copy.carried.update(self.carried)
        return copy

    @property
    def carried(self) -> dict[str, Any]:
        """What a file holds besides: metadata, and options that are unsupported or have a value that an argument may not have.

        It is kept for saving; `check` refuses what would change the tokens.
        """
        carried: dict[str, Any] = self.__dict__["carried"]
        return carried

    def to_dict(self) -> dict[str, Any]:
        """All options, also those that are None, and what else the file held that they come from."""
        return {**{field.name: getattr(self, field.name) for field in fields(self)}, **self.carried}

    def to_diff_dict(self) -> dict[str, Any]:
        """Like `to_dict`, without what is None."""
        return {name: value for name, value in self.to_dict().items() if value is not None}

    def to_json_string(self) -> str:
        """The text of a ``generation_config.json``."""
        return json.dumps(self.file_content(), indent=2, sort_keys=True) + "\n"

    def file_content(self) -> dict[str, Any]:
        """What a ``generation_config.json`` holds."""
        content = self.to_diff_dict()
        if isinstance(self.sequence_bias, Mapping):  # JSON has no tuples as keys; transformers' other form has none
            content["sequence_bias"] = [[list(ids), bias] for ids, bias in self.sequence_bias.items()]
        return content

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], **options: Any) -> GenerationConfig:
        """Read the content of a ``generation_config.json``, as transformers does.

        What says nothing, such as null or ``min_length: -1``, is left out. A value that an argument may not have, such as
        ``temperature: 0.0``, is carried along, and is an error only for what would use it.

        Args:
            config_dict: Options and other content, which is carried along.
            **options: Win over `config_dict`.

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
        """The options in a model's ``config.json``, where older checkpoints have them.

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
                over those of the file.

        Raises:
            ModelNotFoundError: There is no such file.
            ConfigError: It is damaged.
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
        """Write a ``generation_config.json`` that transformers reads, too.

        Raises:
            InputError: Options contradict each other or make others idle.
        """
        from gptbigcode_cpu.common.files import write_file

        self.validate(strict=True)
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        write_file(directory / config_file_name, self.to_json_string())


def merged_options(*sources: Mapping[str, Any]) -> dict[str, Any]:
    """Options of several sources, later ones win; a `max_length` replaces the `max_new_tokens` of an earlier source."""
    merged: dict[str, Any] = {}
    for source in sources:
        if source.get("max_length") is not None:
            merged.pop("max_new_tokens", None)
        merged |= source
    return merged
