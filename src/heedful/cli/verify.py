"""`heedful verify`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from heedful.errors import FolderError
from heedful.folders import open_folder

__all__ = ["COMMANDS"]


@click.command("verify")
@click.argument("folder", type=click.Path())
def verify_command(folder: str) -> None:
    """Check every byte of a finished folder against its manifest."""
    try:
        kind = json.loads((Path(folder) / "manifest.json").read_text())["kind"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FolderError(
            f"{folder} is not a finished folder", got=error, expected="a folder with a manifest.json"
        ) from error
    found = open_folder(folder, kind=kind)
    found.verify()
    click.echo(f"{folder}: {kind}, {len(found.manifest['files'])} files, content hash {found.content_hash}")


COMMANDS = {"verify": verify_command}
