"""Sources of the documentation site: the Markdown of this folder, the README, and reference pages made from the code.

python docs/build.py build/docs && zensical build --strict      # make docs
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import click

import heedful
from heedful.cli import cli
from heedful.config import Config

DOCS = Path(__file__).parent
CLONE = DOCS.parent
# Pages that lie beside docs/, and their names on the site.
BESIDE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
PACKAGES = {
    "events": "Event logs: reading, preparing, splitting in time",
    "embeddings": "Item embeddings",
    "rankers": "Rankers",
    "evaluation": "Evaluation",
    "recommending": "Recommending and explaining",
    "tuning": "Tuning",
    "updating": "Updating",
    "progress": "Progress",
    "errors": "Errors",
}
_FAILURE = "[Failure]"


# Commands, from click


def commands_page() -> str:
    """Every command with its arguments, options and defaults."""
    parts = ["# Command reference", _text(cli.get_help(click.Context(cli, info_name="heedful")))]
    with click.Context(cli, info_name="heedful") as context:
        for name in cli.list_commands(context):
            command = cli.get_command(context, name)
            assert command is not None
            parts += _command(command, name, context, depth=2)
    return _page(parts)


def _command(command: click.Command, name: str, parent: click.Context, depth: int) -> Iterator[str]:
    with click.Context(command, info_name=name, parent=parent) as context:
        yield f"{'#' * depth} {context.command_path}"
        yield _text(command.get_usage(context))
        yield re.sub(r"(?m)^ +", "", command.help or "")
        options = [option for option in command.params if isinstance(option, click.Option)]
        yield from _options([option for option in options if not option.hidden], "")
        yield from _options([option for option in options if option.hidden], "For research; `--help` does not list them:")
        if isinstance(command, click.Group):
            for inner in command.list_commands(context):
                found = command.get_command(context, inner)
                assert found is not None
                yield from _command(found, inner, context, depth + 1)


def _options(options: list[click.Option], line: str) -> Iterator[str]:
    if options:
        yield line
        yield _table("option | meaning", [_shown(option, click.get_current_context()) for option in options])


def _shown(option: click.Option, context: click.Context) -> tuple[str, str]:
    hidden, option.hidden = option.hidden, False
    try:
        record = option.get_help_record(context)
    finally:
        option.hidden = hidden
    assert record is not None
    return f"`{record[0]}`", record[1].replace("[", "\\[")


# HTTP, from OpenAPI


def http_page() -> str:
    """Every request with its parameters, its body and its answers."""
    from heedful.serving.app import create_app

    document = create_app(cast(Any, None)).openapi()
    parts = [
        "# HTTP reference",
        "A running server gives the same as OpenAPI under `/openapi.json`. [Serving](serving.md) explains keys, limits and"
        " errors.",
    ]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts += _operation(method.upper(), path, operation)
    parts += [
        "## Errors\n\nEvery request may be answered by one of these, each with a [Failure](#failure).",
        _table("status | meaning", [(status, meaning) for status, meaning in sorted(_failures(document).items())]),
        "## Schemas",
    ]
    for name, schema in sorted(document["components"]["schemas"].items()):
        parts += _schema(name, schema)
    return _page(parts)


def _operation(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"## {method} `{path}`"
    yield operation.get("description", operation["summary"])
    parameters = [
        (f"`{one['name']}`", one["in"], _type(one["schema"]), one.get("description", ""))
        for one in operation.get("parameters", [])
    ]
    yield _table("parameter | in | type | meaning", parameters)
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"Body: `{kind}`, {_type(content.get('schema', {}))}"
    answers = operation["responses"].items()
    rows = [
        (status, _answer(answer), answer["description"]) for status, answer in answers if _FAILURE not in _answer(answer)
    ]
    yield _table("status | answer | meaning", rows)


def _failures(document: dict[str, Any]) -> dict[str, str]:
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    answers = [(status, answer) for operation in operations for status, answer in operation["responses"].items()]
    return {status: answer["description"] for status, answer in answers if _FAILURE in _answer(answer)}


def _answer(answer: dict[str, Any]) -> str:
    return ", ".join(f"{kind}: {_type(found.get('schema', {}))}" for kind, found in answer.get("content", {}).items())


def _schema(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f"### {name}"
    yield schema.get("description", "")
    required = schema.get("required", [])
    fields = [
        (f"`{name}`{' (required)' if name in required else ''}", _type(found), found.get("description", ""))
        for name, found in schema.get("properties", {}).items()
    ]
    yield _table("field | type | meaning", fields)


def _type(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words, with links to the named ones."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(one) for one in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{one}`" for one in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"array of {_type(schema.get('items', {}))}"
    return str(schema.get("type", "any"))


# The API, from the docstrings


def api_page(package: str, title: str) -> str:
    """The public names of a package, which the site's builder fills in from their docstrings."""
    names = [name for name in heedful.__all__ if _package_of(name) == package]
    parts = [f"# {title}", f"Names of `heedful` from the package `{package}`."]
    for name in names:
        public = getattr(heedful, name)
        parts.append(f"::: {public.__module__}.{name}")
        if isinstance(public, type) and issubclass(public, Config):
            parts.append(_table("option | default | meaning", list(_fields(public))))
    return _page(parts)


def _fields(config: type[Config]) -> Iterator[tuple[str, str, str]]:
    for field in dataclasses.fields(config):
        yield f"`{field.name}`", f"`{field.default!r}`", field.metadata["help"].replace("[", "\\[")


def _package_of(name: str) -> str:
    return str(getattr(heedful, name).__module__.split(".")[1])


# All


def _table(header: str, rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; nothing without rows."""
    if not rows:
        return ""
    clean = [[re.sub(r"\s+", " ", cell).replace("|", "\\|").strip() for cell in row] for row in rows]
    lines = [header.split(" | "), ["---"] * len(rows[0]), *clean]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _page(parts: Sequence[str]) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"


def _text(block: str) -> str:
    return f"```text\n{block.rstrip()}\n```"


def _of_site(markdown: str) -> str:
    """The links of a page that lies beside docs/, as they are on the site."""
    markdown = re.sub(r"\]\(docs/", "](", markdown)
    for file, page in BESIDE.items():
        markdown = markdown.replace(f"]({file}", f"]({page}").replace(f"](../{file}", f"]({page}")
    return markdown


def write_sources(folder: Path) -> None:
    """Write all pages to a folder, which is emptied before."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "api").mkdir(parents=True)
    shutil.copytree(DOCS / "images", folder / "images")
    for page in DOCS.glob("*.md"):
        (folder / page.name).write_text(_of_site(page.read_text()))
    for file, name in BESIDE.items():
        (folder / name).write_text(_of_site((CLONE / file).read_text()))
    (folder / "commands.md").write_text(commands_page())
    (folder / "http.md").write_text(http_page())
    for package, title in PACKAGES.items():
        (folder / "api" / f"{package}.md").write_text(api_page(package, title))


if __name__ == "__main__":
    write_sources(Path(sys.argv[1]))
