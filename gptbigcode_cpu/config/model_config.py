"""The configuration of a GPTBigCode model, as in transformers, but checked whenever a value is set.

A key either changes what the model computes, and is then honoured or refused with the reason, or it does not, and is then
carried along untouched (dropout rates, initialisation).
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from gptbigcode_cpu.common.file_names import CONFIG
from gptbigcode_cpu.common.json_files import read_object
from gptbigcode_cpu.common.messages import shown
from gptbigcode_cpu.common.regular_files import is_present
from gptbigcode_cpu.common.suggest import nearest
from gptbigcode_cpu.config.checks import CHECKS, MODEL_TYPE, full_attention, label_count
from gptbigcode_cpu.config.gpt2 import GPT2, gpt_bigcode_content
from gptbigcode_cpu.config.reading import as_read
from gptbigcode_cpu.errors import ConfigError, InputError, ModelNotFoundError

# What a configuration says if nobody says anything else. None for n_inner: 4 * n_embd.
DEFAULTS: dict[str, Any] = {
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_inner": None,
    "activation_function": "gelu_pytorch_tanh",
    "resid_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "attn_pdrop": 0.1,
    "layer_norm_epsilon": 1e-5,
    "initializer_range": 0.02,
    "scale_attn_weights": True,
    "use_cache": True,
    "bos_token_id": 50256,
    "eos_token_id": 50256,
    "pad_token_id": None,
    "attention_softmax_in_fp32": True,
    "scale_attention_softmax_in_fp32": True,
    "multi_query": True,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
    "architectures": ["GPTBigCodeForCausalLM"],
    "output_hidden_states": False,
    "output_attentions": False,
    "return_dict": True,
    "problem_type": None,
    "quantization_config": None,
}
# Keys that are written only if they say something, since transformers has the same defaults for every model.
_OF_EVERY_MODEL = ("output_hidden_states", "output_attentions", "return_dict", "problem_type", "quantization_config")


class GPTBigCodeConfig:
    """Everything about a GPTBigCode model that is not a weight.

    Keywords, attributes and defaults are those of transformers; other keywords are kept as attributes, so that a configuration
    survives being read and written. Every value is checked when it is set. What a loaded model computes with is fixed by its
    file: setting a size of ``model.config`` changes no weight.

    Args:
        **options: Values that differ from the defaults, also by their other names (`attribute_map`) and with ``num_labels``.

    Attributes:
        vocab_size: Tokens.
        n_positions: Longest sequence. Other name: ``max_position_embeddings``.
        n_embd: Width of the residual stream. Other name: ``hidden_size``.
        n_layer: Blocks. Other name: ``num_hidden_layers``.
        n_head: Query heads. Other name: ``num_attention_heads``.
        n_inner: Width of the MLP; given as None it is ``4 * n_embd``.
        activation_function: Of the MLP.
        layer_norm_epsilon: Added to the variance.
        scale_attn_weights: Divide attention's scores by the square root of the head's width.
        multi_query: All query heads share one key and value head.
        tie_word_embeddings: The LM head is the token embedding.
        bos_token_id: Begins a text.
        eos_token_id: Ends a text; one id or a list.
        pad_token_id: Fills a batch; sequence classification looks for the last other token.
        architectures: Names of the classes whose weights these are.
        id2label: Label number -> name, for classifiers.
        label2id: The reverse.
        problem_type: Which loss a sequence classifier has: ``"regression"``, ``"single_label_classification"``,
            ``"multi_label_classification"``, or None: the labels of a call decide.
        use_cache: Calls of the model return a cache unless they say otherwise.
        output_hidden_states: Calls return hidden states unless they say otherwise.
        output_attentions: Calls return attention probabilities unless they say otherwise.
        return_dict: Calls return an object and not a tuple unless they say otherwise.
        quantization_config: How the weights of a converted model are stored.
        name_or_path: The argument of `from_pretrained`; not written to files.

    Raises:
        ConfigError: A value has the wrong type, is out of range, or asks for something that is not supported.

    Example:
        >>> config = GPTBigCodeConfig(hidden_size=64, n_head=4, n_layer=2, num_labels=3)
        >>> config.n_embd, config.n_inner, config.id2label[2]
        (64, 256, 'LABEL_2')
    """

    model_type: ClassVar[str] = MODEL_TYPE
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
        "torch_dtype": "dtype",
    }

    vocab_size: int
    n_positions: int
    n_embd: int
    n_layer: int
    n_head: int
    n_inner: int
    activation_function: str
    layer_norm_epsilon: float
    scale_attn_weights: bool
    multi_query: bool
    tie_word_embeddings: bool
    bos_token_id: int | None
    eos_token_id: int | list[int] | None
    pad_token_id: int | None
    architectures: list[str]
    id2label: dict[int, str]
    label2id: dict[str, int]
    problem_type: str | None
    use_cache: bool
    output_hidden_states: bool
    output_attentions: bool
    return_dict: bool
    quantization_config: dict[str, Any] | None

    def __init__(self, /, **options: Any) -> None:
        given = dict(options)
        if given.pop("model_type", MODEL_TYPE) != MODEL_TYPE:
            raise ConfigError(_other_model_type(options["model_type"]))
        for alias, key in self.attribute_map.items():
            if alias in given:
                value = given.pop(alias)
                if given.setdefault(key, value) != value:
                    raise ConfigError(f"{key} is {shown(given[key])}, but its other name {alias} says {shown(value)}")
        given = DEFAULTS | given
        if given["architectures"] is None:
            given["architectures"] = DEFAULTS["architectures"]
        self.n_embd = given.pop("n_embd")
        if given["n_inner"] is None:
            given["n_inner"] = 4 * self.n_embd
        self.name_or_path: str = str(given.pop("name_or_path", ""))
        labels, inverse, count = (given.pop(key, None) for key in ("id2label", "label2id", "num_labels"))
        if labels is None:
            self.num_labels = 2 if count is None else count
        else:
            self.id2label = labels
            if count not in (None, len(self.id2label)):
                raise ConfigError(f"num_labels is {shown(count)}, but id2label names {len(self.id2label)} labels")
            self.label2id = {name: label for label, name in self.id2label.items()}
        if inverse is not None:
            self.label2id = inverse
        for key, value in given.items():
            if isinstance(getattr(type(self), key, None), property):
                continue  # follows from the other values, such as num_key_value_heads
            if hasattr(type(self), key):
                raise ConfigError(f"{shown(key)} cannot be a key of a configuration")
            setattr(self, key, value)
        if self.n_embd % self.n_head:
            raise ConfigError(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")
        full_attention(vars(self), self.n_positions)
        if self.problem_type == "single_label_classification" and self.num_labels == 1:
            raise ConfigError("problem_type single_label_classification needs at least two labels; for one use regression")

    def __setattr__(self, key: str, value: Any) -> None:
        key = self.attribute_map.get(key, key)
        check = CHECKS.get(key)
        object.__setattr__(self, key, copy.deepcopy(value) if check is None else check(key, value))

    def __getattr__(self, key: str) -> Any:  # Python calls it only for attributes that do not exist
        if key in type(self).attribute_map:
            return getattr(self, type(self).attribute_map[key])
        raise AttributeError(f"this configuration has no {key!r}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GPTBigCodeConfig) and self.to_dict() == other.to_dict()

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.n_embd // self.n_head

    @property
    def n_kv_head(self) -> int:
        """Key and value heads: one that all query heads share, or one for each."""
        return 1 if self.multi_query else self.n_head

    @property
    def num_key_value_heads(self) -> int:
        """`n_kv_head` under the name that transformers gives it."""
        return self.n_kv_head

    @property
    def is_encoder_decoder(self) -> bool:
        """Always False: there is no encoder."""
        return False

    @property
    def _name_or_path(self) -> str:
        """`name_or_path`, as older scripts call it."""
        return self.name_or_path

    @property
    def use_return_dict(self) -> bool:
        """`return_dict`."""
        return self.return_dict

    @property
    def attention_scale(self) -> float:
        """Factor on the attention scores."""
        return 1.0 / math.sqrt(self.head_dim) if self.scale_attn_weights else 1.0

    @property
    def num_labels(self) -> int:
        """Outputs of a classification head. Setting it to another number names the labels ``LABEL_0``, ``LABEL_1``, ..."""
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, value: int) -> None:
        count = label_count("num_labels", value)
        if "id2label" not in vars(self) or count != self.num_labels:
            self.id2label = {label: f"LABEL_{label}" for label in range(count)}
            self.label2id = {name: label for label, name in self.id2label.items()}

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> GPTBigCodeConfig:
        """Read the configuration of a model; no weights are downloaded.

        Args:
            pretrained_model_name_or_path: A directory with a ``config.json``, that file, a GGUF file, a Hub id, or ``"demo"``.
            **options: ``revision``, ``token``, ``cache_dir``, ``gguf_file``, ... as for models, ``trust_remote_code``, which
                changes nothing, and values that replace those of the file.

        Returns:
            The configuration.

        Raises:
            ModelNotFoundError: The name leads nowhere.
            ConfigError: The file is malformed, or a value is wrong.
            CheckpointError: A GGUF file is malformed or holds another kind of model.
            InputError: A value is given for a key that the configuration does not have.
        """
        from gptbigcode_cpu.hub.paths import resolve
        from gptbigcode_cpu.hub.source import Source

        source, options = Source.taken_from(options)
        options.pop("trust_remote_code", None)  # no code is downloaded
        if Path(pretrained_model_name_or_path).name == CONFIG:
            config = cls.from_json_file(pretrained_model_name_or_path)
        else:
            config = read_config(resolve(pretrained_model_name_or_path, source, weights=False))
        config.name_or_path = str(pretrained_model_name_or_path)
        config.update(options)
        return config

    @classmethod
    def from_json_file(cls, json_file: str | Path) -> GPTBigCodeConfig:
        """Read a ``config.json``.

        Raises:
            ModelNotFoundError: There is no such file, or it cannot be read.
            ConfigError: It is not JSON, or see `from_dict`.
        """
        path = Path(json_file)
        content = read_object(path, ConfigError, unreadable=ModelNotFoundError)
        if content is None:
            raise ModelNotFoundError(f"{path} does not exist; a model directory holds a config.json")
        try:
            return cls.from_dict(content)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any]) -> GPTBigCodeConfig:
        """Check the content of a ``config.json``, which must name its ``model_type``.

        What changes nothing is not refused, as in transformers. That of a GPT-2 model becomes the configuration of the same
        GPTBigCode model.

        Raises:
            ConfigError: A value has the wrong type, is out of range, or asks for something that is not supported.
        """
        if not isinstance(config_dict, Mapping):
            raise ConfigError(f"a configuration is a JSON object, not {type(config_dict).__name__}")
        if config_dict.get("model_type") == GPT2:
            config_dict = gpt_bigcode_content(config_dict)
        if config_dict.get("model_type") != MODEL_TYPE:
            raise ConfigError(_other_model_type(config_dict.get("model_type")))
        return cls(**as_read(config_dict))

    def update(self, config_dict: Mapping[str, Any]) -> None:
        """Set several values.

        Raises:
            ConfigError: A value is wrong.
            InputError: The configuration has no such key; the message names the nearest one.
        """
        known = {*vars(self), *self.attribute_map, "num_labels"}
        for key, value in config_dict.items():
            if key not in known:
                raise InputError(f"unknown option {shown(key)}{nearest(key, known)}")
            setattr(self, key, value)

    def to_dict(self) -> dict[str, Any]:
        """The content of a ``config.json`` that `from_dict` reads back to an equal configuration."""
        content = copy.deepcopy(vars(self))
        del content["name_or_path"]
        content["model_type"] = MODEL_TYPE
        for key in _OF_EVERY_MODEL:
            if content[key] == DEFAULTS[key]:
                del content[key]
        labels, inverse = content.pop("id2label"), content.pop("label2id")
        if labels != {0: "LABEL_0", 1: "LABEL_1"} or inverse != {"LABEL_0": 0, "LABEL_1": 1}:
            content["id2label"] = {str(label): name for label, name in labels.items()}
            content["label2id"] = inverse
        return dict(sorted(content.items()))

    def to_diff_dict(self) -> dict[str, Any]:
        """The part of `to_dict` that differs from the defaults, and ``model_type``."""
        defaults = GPTBigCodeConfig().to_dict()
        del defaults["model_type"]
        if self.n_inner == 4 * self.n_embd:
            defaults["n_inner"] = self.n_inner
        return {key: value for key, value in self.to_dict().items() if key not in defaults or value != defaults[key]}

    def to_json_string(self, use_diff: bool = True) -> str:
        """`to_diff_dict`, or with ``use_diff=False`` `to_dict`, as JSON."""
        return json.dumps(self.to_diff_dict() if use_diff else self.to_dict(), indent=2, sort_keys=True) + "\n"

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write ``config.json`` into a directory, which is created if need be."""
        from gptbigcode_cpu.common.files import write_file

        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        write_file(directory / CONFIG, self.to_json_string(use_diff=False))


# The names of its base class in transformers 5 and before.
PreTrainedConfig = PretrainedConfig = GPTBigCodeConfig


def read_config(path: Path) -> GPTBigCodeConfig:
    """The configuration of a model that `gptbigcode_cpu.hub.paths.resolve` found.

    Raises:
        ModelNotFoundError: There is no ``config.json``, or a part of a split GGUF file is missing.
        ConfigError: It is malformed, or asks for something that is not supported.
        CheckpointError: A GGUF file is malformed or holds another kind of model.
    """
    from gptbigcode_cpu.hub.paths import is_gguf

    if not is_gguf(path):
        if path.is_dir() and not is_present(path / CONFIG):
            raise ModelNotFoundError(
                f"{path} holds no model: there is neither a config.json nor a .gguf file{_models_below(path)}"
            )
        return GPTBigCodeConfig.from_json_file(path / CONFIG)
    from gptbigcode_cpu.config.gguf import check_attention, config_content, open_gguf

    model = open_gguf(path)
    content = config_content(model)
    try:
        config = GPTBigCodeConfig.from_dict(content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    check_attention(model, config)
    return config


def _models_below(directory: Path) -> str:
    """A half-sentence that names the models in a directory's subdirectories."""
    try:
        found = sorted(str(path.parent) for path in directory.glob(f"*/{CONFIG}"))
    except OSError:
        return ""
    return f"; did you mean {' or '.join(found[:3])}?" if found else ""


def _other_model_type(model_type: object) -> str:
    hint = "; StarCoder2 is another architecture" if model_type == "starcoder2" else ""
    return f"model_type is {shown(model_type)}, this package runs {MODEL_TYPE!r} and {GPT2!r} models{hint}"
