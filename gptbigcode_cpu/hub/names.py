"""Short names of well-known models, and the error message for a name that leads nowhere."""

from __future__ import annotations

from typing import Final

from gptbigcode_cpu.common.suggest import nearest

SHORT_NAMES: Final = {
    "santacoder": "bigcode/gpt_bigcode-santacoder",
    "tiny_starcoder_py": "bigcode/tiny_starcoder_py",
    "starcoderbase-1b": "bigcode/starcoderbase-1b",
    "starcoderbase-3b": "bigcode/starcoderbase-3b",
    "starcoderbase-7b": "bigcode/starcoderbase-7b",
    "starcoderbase": "bigcode/starcoderbase",
    "starcoder": "bigcode/starcoder",
    "starcoderplus": "bigcode/starcoderplus",
    "starchat-alpha": "HuggingFaceH4/starchat-alpha",
    "starchat-beta": "HuggingFaceH4/starchat-beta",
    "octocoder": "bigcode/octocoder",
    "wizardcoder": "WizardLMTeam/WizardCoder-15B-V1.0",
    "wizardcoder-15b": "WizardLMTeam/WizardCoder-15B-V1.0",
    "wizardcoder-3b": "WizardLMTeam/WizardCoder-3B-V1.0",
    "wizardcoder-1b": "WizardLMTeam/WizardCoder-1B-V1.0",
    "sqlcoder": "defog/sqlcoder",
    "granite-20b-code-base": "ibm-granite/granite-20b-code-base-8k",
    "granite-20b-code-instruct": "ibm-granite/granite-20b-code-instruct-8k",
    "gpt2": "openai-community/gpt2",
}
"""Short name -> id on the Hugging Face Hub. A directory or file of that name comes first."""


def not_found(name: str) -> str:
    """What is wrong with a name that is neither a path nor an id on the Hub, and what to write instead."""
    shown = name if len(name) < 200 and name.isprintable() and name.strip() else repr(name[:200])
    if "/" in name or name.startswith(("~", ".")):
        return f"no such file or directory: {shown}"
    near = nearest(name.lower(), ["demo", *SHORT_NAMES])
    return f"no such file or directory: {shown}; for the Hub write owner/name, such as bigcode/starcoderbase-1b{near}"
