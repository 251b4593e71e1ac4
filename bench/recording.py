"""Write docs/demo.svg, the picture in the README: what commands print, word by word, as in a terminal.

The commands are run, so the picture shows their real output; only its speed is made up, because the demonstration model writes
a line in a few milliseconds. The test suite runs them again and compares.

    python bench/recording.py docs/demo.svg
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

# Each with what is new in its output: behind the prompt, or in the gap.
COMMANDS = (
    ("gptbigcode-cpu generate --stop $'\\n\\n' \\\n    \"def fibonacci(n):\"", "def fibonacci(n):", ""),
    (
        "gptbigcode-cpu generate --fill \\\n    $'def gcd(a, b):\\n    while b:<cursor>\\n    return a'",
        "def gcd(a, b):\n    while b:",
        "\n    return a",
    ),
)

_LINE, _LEFT, _TOP, _WIDTH = 20, 20, 62, 520
_KEY_S, _WORD_S, _PAUSE_S = 0.03, 0.09, 0.8
_STYLE = """\
text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:#c9d1d9;white-space:pre}
.c{fill:#e6edf3;font-weight:600}.p{fill:#3fb950}.n{fill:#79c0ff}
tspan{animation:a 1ms step-end backwards}@keyframes a{from{visibility:hidden}}
@media(prefers-reduced-motion:reduce){tspan{animation:none}}"""


@dataclass
class Screen:
    """What is on the terminal: lines of pieces, each with the time when it appears."""

    lines: list[list[str]] = field(default_factory=lambda: [[]])
    clock: float = 0.4

    def write(self, text: str, kind: str, pause: float) -> None:
        """Add a text, a word after the other."""
        for piece in re.findall(r"\n|[^\S\n]*[^\s]+|[^\S\n]+", text):
            if piece == "\n":
                self.lines.append([])
                continue
            self.lines[-1].append(
                f'<tspan class="{kind}" style="animation-delay:{self.clock:.2f}s">{escape(piece, quote=False)}</tspan>'
            )
            self.clock += pause


def picture() -> str:
    """The picture, as SVG."""
    screen = Screen()
    for number, (command, before, after) in enumerate(COMMANDS):
        words = ["bash", "-c", command]
        output = subprocess.run(words, capture_output=True, text=True, check=True).stdout.rstrip("\n")
        assert output.startswith(before) and output.endswith(after), output
        if number:
            screen.write("\n\n", "o", 0)
        screen.write("$ ", "p", 0)
        screen.write(command, "c", _KEY_S * 8)
        screen.clock += _PAUSE_S
        screen.write(f"\n{before}", "o", 0)
        screen.write(output[len(before) : len(output) - len(after)], "n", _WORD_S)
        screen.write(after, "o", 0)
        screen.clock += _PAUSE_S
    height = _TOP + _LINE * len(screen.lines)
    rows = [
        f'<text x="{_LEFT}" y="{_TOP + _LINE * number}" xml:space="preserve">{"".join(line)}</text>'
        for number, line in enumerate(screen.lines)
        if line
    ]
    lights = [
        f'<circle cx="{24 + 20 * number}" cy="22" r="6" fill="{colour}"/>'
        for number, colour in enumerate(("#ff5f57", "#febc2e", "#28c840"))
    ]
    size = f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    label = "A terminal in which gptbigcode-cpu completes a function and fills a gap"
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{label}">',
        f"<style>{_STYLE}</style>",
        f'<rect width="{_WIDTH}" height="{height}" rx="10" fill="#0d1117"/>',
        *lights,
        *rows,
        "</svg>\n",
    ])  # fmt: skip


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(picture(), encoding="utf-8")
