"""Databases that users name by a URL: for MLflow's runs and for studies."""

from __future__ import annotations

import re

from tta_core.errors import InputError

DRIVERS = {"psycopg": "'tta-grid[postgresql]'", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
"""Module by which Python talks to a database -> what to install; of others the two have one name."""


def without_password(url: str) -> str:
    """A URL as it may be shown."""
    return re.sub(r"(://[^/@:]*):.*@", r"\1:***@", url)


def check_driver(url: str) -> None:
    """Sees to it that the database of a URL can be talked to. Imports sqlalchemy.

    Raises:
        InputError: if the URL names no kind of database, or a package is missing.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        make_url(url).get_dialect().import_dbapi()
    except (SQLAlchemyError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{without_password(url)!r} is no URL of a database ({reason}): give one such as "
            "postgresql://USER@HOST/NAME or sqlite:///FILE"
        ) from None
    except ImportError as error:
        package = DRIVERS.get(error.name or "", error.name)
        raise InputError(
            f"the database {without_password(url)!r} needs the package {error.name}, which is not installed: "
            f"pip install {package}, or name another kind"
        ) from None
