"""The `tta-grid` command. Thin: each command imports what it needs when it runs, so that `--help` answers at once."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from grid.commands.data import data
from grid.commands.jobs import doctor, fetch_results, logs, stop, submit
from grid.commands.options import (
    EXIT_BAD_INPUT,
    EXIT_INTERRUPTED,
    EXIT_SOME_FAILED,
    Finite,
    Listed,
    SweepOptions,
    option,
    reads,
)
from grid.commands.search import search
from grid.events import LaunchError
from tta_core.errors import InputError, closest_match

if TYPE_CHECKING:
    from grid.plan.sweep import Sweep
    from grid.store.store import ResultStore


class BadInput(click.ClickException):
    """What the user gave is wrong: one message, exit status 2."""

    exit_code = EXIT_BAD_INPUT


class Commands(Listed):
    """Names the closest command for a misspelt one, and turns a user's mistakes into one message each."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Reads the arguments."""
        if any("\0" in each for each in args):
            raise click.UsageError("an argument has a NUL byte in it, and no name, path or value has one", ctx)
        for before, each in itertools.pairwise(["tta-grid", *args]):
            if not each or re.fullmatch("--[^=]+=", each):
                raise click.UsageError(f"what follows {each or before} is empty: give a value, or leave it out", ctx)
        return super().parse_args(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Finds a command by name."""
        command = super().get_command(ctx, cmd_name)
        match = closest_match(cmd_name, self.commands) if command is None else None
        if match:
            raise click.UsageError(f"no command {cmd_name!r}. Did you mean {match!r}?", ctx)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except ValueError as error:
            from analysis.results.load import ResultsError

            if isinstance(error, InputError | ResultsError):
                raise BadInput(str(error)) from None
            raise
        except LaunchError as error:
            click.echo(f"Error: {error}", err=True)
            raise SystemExit(error.status) from None
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            raise SystemExit(EXIT_INTERRUPTED) from None
        except OSError as error:
            if error.filename is None:
                raise
            raise BadInput(
                f"{error.filename}: {error.strerror}: mend its permissions or make room, or give another place"
            ) from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tta-grid", prog_name="tta-grid")
def main() -> None:
    """Runs grids of test-time adaptation experiments.

    \b
    tta-grid plan quickstart                 what would run, and for how long
    tta-grid run quickstart                  run it; again runs only what is missing
    tta-grid report results/quickstart       leaderboard and HTML page
    """


def _open_sweep(given: SweepOptions) -> tuple[Sweep, ResultStore]:
    from pathlib import Path

    from grid.plan.sweep import read_sweep
    from grid.store.store import ResultStore

    sweep = read_sweep(given.sweep, given.overrides)
    return sweep, ResultStore(given.results or Path("results") / sweep.sweep)


@dataclass(frozen=True)
class PlanOptions(SweepOptions):
    """How a plan is shown."""

    simulate: float | None = option(
        "--simulate",
        metavar="GPUS",
        type=Finite(min=0, min_open=True, max=100_000),
        help="Replay the cells that are left on so many GPUs, or slots if a cell takes no GPU.",
    )
    failures: float = option(
        "--failures",
        metavar="SHARE",
        type=Finite(0, 1),
        default=0.0,
        show_default=True,
        help="Of --simulate: share of cells that die once.",
    )
    price: float | None = option(
        "--price", metavar="PRICE", type=Finite(min=0), help="What an hour of a GPU costs, or of a slot."
    )
    as_json: bool = option("--json", is_flag=True, help="Print the plan as JSON.")


@main.command()
@reads(PlanOptions)
def plan(given: PlanOptions) -> None:
    """Lists the cells of SWEEP, which of them exist, and an estimate of time.

    SWEEP is a YAML file or the name of a shipped sweep, such as quickstart.
    """
    from grid.plan.plan import make_plan

    made = make_plan(*_open_sweep(given))
    if given.failures and given.simulate is None:
        raise InputError("--failures is a share of the cells that --simulate GPUS replays: give both")
    outlook = made.outlook(given.simulate, given.failures, given.price)
    click.echo(made.as_json(outlook) if given.as_json else "\n".join([made.as_text(), *outlook.lines()]))


@dataclass(frozen=True)
class RunOptions(SweepOptions):
    """Where a sweep runs and is tracked."""

    address: str | None = option(
        "--address", metavar="ADDR", help="Ray head (host:port or auto). [default: start Ray here]"
    )
    tracking_uri: str | None = option(
        "--tracking-uri", metavar="URI", help="MLflow store. [default: an sqlite file in the results folder]"
    )
    wait: float | None = option(
        "--wait",
        metavar="MINUTES",
        type=Finite(min=0),
        help="End when for so long no node had room for a cell. [default: never]",
    )


@main.command()
@reads(RunOptions)
def run(given: RunOptions) -> None:
    """Runs the cells of SWEEP that the results folder lacks; with `search:`, chooses settings first.

    \b
    Exit status: 0 all cells are done, 1 some cells failed (the others are kept), 2 the input is wrong,
    3 Ray did not start or was lost, 4 a disk is full or a node cannot run cells, 130 interrupted. The same command goes
    on where an earlier one stopped.
    """
    from grid.commands.run import run_sweep

    status = run_sweep(
        *_open_sweep(given),
        address=given.address,
        tracking_uri=given.tracking_uri,
        most_waiting=None if given.wait is None else 60 * given.wait,
    )
    raise SystemExit(status)


@main.command()
@click.argument("results", metavar="DIR")
@click.option("--tracking-uri", metavar="URI", help="MLflow store. [default: an sqlite file in DIR]")
@click.option("--experiment", metavar="NAME", help="Experiment. [default: each sweep's name]")
def track(results: str, tracking_uri: str | None, experiment: str | None) -> None:
    """Logs in MLflow the finished cells of DIR that it lacks: after a fetch, or where MLflow was down.

    \b
    Exit status: 0, 1 MLflow did not take all of them (the same command goes on), 2 the input is wrong.
    """
    from grid.store.mirror import folder_here
    from grid.store.objects import is_url
    from grid.track.upload import upload
    from grid.track.uri import ui_command

    if is_url(results) and tracking_uri is None:
        raise InputError(
            "results in an object store have no MLflow file: name a store with --tracking-uri, or fetch them"
        )
    found = upload(folder_here(results), tracking_uri, experiment)
    for each in found:
        click.echo(f"{each.sweep}: {each.logged} of {each.cells} finished cells were missing and are logged")
        if each.problem:
            click.echo(f"MLflow did not take all: {each.problem}; go on with the same command", err=True)
    click.echo(f"mlflow   {ui_command(found[0].uri)}")
    if any(each.problem for each in found):
        raise SystemExit(EXIT_SOME_FAILED)


@main.command("list")
@click.argument("kind", type=click.Choice(["methods", "backbones", "benchmarks", "streams", "sweeps", "diagnostics"]))
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def list_(kind: str, names: tuple[str, ...], as_json: bool) -> None:
    """Lists what a sweep can name: methods, backbones, benchmarks, streams, diagnostics; or the shipped sweeps.

    With each NAME only the row of that name, in full.
    """
    import json

    from grid.commands.listing import listing, listing_text

    click.echo(json.dumps(listing(kind, names), indent=2) if as_json else listing_text(kind, names))


@main.command()
@click.argument("results", metavar="[DIR | JOB]", required=False)
@click.option("--address", metavar="URL", help="The head's dashboard, http://HEAD:8265: its jobs, or one JOB.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def status(results: str | None, address: str | None, as_json: bool) -> None:
    """Says what the results folder DIR holds, and what failed and why; with --address how the jobs of a cluster go.

    Without DIR and --address it asks the cluster that RAY_API_SERVER_ADDRESS names.
    """
    import json

    if address is not None or results is None:
        from grid.commands.jobs import jobs_status, jobs_text

        rows = jobs_status(results, address)
        click.echo(json.dumps(rows, indent=2) if as_json else jobs_text(rows))
        return
    from grid.commands.results import status_of, status_text

    found = status_of(results)
    click.echo(json.dumps(found, indent=2) if as_json else status_text(found))


@main.command()
@click.argument("results", metavar="DIR")
@click.option("--repair", is_flag=True, help="Move what is damaged to DIR/damaged; the next run makes it anew.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def check(results: str, repair: bool, as_json: bool) -> None:
    """Reads all files in DIR and says which cells are damaged, incomplete or copied.

    \b
    Exit status: 0 nothing is damaged, or it was moved away, 1 something is damaged, 2 the input is wrong.
    """
    import json

    from grid.commands.results import check_of, check_text

    found = check_of(results, repair=repair)
    click.echo(json.dumps(found, indent=2) if as_json else check_text(found))
    if found["damages"] and not repair:
        raise SystemExit(EXIT_SOME_FAILED)


@main.command()
@click.argument("results", metavar="DIR")
@click.argument("sql", metavar="SQL")
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
def query(results: str, sql: str, form: str) -> None:
    """Runs SQL on the results in DIR: views cells, batches, samples, diagnostics; studies, trials, selections.

    \b
    tta-grid query results/quickstart "SELECT method, avg(accuracy) FROM cells GROUP BY method"
    """
    from grid.commands.results import run_query

    click.echo(run_query(results, sql, form), nl=False)


@main.command()
@click.argument("results", metavar="DIR")
@click.option("--output", metavar="FILE", help="HTML page to write. [default: report.html in DIR, or of a URL here]")
@click.option("--latex", is_flag=True, help="Print the leaderboard as LaTeX tables instead; write no page.")
def report(results: str, output: str | None, latex: bool) -> None:
    """Prints the leaderboard of DIR and writes one self-contained HTML page."""
    from pathlib import Path

    from analysis.report.leaderboard import leaderboard_latex
    from analysis.report.report import report_markdown, write_report
    from analysis.results.load import open_results
    from grid.store.mirror import folder_here
    from grid.store.objects import is_url, shown_place

    folder = folder_here(results)
    if latex:
        click.echo(leaderboard_latex(open_results(folder)))
        return
    if output is None and is_url(results):
        output = f"{shown_place(results).rpartition('/')[2]}-report.html"
    click.echo(report_markdown(open_results(folder)))
    click.echo(f"wrote {write_report(folder, Path(output) if output else None)}")


@main.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[OPTIONS]")
def bench(options: tuple[str, ...]) -> None:
    """Measures what a step of each method costs, in source forwards.

    \b
    tta-grid bench --methods tent,moetta --backbone vit_tiny_patch16_224 --batch-size 16
    """
    if {"-h", "--help"} & set(options):
        click.echo("tta-grid bench --grid N [--json]: a launch of N cells of one image, beside plain Ray Tune.")
        click.echo("tta-grid bench --cell [--json]: what a cell costs beyond its loop, by part. Else:\n")
    elif "--cell" in options:
        click.echo(_cell_cost(options))
        return
    if any(word.partition("=")[0] == "--grid" for word in options):
        click.echo(_overhead(options))
        return
    from tta_core.bench.command import bench_command

    # Its options are read there: a machine that lacks the packages of the grid runs python -m tta_core.bench.
    text, failed = bench_command(options, program="tta-grid bench", tell=lambda line: click.echo(line, err=True))
    click.echo(text)
    if failed:
        raise SystemExit(EXIT_SOME_FAILED)


def _cell_cost(options: tuple[str, ...]) -> str:
    from grid.launch.cell_cost import as_json, as_text, measure_cells

    if set(options) - {"--cell", "--json"}:
        raise InputError(f"bench {' '.join(options)}: beside --cell there is only --json")
    found = measure_cells(tell=lambda line: click.echo(line, err=True))
    return as_json(found) if "--json" in options else as_text(found)


def _overhead(options: tuple[str, ...]) -> str:
    from grid.launch.overhead import measure_overhead

    words = [part for word in options for part in (word.split("=", 1) if word.startswith("--grid=") else [word])]
    asked = [word for word in words if word != "--json"]
    if len(asked) != 2 or asked[0] != "--grid" or not asked[1].isdecimal():
        raise InputError(f"bench {' '.join(options)}: --grid takes a number of cells, and beside it only --json")
    found = measure_overhead(int(asked[1]), tell=lambda line: click.echo(line, err=True))
    return found.as_json() if "--json" in words else found.as_text()


for each in (data, search, submit, logs, stop, fetch_results, doctor):
    main.add_command(each)
