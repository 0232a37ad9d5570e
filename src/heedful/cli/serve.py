"""`heedful serve`, and what goes with it: `heedful key`, `heedful prune`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from heedful.cli.options import chosen, config_options
from heedful.errors import ConfigError, MissingExtraError
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
        from heedful.serving.server import serve
        from heedful.serving.state import Choice
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    table = str(Path(embeddings).absolute()) if embeddings is not None else None
    serve(Choice(str(Path(model).absolute()), table), config, histories=histories)


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


@click.command("prune")
@click.argument("database")
@click.option("--events-days", type=click.IntRange(1), default=None, help="Remove actions older than so many days.")
@click.option(
    "--impressions-days", type=click.IntRange(1), default=None, help="Remove impressions older than this, with their clicks."
)
def prune_command(database: str, events_days: int | None, impressions_days: int | None) -> None:
    """Remove what is older than it should be kept from a database of `heedful serve`, which may go on meanwhile.

    DATABASE is a SQLite file or PostgreSQL URL. Ages count back from now, by the times that the actions have, so those of an
    old training log are old.
    """
    if events_days is None and impressions_days is None:
        raise ConfigError("nothing says what is too old", expected="--events-days, --impressions-days or both")
    try:
        from heedful.serving.store import Store
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    now, day = int(time.time()), 86_400
    store = Store.open(database, create=False)
    try:
        if events_days is not None:
            click.echo(f"{store.remove_events(now - events_days * day):,} events removed")
        if impressions_days is not None:
            click.echo(f"{store.remove_impressions(now - impressions_days * day):,} impressions removed, with their clicks")
    finally:
        store.close()


def _missing(error: ModuleNotFoundError) -> Exception:
    package = (error.name or "").split(".")[0]
    return MissingExtraError(package, "serve") if package in _EXTRA else error


COMMANDS = {"serve": serve_command, "key": key_command, "prune": prune_command}
