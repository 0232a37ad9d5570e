"""The `heedful` command: parse, call, print. Commands are imported when they are run, so that `--help` is quick."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import click

from heedful.errors import HeedfulError
from heedful.progress import show_progress

__all__ = ["main"]

# Command -> (module, its line in `heedful --help`); the module is imported only when the command is run.
_COMMANDS = {
    "demo": ("heedful.cli.demo", "The whole pipeline on real retail data, ending in a report and recommendations."),
    "synth": ("heedful.cli.synth", "A synthetic event log of any size, to try and to measure with."),
    "prepare": ("heedful.cli.prepare", "Event log -> sequences."),
    "embed": ("heedful.cli.embed", "Sequences -> item embeddings."),
    "import": ("heedful.cli.embed", "Your own vectors -> item embeddings."),
    "extend": ("heedful.cli.onboard", "Embeddings and new items -> extended embeddings."),
    "similar": ("heedful.cli.embed", "The neighbours of an item, with titles."),
    "train": ("heedful.cli.train", "Sequences and embeddings -> model."),
    "refresh": ("heedful.cli.refresh", "Model and newer sequences -> the same model with the counts of today."),
    "score": ("heedful.cli.rank", "Requests with candidates -> scores."),
    "recommend": ("heedful.cli.rank", "Requests -> the best of the catalogue."),
    "explain": ("heedful.cli.explain", "Why items have their scores: past items and attention."),
    "evaluate": ("heedful.cli.evaluate", "Split in time, train the models, compare them, write a report."),
    "pools": ("heedful.cli.evaluate", "The pools of an evaluation, as requests for a model of your own."),
    "tune": ("heedful.cli.tune", "Search the settings of embeddings and ranker inside the training log."),
    "update": ("heedful.cli.update", "Every night: new events -> a version that goes on from the one in service."),
    "backtest": ("heedful.cli.backtest", "How often to train: a frozen model and updated ones, day by day."),
    "rollback": ("heedful.cli.update", "Put an earlier version back into service, or list the versions."),
    "serve": ("heedful.cli.serve", "Model -> rankings and content slots over HTTP, and the page."),
    "key": ("heedful.cli.serve", "A new API key for `heedful serve`."),
    "prune": ("heedful.cli.serve", "Remove what is too old from the database of `heedful serve`."),
    "items": ("heedful.cli.items", "Stock, prices and new items of a file or table -> a running server."),
    "clicks": ("heedful.cli.clicks", "Click-through of content slots: report and simulator."),
    "verify": ("heedful.cli.verify", "Check every byte of a finished folder against its manifest."),
}
_INTERRUPTED = 130


class _Commands(click.Group):
    """The commands, imported one at a time."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        commands: dict[str, click.Command] = importlib.import_module(_COMMANDS[cmd_name][0]).COMMANDS
        return commands[cmd_name]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="heedful")
@click.option("--quiet", is_flag=True, help="No progress on standard error.")
def cli(quiet: bool) -> None:
    """Personalised rankings from an event log.

    Each stage reads finished folders and writes a new one: prepare, embed, train, then score, recommend or evaluate.
    Every command explains its options with --help.
    """
    show_progress(not quiet)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit: 0 done, 1 an error that the message explains, 2 wrong usage, 130 interrupted."""
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        outcome: Any = cli.main(arguments, prog_name="heedful", standalone_mode=False)
        return outcome if isinstance(outcome, int) else 0
    except HeedfulError as error:
        click.echo(f"heedful: {error}", err=True)
        return 1
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("\nheedful: interrupted; no unfinished folder was left behind", err=True)
        return _INTERRUPTED
    except BrokenPipeError:
        return 1
