"""Databases by their URLs: what is missing is said, and no password is shown."""

import pytest

from grid.databases import check_driver, without_password
from tta_core.errors import InputError


def test_no_password_is_shown():
    assert without_password("postgresql://me:s/e:c@host:5/name") == "postgresql://me:***@host:5/name"
    assert without_password("postgresql+psycopg://:secret@host/name") == "postgresql+psycopg://:***@host/name"
    for url in ("sqlite:///a/b:c@d.db", "http://127.0.0.1:5000", "postgresql://me@host:5/name"):
        assert without_password(url) == url


def test_a_missing_package_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(
        InputError, match=r"'postgresql://me:\*\*\*@host/name' needs the package psycopg.*\[postgresql\]"
    ):
        check_driver("postgresql://me:secret@host/name")
    check_driver("sqlite:///studies.db")


@pytest.mark.parametrize("url", ["postgres://host/name", "postgresql://host:port/name", "postgresql+none://host/name"])
def test_a_url_of_no_database_is_refused(url):
    with pytest.raises(InputError, match="is no URL of a database"):
        check_driver(url)
