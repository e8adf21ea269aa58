"""The command group `tta-grid search`: what searches chose. Thin, with lazy imports."""

from __future__ import annotations

from dataclasses import dataclass

import click

from grid.commands.options import Listed, argument, option, reads


@dataclass(frozen=True)
class ShowOptions:
    """Which studies are shown, and how."""

    results: str = argument(metavar="DIR")
    study: str | None = option("--study", metavar="NAME", help="Only this study; the beginning of its name is enough.")
    as_json: bool = option("--json", is_flag=True, help="Print as JSON.")


@click.command("show")
@reads(ShowOptions)
def show_studies(given: ShowOptions) -> None:
    """Shows what the studies in the results folder DIR chose, what it gained, and what speaks against it."""
    import json

    from grid.commands.studies import find_studies, studies_text, studies_values
    from grid.store.mirror import folder_here

    found = find_studies(folder_here(given.results), given.study)
    text = json.dumps(studies_values(found), indent=2) if given.as_json else studies_text(found, given.results)
    click.echo(text)


@dataclass(frozen=True)
class ExportOptions:
    """Which study's settings are written, and under which name."""

    results: str = argument(metavar="DIR")
    study: str | None = option("--study", metavar="NAME", help="The study, if there are several.")
    name: str = option("--name", metavar="NAME", default="tuned", show_default=True, help="Name of the preset.")


@click.command("export")
@reads(ExportOptions)
def export_settings(given: ExportOptions) -> None:
    """Prints the settings that a study in DIR chose, as YAML: for `base:` of a sweep, and as a preset of the method."""
    from grid.commands.studies import export_text, find_studies
    from grid.store.mirror import folder_here

    click.echo(export_text(find_studies(folder_here(given.results), given.study), given.name), nl=False)


@dataclass(frozen=True)
class DashboardOptions:
    """Which studies a dashboard is to show."""

    results: str = argument(metavar="DIR")


@click.command("dashboard")
@reads(DashboardOptions)
def print_dashboard(given: DashboardOptions) -> None:
    """Prints the command that shows trials in a browser. It says how to install what is missing."""
    from grid.commands.studies import dashboard_command
    from grid.store.mirror import folder_here

    click.echo(dashboard_command(folder_here(given.results)))


@click.group(cls=Listed, context_settings={"help_option_names": ["-h", "--help"]})
def search() -> None:
    """Shows what searches chose, exports it, and tells how to look at their trials."""


for each in (show_studies, export_settings, print_dashboard):
    search.add_command(each)
