"""The base class of all models: opening, saving, and the properties of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from gptbigcode_cpu.common.device import Device
from gptbigcode_cpu.config import GPTBigCodeConfig
from gptbigcode_cpu.errors import InputError, UnsupportedError
from gptbigcode_cpu.models.embeddings import Embedding
from gptbigcode_cpu.models.inputs import refuse_unknown_inputs

# What reads files takes milliseconds to import: it is loaded by the first model.
if TYPE_CHECKING:
    from gptbigcode_cpu import _core
    from gptbigcode_cpu.models.parameters import Parameter
    from gptbigcode_cpu.store.weights import PackedModel

# Attributes of torch modules and trainable models, and why there are none here.
_ABSENT = {
    **dict.fromkeys(
        ("buffers", "modules", "named_modules", "children", "state_dict", "lm_head", "get_output_embeddings", "wte", "h"),
        "the weights are packed and mapped, not tensors; parameters() describes them, save_pretrained() copies them",
    ),
    **dict.fromkeys(("load_state_dict", "set_input_embeddings", "load_adapter"), "the weights are read-only"),
    **dict.fromkeys(
        ("gradient_checkpointing_enable", "enable_input_require_grads", "zero_grad", "backward"), "models are not trained here"
    ),
    **dict.fromkeys(
        ("register_forward_hook", "register_forward_pre_hook", "apply", "add_module"),
        "there are no modules; output_hidden_states=True returns what the blocks put out",
    ),
    "compile": "nothing is compiled when a model runs; leave the call out",
    "cuda": "this package computes on the CPU",
}


_NEUTRAL_FOR_SAVING = ("max_shard_size", "is_main_process", "save_peft_format")


class PreTrainedModel:
    """Base class of the models.

    Attributes:
        config: The checkpoint's configuration. What a call does by default (``use_cache``, ``pad_token_id``, ...) may be set;
            the sizes are those of the weights.
        dtype: Storage type of its weights.
        core: The compiled model.
        name_or_path: The argument of `from_pretrained`.
    """

    config_class: ClassVar[type[GPTBigCodeConfig]] = GPTBigCodeConfig
    base_model_prefix: ClassVar[str] = "transformer"
    main_input_name: ClassVar[str] = "input_ids"
    # The class whose from_pretrained opens such a model by its name.
    auto_class: ClassVar[str] = "AutoModel"

    def __init__(self, packed: PackedModel, core: _core.Model | None = None) -> None:
        """
        Args:
            packed: An opened converted model; models are made by `from_pretrained`.
            core: The compute core on its weights; default: a new one.

        Raises:
            UnsupportedError: A configuration is given, as transformers takes one for a model with random weights.
        """
        from gptbigcode_cpu.store.weights import PackedModel, load_core

        if not isinstance(packed, PackedModel):
            raise UnsupportedError(
                f"models are not trained here, so there are none with random weights: {type(self).__name__}"
                ".from_pretrained opens a trained one"
            )
        self.config: GPTBigCodeConfig = packed.config
        self.dtype: str = packed.dtype
        self.core: _core.Model = load_core(packed) if core is None else core
        self.name_or_path = packed.config.name_or_path
        self._packed = packed

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        dtype: Any = "auto",
        num_threads: int | None = None,
        prefill_threads: int | None = None,
        kv_dtype: Any = "auto",
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        gguf_file: str | None = None,
        config: GPTBigCodeConfig | None = None,
        **options: Any,
    ) -> Self:
        """Open a model. A plain checkpoint is quantised on first use and opened from a cache afterwards.

        Args:
            pretrained_model_name_or_path: A directory with a checkpoint or a converted model, a GGUF file, a Hub id, or
                ``"demo"`` for the tiny demonstration model inside this package.
            dtype: ``"int8"``, ``"int6"``, ``"int4"``, ``"bfloat16"``, ``"float32"`` or the torch dtype of that name;
                ``"auto"`` is what a converted model is stored in, and int8 for a plain checkpoint. In place of float16,
                bfloat16 is used, with a warning. Also called ``torch_dtype``; ``load_in_8bit``, ``load_in_4bit``
                and a `BitsAndBytesConfig` as ``quantization_config`` mean int8 and int4.
            num_threads: Default: the environment variable GPTBIGCODE_CPU_NUM_THREADS, or else what suits the machine: one per
                performance core, and fewer while other processes leave no room for all of them.
            prefill_threads: Threads for calls of more than 16 new tokens, such as prompts. They profit from threads that
                share a core (SMT), which single steps do not. Default: `num_threads`. The results are the same.
            kv_dtype: Storage type of the keys and values of past tokens: ``"int8"``, ``"bfloat16"``, ``"float16"``,
                ``"float32"`` or the torch dtype of that name; ``"auto"`` is int8 for integer weights, and the dtype of
                the others. A call that makes a key or value beyond float16's 65504 ends with an `InputError`.
            revision: Branch, tag or commit on the Hub.
            token: Access token for the Hub.
            cache_dir: Where downloads are kept.
            local_files_only: Do not use the network.
            gguf_file: Name of the GGUF file, in the directory or the repository, that holds the model.
            config: Takes the place of the checkpoint's configuration; it must describe the same weights.
            **options: Values of the configuration that decide what calls do: ``pad_token_id``, ``id2label``, ``use_cache``,
                ``output_hidden_states``, ...; ``subfolder`` and ``force_download``, for the Hub; and arguments of transformers
                that change nothing here, such as ``device_map="auto"``, ``trust_remote_code`` or ``low_cpu_mem_usage``.

        Raises:
            ModelNotFoundError: The name leads nowhere.
            ConfigError: The checkpoint asks for something that is not supported, or its weights are those of another class: a
                classifier writes no text, and a language model has no trained head for classes.
            CheckpointError: The checkpoint's tensors are not those of its configuration.
            FormatError: A converted model is damaged.
            InputError: An unknown or unsupported argument, dtype or kv_dtype, or a bad number of threads.
            KernelError: ``GPTBIGCODE_CPU_ISA`` names a kernel set that this CPU cannot run.
            ThreadLimitError: The operating system starts no more threads.
        """
        from gptbigcode_cpu.hub.source import Source
        from gptbigcode_cpu.models.loading import Loading, open_model
        from gptbigcode_cpu.store.weights import load_core

        source, options = Source.taken_from(
            {
                "revision": revision,
                "token": token,
                "cache_dir": cache_dir,
                "local_files_only": local_files_only,
                "gguf_file": gguf_file,
                **options,
            }
        )
        loading = Loading.from_arguments(
            dtype=dtype,
            num_threads=num_threads,
            prefill_threads=prefill_threads,
            kv_dtype=kv_dtype,
            config=config,
            options=options,
        )
        packed = open_model(pretrained_model_name_or_path, loading, cls._check_architecture, source)
        return cls._from_packed(packed, load_core(packed, loading.num_threads, loading.prefill_threads, loading.kv_dtype))

    @classmethod
    def _from_packed(cls, packed: PackedModel, core: _core.Model) -> Self:
        return cls(packed, core)

    @classmethod
    def _check_architecture(cls, config: GPTBigCodeConfig, directory: Path) -> None:
        """Refuse a checkpoint whose weights are those of another class, before it is converted."""

    @property
    def device(self) -> Device:
        """Always ``"cpu"``."""
        return Device("cpu")

    @property
    def training(self) -> bool:
        """Always False: models are not trained here, so dropout never acts."""
        return False

    @property
    def kv_dtype(self) -> str:
        """Storage type of keys and values."""
        return self.core.kv_dtype

    @property
    def num_threads(self) -> int:
        """Threads that compute steps of up to 16 tokens."""
        return self.core.num_threads

    @property
    def prefill_threads(self) -> int:
        """Threads that compute longer prompts."""
        return self.core.prefill_threads

    def eval(self) -> Self:
        """The model, which is always ready for inference."""
        return self

    def train(self, mode: bool = True) -> Self:
        """The model; only ``mode=False`` is possible.

        Raises:
            UnsupportedError: Training is asked for.
        """
        if mode:
            raise UnsupportedError("models are not trained here; train with transformers and convert the checkpoint")
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """The model; only ``requires_grad=False`` is possible.

        Raises:
            UnsupportedError: Gradients are asked for.
        """
        return self.train(requires_grad)

    def to(self, device: Any = None, dtype: Any = None) -> Self:
        """The model, for a device and a type that it has already.

        Raises:
            UnsupportedError: Another device, or another type than that of the weights.
        """
        from gptbigcode_cpu.common.dtypes import DTYPES
        from gptbigcode_cpu.store.precision import plain_name

        for value in (device, dtype):
            name = plain_name(value) if value is not None else None
            name = "bfloat16" if name == "float16" else name  # as in from_pretrained
            if name in (None, self.dtype) or str(value) in ("cpu", "cpu:0"):
                continue
            if name in ("auto", *DTYPES) or str(value).startswith("torch."):
                raise UnsupportedError(f"this model is stored as {self.dtype}; for {name} pass dtype= to from_pretrained")
            raise UnsupportedError(f"this package computes on the CPU, not on {str(value)!r}")
        return self

    def cpu(self) -> Self:
        """The model, which is on the CPU."""
        return self

    def float(self) -> Self:
        """`to` float32."""
        return self.to(dtype="float32")

    def bfloat16(self) -> Self:
        """`to` bfloat16."""
        return self.to(dtype="bfloat16")

    def half(self) -> Self:
        """`to` bfloat16, which is taken for float16."""
        return self.to(dtype="bfloat16")

    @property
    def base_model(self) -> PreTrainedModel:
        """The model without its head."""
        base: PreTrainedModel = vars(self).get(self.base_model_prefix, self)
        return base

    def can_generate(self) -> bool:
        """Whether it has `generate`."""
        return hasattr(self, "generate")

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Weights of the model, tied ones counted once.

        Args:
            only_trainable: Count what can be trained: nothing.
            exclude_embeddings: Leave out the token and position embeddings.
        """
        if only_trainable:
            return 0
        embeddings = ("transformer.wte.weight", "transformer.wpe.weight") if exclude_embeddings else ()
        return sum(parameter.numel() for name, parameter in self.named_parameters() if name not in embeddings)

    def parameters(self) -> Iterator[Parameter]:
        """The weights, tied ones once: their shapes and types, and not their values."""
        return (parameter for _, parameter in self.named_parameters())

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """The same with their names in a checkpoint."""
        from gptbigcode_cpu.models.parameters import Parameter
        from gptbigcode_cpu.store.tensors import decoder_tensors, head_tensors

        heads = head_tensors(self.config)
        names = self._heads() - ({"lm_head.weight"} if self.config.tie_word_embeddings else set())
        for spec in (*decoder_tensors(self.config), *(heads[name] for name in sorted(names, reverse=True))):
            yield spec.name, Parameter(spec.name, tuple(spec.shape), self.dtype)

    def resize_token_embeddings(self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None) -> Embedding:
        """The token embedding; only the size that it has is possible.

        Raises:
            UnsupportedError: Another size is asked for.
        """
        size = self.config.vocab_size
        multiple = pad_to_multiple_of or 1
        if -(-(size if new_num_tokens is None else new_num_tokens) // multiple) * multiple != size:
            raise UnsupportedError(
                f"the weights are read-only, with {size} token embeddings; a pad token needs none, so leave this call out"
            )
        return self.get_input_embeddings()

    def tie_weights(self) -> None:
        """Do nothing: tied weights are one."""

    def gradient_checkpointing_disable(self) -> None:
        """Do nothing: models are not trained here."""

    def _heads(self) -> frozenset[str]:
        """Names of the head tensors that this class uses."""
        return frozenset()

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Bytes of the mapped weights; there are no buffers."""
        return self._packed.nbytes

    def get_input_embeddings(self) -> Embedding:
        """The token embedding: called with ids, it gives `inputs_embeds`."""
        return Embedding(self._packed, self.core)

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        safe_serialization: bool = True,
        **options: Any,
    ) -> None:
        """Copy the converted model: weights, ``config.json`` with the changes made since loading, and the generation options.

        Every file appears complete or not at all; weights are hard-linked where the file system allows it, which takes no room.
        `from_pretrained` opens the copy with equal results. The tokenizer has a `save_pretrained` of its own.

        Args:
            save_directory: Created if need be.
            push_to_hub: Upload as well, see `push_to_hub`.
            repo_id: For `push_to_hub`; default: the name of the directory.
            safe_serialization: Only True: the format is safetensors.
            **options: Further arguments of `push_to_hub`; and ``max_shard_size``, ``is_main_process`` and ``save_peft_format``
                of transformers, which change nothing: the weights are one file.

        Raises:
            InputError: `save_directory` is a file, or an unknown or unsupported argument.
            OSError: It cannot be written.
        """
        from gptbigcode_cpu.store.saving import save_model

        options = {name: value for name, value in options.items() if name not in _NEUTRAL_FOR_SAVING}
        refuse_unknown_inputs(
            {} if push_to_hub else options, ("save_directory", "push_to_hub", "repo_id", "safe_serialization")
        )
        if not safe_serialization:
            raise InputError("safe_serialization must be True: converted models are safetensors files")
        save_model(self._packed, self.config, self._generation_options(), Path(save_directory))
        if push_to_hub:
            self.push_to_hub(repo_id or Path(save_directory).name, **options)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Upload the converted model to the Hugging Face Hub; the repository is created if need be.

        Args:
            repo_id: ``owner/name``, or a name of the token's owner.
            commit_message: Default: ``"Upload model"``.
            private: Whether a new repository is private; default: as the owner's account says.
            token: Access token; default: the stored one.
            revision: Branch to commit to.
            create_pr: Open a pull request instead.

        Returns:
            The address of the commit, or of the pull request.

        Raises:
            InputError: The Hub refused or was not reached; the message says why.
        """
        from gptbigcode_cpu.hub.uploads import upload

        return upload(
            lambda directory: self.save_pretrained(directory),
            repo_id,
            commit_message=commit_message or "Upload model",
            private=private,
            token=token,
            revision=revision,
            create_pr=create_pr,
        )

    def _generation_options(self) -> Mapping[str, Any] | None:
        """The content of the ``generation_config.json`` that is saved; None for models that do not generate."""
        return None

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(name_or_path={self.name_or_path!r}, parameters={self.num_parameters()}, "
            f"dtype={self.dtype!r}, kv_dtype={self.kv_dtype!r}, num_threads={self.num_threads})"
        )

    def __getattr__(self, name: str) -> Any:  # Python calls it only for attributes that do not exist
        if name in _ABSENT:
            raise UnsupportedError(f"{type(self).__name__} has no {name}: {_ABSENT[name]}")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
