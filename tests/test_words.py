"""The field's words: terms that nobody would search for are not used (docs/glossary.md has those that are)."""

from __future__ import annotations

import io
import itertools
import re
import tokenize
from pathlib import Path

import pytest

import heedful

PACKAGE = Path(heedful.__file__).parent
CLONE = Path(__file__).parents[1]
PAGES = [CLONE / "README.md", CLONE / "CONTRIBUTING.md", *sorted((CLONE / "docs").glob("*.md"))]
SOURCES = sorted(PACKAGE.rglob("*.py"))

BANNED = {
    r"judg(e|es|ed|ing)": "validate, validation users",
    r"hold-?outs?": "validation",
    r"assess\w*": "validation",
    r"meetings?": "synchronisation rounds",
    r"what was had": "seen items",
    r"(?<!Adam's )(?<!fourth )moments?": "time",
    r"stands?(?! for\b)": "is, is written",
    r"(?<!there )(is|are|was|were) no(?! (longer|more|less|better|worse)\b)": "is not a; invalid",
    r"for ever": "without limit",
    r"anew": "again",
    r"examiner": "external evaluation",
    r"null rows?": "null tokens",
    r"direct relevance": "item interactions",
}
ANY = re.compile("|".join(rf"\b(?:{pattern})\b" for pattern in BANNED), re.IGNORECASE)
# The moments of Adam.
ALLOWED = {"training/checkpoint.py": {"moment"}}


def found_in(text: str) -> list[str]:
    """The banned words of a text, whose code in backquotes is not looked at."""
    prose = re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    return [match.group().lower() for match in ANY.finditer(re.sub(r"\s+", " ", prose))]


def words_of(source: Path) -> str:
    """The comments, docstrings and messages of a module, and the names that it defines."""
    tokens = list(tokenize.generate_tokens(io.StringIO(source.read_text()).readline))
    told = [one.string for one in tokens if one.type in (tokenize.COMMENT, tokenize.STRING)]
    pairs = itertools.pairwise(tokens)
    defined = [name.string.replace("_", " ") for before, name in pairs if before.string in ("def", "class")]
    return "\n".join([source.stem.replace("_", " "), *told, *defined])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_use_the_words_of_the_field(page: Path) -> None:
    assert found_in(page.read_text()) == []


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source.relative_to(PACKAGE)))
def test_sources_use_the_words_of_the_field(source: Path) -> None:
    allowed = ALLOWED.get(str(source.relative_to(PACKAGE)), set())
    assert [word for word in found_in(words_of(source)) if word not in allowed] == []


def test_banned_words_are_found(tmp_path: Path) -> None:
    text = "A Judge stands\nby. There is no way, it is\nno file, `judge`, Adam's moments; no hold-out. It stands for x."
    assert found_in(text) == ["judge", "stands", "is no", "hold-out"]
    source = tmp_path / "judging.py"
    source.write_text('def is_no_file(moment):\n    """Said anew."""\n    return moment  # in meetings\n')
    assert sorted(found_in(words_of(source))) == ["anew", "is no", "judging", "meetings"]


def test_the_glossary_is_in_order() -> None:
    terms = re.findall(r"^\| ([^|]+?) \| ", (CLONE / "docs" / "glossary.md").read_text(), re.MULTILINE)[1:]
    assert len(terms) > 30
    assert terms == sorted(terms, key=str.lower)
