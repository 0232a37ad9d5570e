"""`heedful update` and `heedful rollback`."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from heedful.cli.options import chosen, config_options
from heedful.config import Config
from heedful.errors import ConfigError
from heedful.events.preparing import PrepareConfig
from heedful.updating.nightly import update
from heedful.updating.options import UpdateConfig
from heedful.updating.shop import Shop

__all__ = ["COMMANDS"]


@click.command("update")
@click.argument("shop", type=click.Path())
@click.option(
    "--events",
    "sources",
    multiple=True,
    required=True,
    help="The events: the URL of a database table, or files, globs and folders, as often as you like.",
)
@click.option("--items", default=None, help="File with item attributes, as for `heedful prepare`.")
@click.option(
    "--config",
    "settings",
    default=None,
    type=click.Path(),
    help="TOML file with options of training, such as tuned.toml. Without it those of the version before.",
)
@click.option("--accept-feed", is_flag=True, help="Take the new events although they are unusual.")
@click.option("--from-scratch", is_flag=True, help="Train from nothing, in a new space.")
@config_options(UpdateConfig, PrepareConfig)
def update_command(
    shop: str,
    sources: tuple[str, ...],
    items: str | None,
    settings: str | None,
    accept_feed: bool,
    from_scratch: bool,
    **options: Any,
) -> None:
    """New events -> the next version of SHOP, published if it is not worse than the one in service.

    SHOP is a folder of versions; the first run makes it. Serve SHOP/current/model: the server follows each update. One
    command for cron: it exits with 1 and a reason if the new events are unusual or the models are worse, and the version in
    service stays. Run it again after a crash, and it goes on where it was.
    """
    given = chosen(options)
    version = update(
        shop,
        sources[0] if len(sources) == 1 else list(sources),
        items=items,
        config=UpdateConfig.from_dict(_of(UpdateConfig, given)),
        preparing=PrepareConfig.from_dict(_of(PrepareConfig, given)),
        settings=settings,
        accept_feed=accept_feed,
        from_scratch=from_scratch,
    )
    click.echo(f"{version.path}: {version.facts['outcome']} model; {version.facts['reason']}")
    click.echo(f"next: heedful serve {shop}/current/model")


def _of(config: type[Config], given: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(config)}
    return {name: value for name, value in given.items() if name in names}


@click.command("rollback")
@click.argument("shop", type=click.Path())
@click.argument("version", type=int, required=False)
@click.option("--list", "only_list", is_flag=True, help="List the versions, and change nothing.")
def rollback_command(shop: str, version: int | None, only_list: bool) -> None:
    """Put VERSION of SHOP into service, or the one before the current one; a running server follows within seconds."""
    place = Shop(shop)
    if not place.folder.is_dir():
        raise ConfigError(f"there is no shop {shop}", fix="check the path; `heedful update` makes one")
    if not only_list:
        place.roll_back(version)
    current = place.current()
    for one in place.versions():
        mark = "*" if current is not None and one.number == current.number else " "
        facts = one.facts
        click.echo(f"{mark} {one.number}  {facts['created']}  {facts['outcome']}: {facts['reason']}")


COMMANDS = {"update": update_command, "rollback": rollback_command}
