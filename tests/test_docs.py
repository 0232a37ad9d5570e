"""The documentation: every page is in the navigation, every link leads somewhere, and the words are the field's."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import heedful
from heedful.cli import cli
from heedful.config import Config

CLONE = Path(__file__).parents[1]
SOURCES = [CLONE / "README.md", CLONE / "CONTRIBUTING.md", *sorted((CLONE / "docs").glob("*.md"))]
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")


def headings(page: Path) -> set[str]:
    """The anchors of a page, as Markdown makes them from its headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", one).strip().lower()) for one in found}


def broken_links(page: Path) -> list[str]:
    """The relative links of a page that lead to no file, or to no heading of it."""
    broken = []
    for path, anchor in LINK.findall(page.read_text()):
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in headings(target)):
            broken.append(f"{path}#{anchor}" if anchor else path)
    return broken


@pytest.mark.parametrize("page", SOURCES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A first: part\n[a](#a-first-part) [b](#second) [c](lost.md) [d](page.md#lost) [e](https://e.org)\n")
    assert broken_links(page) == ["#second", "lost.md", "page.md#lost"]


# The site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "docs"
    done = subprocess.run([sys.executable, CLONE / "docs" / "build.py", folder], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder


def in_navigation() -> Iterator[str]:
    def pages(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for inner in entry.values() if isinstance(entry, dict) else entry:
                yield from pages(inner)

    yield from pages(tomllib.loads((CLONE / "zensical.toml").read_text())["project"]["nav"])


def test_every_page_is_in_the_navigation_once(site: Path) -> None:
    written = sorted(str(page.relative_to(site)) for page in site.rglob("*.md"))
    assert sorted(in_navigation()) == written
    assert {page.name for page in (CLONE / "docs").glob("*.md")} <= set(written)


def test_every_link_of_the_site_leads_somewhere(site: Path) -> None:
    assert {page.name: broken for page in site.rglob("*.md") if (broken := broken_links(page))} == {}


def test_every_public_name_is_in_the_api_reference_once(site: Path) -> None:
    text = "\n".join(page.read_text() for page in (site / "api").glob("*.md"))
    assert sorted(re.findall(r"^::: [\w.]+\.(\w+)$", text, re.MULTILINE)) == sorted(heedful.__all__)


def test_every_command_and_option_is_in_the_command_reference(site: Path) -> None:
    text = (site / "commands.md").read_text()
    sections = re.findall(r"^#+ heedful (.*)$", text, re.MULTILINE)
    assert {section.split()[0] for section in sections} == set(cli.list_commands(None))  # type: ignore[arg-type]
    assert {"train attention", "train popularity", "clicks report"} <= set(sections)
    for config in (heedful.AttentionConfig, heedful.EvaluationConfig, heedful.SkipGramConfig):
        assert issubclass(config, Config)
        missing = [name for name in vars(config()) if f"--{name.replace('_', '-')}" not in text]
        assert missing == []


def test_every_request_is_in_the_http_reference(site: Path) -> None:
    from heedful.serving.app import create_app

    paths = create_app(None).openapi()["paths"]  # type: ignore[arg-type]
    wanted = {f"{method.upper()} `{path}`" for path, operations in paths.items() for method in operations}
    assert set(re.findall(r"^## ([A-Z]+ `.*`)$", (site / "http.md").read_text(), re.MULTILINE)) == wanted
