"""The commands of docs/quickstart.md run as written, with less training, and write what the page says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from ranking_worlds import heedful

PAGE = Path(__file__).parents[1] / "docs" / "quickstart.md"


def test_the_commands_run(tmp_path: Path) -> None:
    block = re.search(r"<!-- commands.*?```\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block is not None
    lines = block.group(1).splitlines()
    assert len(lines) == 6
    (tmp_path / "few.toml").write_text(
        "[embed]\nepochs = 1\n[train]\nsteps = 10\n[averaging]\nsteps = 10\n"
        "[mixed]\nsteps = 10\nstage_windows = 1\nstage_users = 200\n"
    )
    for line in lines:
        command, *arguments = shlex.split(line)
        assert command == "heedful"
        arguments += ["--config", "few.toml"] if arguments[0] in ("embed", "train", "evaluate") else []
        done = heedful(*arguments, cwd=tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert (tmp_path / "model" / "manifest.json").exists()
    assert (tmp_path / "report" / "report.html").exists()
