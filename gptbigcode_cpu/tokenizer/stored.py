"""Load and save tokenizers in directories and on the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from gptbigcode_cpu.common.suggest import refuse_unknown
from gptbigcode_cpu.errors import TokenizerError
from gptbigcode_cpu.tokenizer import files
from gptbigcode_cpu.tokenizer.special_tokens import EXTRA_NAMES, OLD_EXTRA, OWN_ROLES, SPECIAL_NAMES

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Arguments of transformers that have no effect here.
_NEUTRAL = ("use_fast", "trust_remote_code", "legacy", "from_slow", "clean_up_tokenization_spaces", "config")


class StoredTokenizer:
    """Loading and saving of `GPTBigCodeTokenizer`."""

    backend: Tokenizer
    settings: dict[str, Any]
    padding_side: str
    truncation_side: str
    model_max_length: int
    chat_template: str | dict[str, str] | None
    _special: dict[str, str | None]
    _extra: list[str]

    if TYPE_CHECKING:

        def __init__(self, backend: Tokenizer, settings: dict[str, Any], name_or_path: str) -> None: ...

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        gguf_file: str | None = None,
        **settings: Any,
    ) -> Self:
        """Load the tokenizer of a directory, a GGUF file, a Hub id or ``"demo"``.

        Args:
            pretrained_model_name_or_path: The directory, file, id or ``"demo"``.
            revision: Branch, tag or commit on the Hub.
            token: Access token for the Hub.
            cache_dir: Directory for downloads.
            local_files_only: Do not use the network.
            gguf_file: Name of the GGUF file in the directory or repository that contains the tokenizer.
            **settings: Settings that replace those in ``tokenizer_config.json``: ``padding_side``, ``pad_token``,
                ``chat_template``, ...; ``subfolder`` and ``force_download``, for the Hub; and arguments of transformers that
                have no effect here, such as ``use_fast`` or ``trust_remote_code``.

        Raises:
            ModelNotFoundError: There is no such directory, file or repository.
            TokenizerError: ``tokenizer.json`` is missing or damaged, or the tokenizer in a GGUF file is damaged or
                not supported.
            CheckpointError: A GGUF file is damaged.
            InputError: A setting is unknown.
        """
        from gptbigcode_cpu.hub.paths import resolve
        from gptbigcode_cpu.hub.source import SOURCE_NAMES, Source

        source, settings = Source.taken_from(
            {
                "revision": revision,
                "token": token,
                "cache_dir": cache_dir,
                "local_files_only": local_files_only,
                "gguf_file": gguf_file,
                **settings,
            }
        )
        settings = {name: value for name, value in settings.items() if name not in _NEUTRAL}
        refuse_unknown(
            {name: value for name, value in settings.items() if name not in files.SETTINGS},
            [*files.SETTINGS, *SOURCE_NAMES, *_NEUTRAL],
            "from_pretrained of a tokenizer",
        )
        directory = resolve(pretrained_model_name_or_path, source, weights=False)
        backend, stored = files.read(directory, settings)
        try:
            return cls(backend, stored, str(pretrained_model_name_or_path))
        except TokenizerError as error:
            raise TokenizerError(f"{directory}: {error}") from error

    def save_pretrained(
        self, save_directory: str | Path, *, push_to_hub: bool = False, repo_id: str | None = None, **options: Any
    ) -> tuple[str, ...]:
        """Write ``tokenizer.json``, ``tokenizer_config.json`` and the chat templates.

        The default template goes to ``chat_template.jinja``, templates with names to ``additional_chat_templates/``.

        Args:
            save_directory: The directory; it is created if it does not exist.
            push_to_hub: Upload the files as well; see the method `push_to_hub`.
            repo_id: The repository for `push_to_hub`; default: the name of the directory.
            **options: Further arguments of `push_to_hub`.

        Returns:
            The paths of the files.

        Raises:
            InputError: `save_directory` is a file, an argument is unknown, or the name of a chat template is no file name.
            OSError: A file cannot be written.
        """
        refuse_unknown({} if push_to_hub else options, ("push_to_hub", "repo_id"), "save_pretrained")
        # Leave out settings that tokenizer.json contains: added tokens, and tokens before and after texts.
        told = {*SPECIAL_NAMES, *EXTRA_NAMES, *self._special, files.RECORDED, "add_bos_token", "add_eos_token"}
        settings: dict[str, Any] = {name: value for name, value in self.settings.items() if name not in told}
        settings |= {name: self._special[name] for name in SPECIAL_NAMES}
        settings[OWN_ROLES] = {name: token for name, token in self._special.items() if name not in SPECIAL_NAMES}
        settings[OLD_EXTRA] = self._extra  # transformers 4 and 5 both read this name
        settings |= {"padding_side": self.padding_side, "truncation_side": self.truncation_side}
        settings |= {"model_max_length": self.model_max_length, "chat_template": self.chat_template}
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"  # unlike GPT2Tokenizer, it uses tokenizer.json unchanged
        settings = {name: value for name, value in settings.items() if value not in (None, [], {})}
        paths = files.write(Path(save_directory), self.backend, settings)
        if push_to_hub:
            self.push_to_hub(repo_id or Path(save_directory).name, **options)
        return paths

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
        """Upload the files to the Hugging Face Hub; arguments, result and errors as of `GPTBigCodeForCausalLM.push_to_hub`."""
        from gptbigcode_cpu.hub.uploads import upload

        def save(directory: Path) -> None:
            self.save_pretrained(directory)

        return upload(
            save,
            repo_id,
            commit_message=commit_message or "Upload tokenizer",
            private=private,
            token=token,
            revision=revision,
            create_pr=create_pr,
        )
