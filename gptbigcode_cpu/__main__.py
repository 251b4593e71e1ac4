"""``python -m gptbigcode_cpu`` is the ``gptbigcode-cpu`` command."""

from __future__ import annotations

from gptbigcode_cpu.cli import main

if __name__ == "__main__":
    main()
