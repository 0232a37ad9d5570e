"""`heedful serve` and `heedful key`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from heedful.cli.options import chosen, config_options
from heedful.errors import MissingExtraError
from heedful.serving.options import ServeConfig

__all__ = ["COMMANDS"]

_EXTRA = ("fastapi", "httptools", "prometheus_client", "pydantic", "sqlalchemy", "starlette", "uvicorn")


@click.command("serve")
@click.argument("model", type=click.Path())
@click.option("--embeddings", default=None, type=click.Path(), help="Embeddings, when they were moved or extended.")
@click.option(
    "--histories", default=None, type=click.Path(), help="Sequences whose histories are loaded first; once is enough."
)
@config_options(ServeConfig)
def serve_command(model: str, embeddings: str | None, histories: str | None, **options: Any) -> None:
    """Model -> rankings and content slots over HTTP, and the page at /.

    MODEL is watched: another model put in its place, or another target of a link, is taken over without a failed request.
    """
    config = ServeConfig(**chosen(options))
    try:
        from heedful.serving.preparing import prepare
        from heedful.serving.server import serve
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    choice = prepare(model, config, embeddings=embeddings, histories=histories)
    serve(choice, config)


@click.command("key")
@click.argument("name")
@click.option("--keys", required=True, type=click.Path(), help="File of API keys; made when it is not there.")
@click.option(
    "--scopes", default="rank", show_default=True, help="What it may do: rank, events, admin; commas between them."
)
def key_command(name: str, keys: str, scopes: str) -> None:
    """A new API key for `heedful serve --keys`: printed once, and its hash added to the file."""
    from heedful.serving.security import add_key

    click.echo(add_key(Path(keys), name, [scope.strip() for scope in scopes.split(",") if scope.strip()]))


def _missing(error: ModuleNotFoundError) -> Exception:
    package = (error.name or "").split(".")[0]
    return MissingExtraError(package, "serve") if package in _EXTRA else error


COMMANDS = {"serve": serve_command, "key": key_command}
