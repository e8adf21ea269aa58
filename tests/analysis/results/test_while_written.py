"""Reading while cells are published, and failures come, are replaced and go."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from analysis.report.leaderboard import leaderboard_markdown
from analysis.results.checks import check_results
from analysis.results.damage import inspect, manifest_of
from analysis.results.load import open_results, rows
from analysis.results.query import query_results
from analysis.schema import MANIFEST


def with_manifest(cell: Path) -> Path:
    """As the store publishes it."""
    (cell / MANIFEST).write_text(json.dumps(manifest_of(cell.name, cell)))
    return cell


@contextmanager
def fast_writer(results) -> Iterator[None]:
    """Publishes as the store does, by one rename, as fast as it can; at times the whole folder of failures goes."""
    made = [with_manifest(results.add("tent", seed)) for seed in range(4)]
    failed = [with_manifest(results.fail("sar", seed)) for seed in range(4)]
    aside = results.folder / ".staging"
    aside.mkdir()
    sources = [shutil.move(folder, aside / f"source-{folder.name}") for folder in (*made, *failed)]
    stop = threading.Event()

    def away(folder: Path) -> None:
        with suppress(FileNotFoundError):
            folder.rename(aside / uuid.uuid4().hex)

    def write() -> None:
        for count in itertools.count():
            for source, kind in zip(sources, ["cells"] * 4 + ["failed"] * 4, strict=True):
                if stop.is_set():
                    return
                name = Path(source).name.removeprefix("source-")
                copy = shutil.copytree(source, aside / uuid.uuid4().hex)
                (results.folder / kind).mkdir(exist_ok=True)
                away(results.folder / kind / name)
                copy.rename(results.folder / kind / name)
                time.sleep(0.002)
            if count % 3 == 2:
                away(results.folder / "failed")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_every_read_beside_a_fast_writer_succeeds(results) -> None:
    for seed in range(3):
        with_manifest(results.add("source", seed))
    with fast_writer(results):
        for number in range(20):
            con = open_results(results.folder)
            for view in ("cells", "samples", "batches"):
                assert rows(con, f"select count(*) from {view} where cell like 'source%'")[0][0] % 3 == 0
            assert query_results(results.folder, "select count(*) from cells where method = 'source'")[1] == [(3,)]
            assert inspect(results.folder, thorough=number % 5 == 0).damages == ()
            if number % 10 == 0:
                leaderboard_markdown(con)
                check_results(con)
