"""Command-line options made from configurations, so that a default and its help are written once, beside their owner."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from heedful.config import Config
from heedful.errors import ConfigError
from heedful.tuning.settings import read_section

__all__ = [
    "chosen",
    "cluster_option",
    "config_options",
    "file_option",
    "out_option",
    "overwrite_option",
    "refuse_cluster",
    "with_file",
]

Command = TypeVar("Command", bound=Callable[..., Any])

_PREFIX = "config__"


def config_options(*configs: type[Config], leave_out: Iterable[str] = ()) -> Callable[[Command], Command]:
    """Decorator: an option for each field of the configurations; a name that several have becomes one option."""
    fields: dict[str, tuple[type[Config], dataclasses.Field[Any]]] = {}
    for config in configs:
        for field in dataclasses.fields(config):
            if field.name not in leave_out:
                fields.setdefault(field.name, (config, field))

    def decorate(command: Command) -> Command:
        for config, field in reversed(fields.values()):
            command = _option(config, field)(command)
        return command

    return decorate


def refuse_cluster(cluster: str | None, option: str) -> None:
    """Refuse --cluster beside an option that runs on one machine, with a `ConfigError`."""
    if cluster:
        raise ConfigError(f"{option} runs on one machine", got=f"--cluster {cluster}", fix="leave --cluster out")


def chosen(options: dict[str, Any]) -> dict[str, Any]:
    """The configuration options that were given on the command line, by field name."""
    named = {name.removeprefix(_PREFIX): value for name, value in options.items() if name.startswith(_PREFIX)}
    return {name: value for name, value in named.items() if value is not None and value != ()}


def file_option(section: str) -> Callable[[Command], Command]:
    """The option --config, a settings file as `heedful tune` writes it."""
    line = f"TOML file whose section [{section}] gives options, such as tuned.toml; the command line overrules it."
    return click.option("--config", "settings", default=None, type=click.Path(), help=line)


def with_file(options: dict[str, Any], settings: str | None, section: str, *configs: type[Config]) -> dict[str, Any]:
    """The configuration options by field name: those of the file, overruled by those given on the command line.

    Raises:
        InputError: the file cannot be read.
        ConfigError: the file has an unknown option, or a value of the wrong type.
    """
    from_file = read_section(settings, section, configs) if settings is not None else {}
    return {**from_file, **chosen(options)}


def out_option(what: str) -> Callable[[Command], Command]:
    """The option --out."""
    return click.option("--out", required=True, type=click.Path(), help=f"Where to write {what}.")


def cluster_option(command: Command) -> Command:
    """The option --cluster."""
    line = "Run on this Ray cluster: auto, or HOST:PORT of its head. Needs the extra `cluster`.  [RAY_ADDRESS]"
    return click.option("--cluster", envvar="RAY_ADDRESS", default=None, metavar="auto|ADDRESS", help=line)(command)


def overwrite_option(command: Command) -> Command:
    """The option --overwrite."""
    return click.option("--overwrite", is_flag=True, help="Replace a finished folder of the same kind.")(command)


def _option(config: type[Config], field: dataclasses.Field[Any]) -> Callable[[Command], Command]:
    hint = typing.get_type_hints(config)[field.name]
    name = field.name.replace("_", "-")
    line = f"{field.metadata['help']}  [{_words(field.default)}]"
    shared: dict[str, Any] = {"default": None, "help": line, "hidden": field.metadata["research"]}
    if hint is bool:
        return click.option(f"--{name}/--no-{name}", f"{_PREFIX}{field.name}", **shared)
    kind, several = _kind(hint)
    return click.option(f"--{name}", f"{_PREFIX}{field.name}", type=_List(kind) if several else kind, **shared)


def _kind(hint: Any) -> tuple[Any, bool]:
    """The click type of a field's annotation, and whether it takes several values."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return click.Choice([str(choice) for choice in arguments]), False
    if origin is tuple:
        return arguments[0], True
    if origin in (types.UnionType, typing.Union):
        return _kind(next(argument for argument in arguments if argument is not type(None)))
    return hint, False


class _List(click.ParamType):
    """Values with commas between them."""

    def __init__(self, kind: type) -> None:
        self.kind = kind
        self.name = f"{kind.__name__},..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self.kind(part.strip()) for part in value.split(",") if part.strip())
        except ValueError:
            self.fail(f"{value!r} is not a list of {self.kind.__name__} with commas between them", param, ctx)


def _words(default: Any) -> str:
    if default is None or default == ():
        return "none"
    if isinstance(default, bool):
        return "on" if default else "off"
    return ",".join(str(part) for part in default) if isinstance(default, tuple) else str(default)
