"""The commands of docs/quickstart.md run as written, with fewer steps of training, and write what the page says."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "quickstart.md"


def test_the_commands_run(tmp_path: Path) -> None:
    block = re.search(r"<!-- commands.*?```\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block is not None
    lines = block.group(1).splitlines()
    assert len(lines) == 6
    (tmp_path / "few.toml").write_text(
        "[train]\nsteps = 30\n[averaging]\nsteps = 30\n[mixed]\nsteps = 30\nstage_windows = 1\n"
    )
    for line in lines:
        command, *arguments = shlex.split(line)
        assert command == "heedful"
        arguments += ["--config", "few.toml"] if arguments[0] in ("train", "evaluate") else []
        done = subprocess.run(
            [sys.executable, "-m", "heedful", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert (tmp_path / "model" / "manifest.json").exists()
    assert (tmp_path / "report" / "report.html").exists()
