"""Options of commands: each said once, as a field of the object that the command gets. Imports nothing heavy.

::

    @dataclass(frozen=True)
    class PlanOptions:
        sweep: str = argument()
        as_json: bool = option("--json", is_flag=True, help="Print the plan as JSON.")

    @main.command()
    @reads(PlanOptions)
    def plan(given: PlanOptions) -> None: ...
"""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import click

EXIT_SOME_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

Command = Callable[..., None]
T = TypeVar("T")


class Finite(click.FloatRange):
    """A number in a range; NaN and infinity are in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Reads the number."""
        found: float = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value!r} is no finite number.", param, ctx)
        return found


def argument(**how: Any) -> Any:
    """A field that is an argument of the command; see `click.argument`."""
    return field(metadata={"declare": lambda name: click.argument(name, **how)})


def option(*flags: str, **how: Any) -> Any:
    """A field that is an option of the command; see `click.option`."""
    return field(metadata={"declare": lambda name: click.option(*flags, name, **how)})


def reads(kind: type[T]) -> Callable[[Callable[[T], None]], Command]:
    """Gives a command the arguments and options that are the fields of a dataclass, as an object of that class."""

    def decorate(run: Callable[[T], None]) -> Command:
        @functools.wraps(run)
        def command(**given: Any) -> None:
            run(kind(**given))

        for each in reversed(fields(kind)):  # type: ignore[arg-type]
            command = each.metadata["declare"](each.name)(command)
        return command

    return decorate


class Listed(click.Group):
    """Lists its commands with their whole first sentence, where click would cut it."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the list."""
        texts = [(name, command.help or "") for name, command in sorted(self.commands.items())]
        with formatter.section("Commands"):
            formatter.write_dl([(name, " ".join(text.partition("\n\n")[0].split())) for name, text in texts])


def names_in(text: str | None) -> list[str]:
    """The names in a text that separates them by commas."""
    return [name.strip() for name in text.split(",")] if text else []


def _set_root(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        from tta_core.data.root import VARIABLE

        os.environ[VARIABLE] = value


root_option = click.option(
    "--root",
    metavar="DIR",
    callback=_set_root,
    expose_value=False,
    help="Data root. [default: the folder that TTA_GRID_DATA names]",
)
"""Where the files of benchmarks are: for all that the command reads, as the environment variable says it."""


@dataclass(frozen=True)
class SweepOptions:
    """A sweep and its results folder, of the commands that plan and run it."""

    sweep: str = argument()
    results: str | None = option(
        "--results", metavar="DIR", help="Results folder, or s3://BUCKET/PATH. [default: results/NAME-OF-THE-SWEEP]"
    )
    overrides: tuple[str, ...] = option(
        "--set", multiple=True, metavar="KEY=VALUE", help="Override an entry of the sweep; repeatable."
    )


class ProgressLine:
    """One line of progress on stderr. On a terminal it changes in place; a log file gets what is final."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._open = False

    def show(self, text: str, *, final: bool = False) -> None:
        """Shows how far it is.

        Args:
            text: the line.
            final: whether the line stays.
        """
        if self._shown:
            click.echo(f"\r\033[K{text}", err=True, nl=final)
            self._open = not final
        elif final:
            click.echo(text, err=True)

    def clear(self) -> None:
        """Takes away a line that was not final."""
        if self._open:
            click.echo("\r\033[K", err=True, nl=False)
            self._open = False
