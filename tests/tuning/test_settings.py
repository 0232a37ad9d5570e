"""Settings files: what is written is read back, and what cannot be meant is refused with what could be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from heedful.embeddings.skipgram import SkipGramConfig
from heedful.errors import ConfigError, HeedfulError, InputError
from heedful.rankers.attention import AttentionConfig
from heedful.tuning.settings import read_section, to_toml

SETTINGS: dict[str, dict[str, Any]] = {
    "embed": {"window": 7, "subsample": 1e-05, "negative_exponent": -0.25, "kinds": ("a", 'with "quotes" and \\')},
    "train": {
        "terms": ("attention", "user_tower"),
        "scale": 2.0,
        "split": "last_items",
        "learning_rate": 3e-4,
        "target_kinds": (),
    },
}


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(to_toml(SETTINGS, comment="two\nlines"))
    assert file.read_text().startswith("# two\n# lines\n\n[embed]\nwindow = 7\n")
    assert read_section(file, "embed", [SkipGramConfig]) == SETTINGS["embed"]
    assert read_section(file, "train", [AttentionConfig]) == SETTINGS["train"]
    AttentionConfig(**SETTINGS["train"])


def test_proposed_options_change_nothing_until_the_marks_are_removed(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(to_toml({"train": {"depth": 1}}, comment="c", proposed=SETTINGS))
    assert read_section(file, "embed", [SkipGramConfig]) == {}
    assert read_section(file, "train", [AttentionConfig]) == {"depth": 1}
    file.write_text(file.read_text().replace("# c\n", "").replace("# ", ""))
    assert read_section(file, "embed", [SkipGramConfig]) == SETTINGS["embed"]
    assert read_section(file, "train", [AttentionConfig]) == {"depth": 1, **SETTINGS["train"]}


def test_whole_numbers_do_where_numbers_are_meant(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text("[train]\nscale = 2\n")
    scale = read_section(file, "train", [AttentionConfig])["scale"]
    assert scale == 2.0 and isinstance(scale, float)
    assert read_section(file, "embed", [SkipGramConfig]) == {}


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("[embed", InputError, ["s.toml cannot be read", "a TOML file"]),
        ("[embd]\nwindow = 3", ConfigError, ["unknown sections of", "got: embd", "some of embed, train"]),
        ("[embed]\nwindows = 3", ConfigError, ["unknown options in [embed]", "got: windows", "width, window"]),
        ("[embed]\nwindow = '3'", ConfigError, ["[embed] window has a value of the wrong type", "'3'", "expected: int"]),
        ("[embed]\nwindow = true", ConfigError, ["wrong type", "got: True", "expected: int"]),
        ("[embed]\nwindow = 3.0", ConfigError, ["wrong type", "got: 3.0", "expected: int"]),
        ("[embed]\ndynamic_window = 1", ConfigError, ["wrong type", "expected: bool"]),
        ("[embed]\nkinds = 'view'", ConfigError, ["wrong type", "got: 'view'", "expected: a list of str"]),
        ("[embed]\nkinds = ['view', 3]", ConfigError, ["wrong type", "expected: a list of str"]),
        ("embed = 3", ConfigError, ["'embed' in", "is not a section"]),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, error: type[HeedfulError], words: list[str]) -> None:
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(error) as raised:
        read_section(tmp_path / "s.toml", "embed", [SkipGramConfig])
    assert all(word in str(raised.value) for word in words), raised.value


def test_a_choice_is_checked(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("[train]\nsplit = 'never'")
    with pytest.raises(ConfigError, match="expected: 'random_time' or 'last_items'"):
        read_section(tmp_path / "s.toml", "train", [AttentionConfig])


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.toml cannot be read"):
        read_section(tmp_path / "none.toml", "train", [AttentionConfig])
