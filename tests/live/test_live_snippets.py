"""Everyday scripts for transformers (tests/snippets), run with both libraries: only the import and the models change."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gptbigcode_cpu
from gptbigcode_cpu.models import loading

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.live, pytest.mark.filterwarnings("default")]  # their warnings are not ours to fix
TESTS = Path(__file__).resolve().parents[1]
SNIPPET = re.compile(r"^## (.+?)( \(shapes\))?\n\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# The models that snippets name, and what stands for them here.
MODELS = {
    "bigcode/tiny_starcoder_py": "writer",
    "bigcode/santacoder": "writer",
    "openai-community/gpt2": "writer",
    "gpt2": "writer",
    "HuggingFaceH4/starchat-alpha": "chatter",
    "someone/starcoder-classifier": "classifier",
    "bigcode/starpii": "tagger",
}
CHAT = (
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}<|endoftext|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def snippets() -> Iterator[Any]:
    for page in sorted((TESTS / "snippets").glob("*.md")):
        for name, shapes, code in SNIPPET.findall(page.read_text(encoding="utf-8")):
            yield pytest.param(code, bool(shapes), id=f"{page.stem}: {name}")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[..., Path]) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    sizes = {"n_positions": 512}
    tagger = {"architectures": ["GPTBigCodeForTokenClassification"], "id2label": {"0": "O", "1": "B-NAME", "2": "I-NAME"}}
    found = {
        "writer": make_checkpoint(root / "writer", **sizes),
        "chatter": make_checkpoint(root / "chatter", seed=1, **sizes),
        "classifier": make_checkpoint(
            root / "classifier", architectures=["GPTBigCodeForSequenceClassification"], pad_token_id=4, **sizes
        ),
        "tagger": make_checkpoint(root / "tagger", **tagger, num_labels=3, **sizes),
    }
    (found["chatter"] / "chat_template.jinja").write_text(CHAT)
    config = json.loads((found["tagger"] / "config.json").read_text())
    config["label2id"] = {name: int(number) for number, name in config["id2label"].items()}
    (found["tagger"] / "config.json").write_text(json.dumps(config))
    return found


@pytest.fixture(autouse=True)
def as_a_script(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Exact weights, so that both libraries compute the same; one conversion for all snippets."""
    monkeypatch.setattr(loading, "DEFAULT_DTYPE", "float32")
    monkeypatch.setenv("GPTBIGCODE_CPU_CACHE", str(tmp_path_factory.getbasetemp() / "snippets-cache"))
    monkeypatch.setenv("GPTBIGCODE_CPU_NUM_THREADS", "1")
    before = torch.is_grad_enabled(), transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    yield
    torch.set_grad_enabled(before[0])
    transformers.logging.set_verbosity(before[1])


def run(code: str, library: str, models: Mapping[str, Path], directory: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """What a snippet leaves in `result`, and what it prints."""
    for name, kind in MODELS.items():
        code = code.replace(f'"{name}"', repr(str(models[kind])))
    code = re.sub(r"\btransformers\b", library, code)
    directory.mkdir()
    namespace: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        capsys.readouterr()
        exec(compile(code, f"<{library}>", "exec"), namespace)
    return plain(namespace["result"]), capsys.readouterr().out


def plain(value: Any) -> Any:
    """Arrays, tensors and outputs as nested lists and dicts."""
    if isinstance(value, np.generic):
        return value.item()
    if hasattr(value, "detach") or isinstance(value, np.ndarray):
        return np.asarray(value.detach().float() if hasattr(value, "detach") and value.is_floating_point() else value)
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def assert_alike(ours: Any, theirs: Any, shapes: bool) -> None:
    """Equal texts, numbers and integers, and close floating-point numbers; or if only `shapes` matter, of the same form."""
    if isinstance(theirs, np.ndarray):
        assert isinstance(ours, np.ndarray)
        assert (ours.shape, ours.dtype.kind) == (theirs.shape, theirs.dtype.kind)
        if not shapes:
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
        return
    if isinstance(theirs, Mapping):
        assert set(ours) == set(theirs)
        for name in theirs:
            assert_alike(ours[name], theirs[name], shapes)
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_alike(one, other, shapes)
    elif shapes:
        assert type(ours) is type(theirs)
    else:
        assert ours == (pytest.approx(theirs, rel=1e-3, abs=1e-4) if isinstance(theirs, float) else theirs)


@pytest.mark.parametrize(("code", "shapes"), [*snippets()])
def test_only_the_import_changes(
    code: str, shapes: bool, models: Mapping[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs, their_text = run(code, "transformers", models, tmp_path / "theirs", capsys)
    ours, our_text = run(code, gptbigcode_cpu.__name__, models, tmp_path / "ours", capsys)
    assert_alike(ours, theirs, shapes)
    if not shapes:
        assert our_text == their_text


def test_there_are_snippets() -> None:
    assert len(list(snippets())) >= 49
