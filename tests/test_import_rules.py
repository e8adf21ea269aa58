"""Who may import whom (design: tta_core <- grid -> analysis), and what planning must not import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = ("tta_core", "grid", "analysis")
FORBIDDEN = {
    "tta_core": {"grid", "analysis", "ray", "mlflow", "optuna", "duckdb"},
    "analysis": {"tta_core", "grid", "torch", "ray", "mlflow", "optuna"},
    "grid": set(),
}
HEAVY = ("torch", "timm", "ray", "mlflow", "optuna")


def imported_packages(file: Path) -> set[str]:
    packages = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            packages.add(node.module.split(".")[0])
    return packages


@pytest.mark.parametrize("package", OURS)
def test_a_package_imports_only_what_it_may(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    offences = {str(f.relative_to(ROOT)): imported_packages(f) & FORBIDDEN[package] for f in files}
    assert not {file: found for file, found in offences.items() if found}


def loaded_modules(code: str) -> set[str]:
    program = f"{code}\nimport sys; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.splitlines()[-1].split())


PHOTOGRAPHS = ("benchmark=imagenet-c", "backbone=mae_finetuned_vit_base", "preset=recommended", "stream=gradual")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["list", "methods"],
        ["list", "backbones"],
        ["list", "streams"],
        ["plan", "quickstart"],
        ["plan", "quickstart", "--set", "stream=correlated"],
        ["data", "order", "--stream", "correlated"],
        ["data", "order", "--benchmark", "imagenet-c", "--stream", "label_shift", "--domains", "fog"],
        ["plan", "quickstart", "--json"],
        ["plan", "quickstart", "--set", "search.trials=3"],
        ["plan", "quickstart", *(part for change in PHOTOGRAPHS for part in ("--set", change))],
    ],
    ids=" ".join,
)
def test_planning_imports_nothing_heavy(arguments, tmp_path):
    if arguments[0] == "plan":
        arguments = [*arguments, "--results", str(tmp_path / "none")]
    if arguments[0] == "data":
        arguments = [*arguments, "--output", str(tmp_path / "order.parquet")]
    code = (
        "from grid.commands.main import main\n"
        f"try: main({arguments!r})\nexcept SystemExit as end: assert not end.code, end.code"
    )
    assert not loaded_modules(code) & set(HEAVY)


def test_help_imports_only_the_command_line(tmp_path):
    modules = loaded_modules("from grid.commands.main import main\ntry: main(['--help'])\nexcept SystemExit: pass")
    assert not modules & {*HEAVY, "numpy", "pydantic", "pyarrow", "duckdb", "pandas", "yaml", "rich"}


def test_the_core_runs_without_the_grid_packages():
    blocked = ("ray", "mlflow", "optuna", "duckdb", "pyarrow", "pandas", "grid", "analysis")
    block = f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\n"
    loaded_modules(block + "import tta_core; tta_core.build_method; tta_core.run; tta_core.RunConfig(method='tent')")
