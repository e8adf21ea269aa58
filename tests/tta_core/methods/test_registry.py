"""Methods are found by their folders, and each stands in one."""

import ast
from pathlib import Path

import pytest

import tta_core
from tta_core.errors import InputError
from tta_core.methods import registry
from tta_core.methods.registry import method_class, method_folders, methods

PACKAGE = Path(tta_core.__file__).parent


def make(root, *files):
    for name in files:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return root


def test_every_folder_with_a_spec_is_a_method_but_common(tmp_path):
    make(tmp_path, "spec.py", "zeta/spec.py", "bn_adapt/spec.py", "common/losses.py", "__pycache__/spec.pyc")
    assert method_folders(tmp_path) == ["bn_adapt", "zeta"]
    assert method_folders(PACKAGE / "methods") == sorted(name.replace("-", "_") for name in methods())


def test_what_is_left_of_another_branch_is_no_method(tmp_path):
    make(tmp_path, "gone/__pycache__/spec.cpython-312.pyc", "gone/parts/__pycache__/a.pyc", ".hidden/notes.txt")
    (tmp_path / "empty").mkdir()
    assert method_folders(tmp_path) == []


@pytest.mark.parametrize("file", ["method.py", "parts/spec.py", "notes.txt"])
def test_any_other_folder_is_refused(file, tmp_path):
    make(tmp_path, "tent/spec.py", f"mine/{file}", "mine/__init__.py")
    with pytest.raises(InputError, match=r"tta_core/methods/mine has no spec.py.*give it one.*or remove the folder"):
        method_folders(tmp_path)


def test_a_method_that_is_named_otherwise_is_refused(monkeypatch):
    monkeypatch.setattr(registry, "method_folders", lambda root: ["tent"])
    wrong = methods()["tent"].model_copy(update={"name": "bent"})
    monkeypatch.setattr("tta_core.methods.tent.spec.SPEC", wrong)
    with pytest.raises(InputError, match="the method in tta_core/methods/tent calls itself 'bent'"):
        methods.__wrapped__()


def imported(file):
    """The modules that a file imports from, as dotted names."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_a_method_imports_another_only_if_it_is_built_on_it():
    """What two methods share stands in `common` otherwise."""
    folders = {name.replace("-", "_"): name for name in methods()}
    for folder, name in folders.items():
        bases = {base.__module__.split(".")[2] for base in method_class(name).__mro__ if "methods." in base.__module__}
        found = {module for file in (PACKAGE / "methods" / folder).glob("*.py") for module in imported(file)}
        others = {module.split(".")[2] for module in found if module.startswith("tta_core.methods.")} & set(folders)
        assert others <= bases | {folder}


def test_what_one_method_uses_alone_is_not_in_common():
    """A method that reads a module of `common` through another one uses it as well; so does another folder."""
    users: dict[str, set[str]] = {}
    for file in PACKAGE.rglob("*.py"):
        place = file.relative_to(PACKAGE).parts
        user = f"common.{file.stem}" if place[:2] == ("methods", "common") else "/".join(place[:-1][:2])
        for module in imported(file):
            if module.startswith("tta_core.methods.common."):
                users.setdefault(".".join(module.split(".")[2:4]), set()).add(user)

    def all_users(module):
        direct = users.get(module, set())
        return {u for user in direct for u in (all_users(user) if user.startswith("common.") else {user})}

    shared = {f"common.{file.stem}" for file in (PACKAGE / "methods/common").glob("[a-z]*.py")}
    assert {module: found for module in shared if len(found := all_users(module)) < 2} == {}
