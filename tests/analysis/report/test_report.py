from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from analysis.diagnosis import maps as diagnostic_maps
from analysis.figures import pictures
from analysis.report import section_page
from analysis.report.report import report_markdown, write_report
from analysis.results.load import ResultsError, open_results
from tests.analysis.conftest import measurement
from tests.analysis.diagnosed import write_every_quantity

SCRIPT = "<script>alert('x')</script> & \"quotes\""


@pytest.fixture(autouse=True)
def coarse_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests look at no image, so let them be made quickly."""
    monkeypatch.setattr(pictures, "DOTS_PER_INCH", 30)
    monkeypatch.setattr(section_page, "MANY_DOTS_PER_INCH", 20)


class _Page(HTMLParser):
    """Collects tags, addresses and visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.alts: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        self.addresses += [values[name] or "" for name in ("src", "srcset", "href", "action") if name in values]
        if tag == "img":
            self.alts.append(values.get("alt") or "")

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def _without_images(text: str) -> str:
    return re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", text)


def test_quickstart_page(quickstart) -> None:
    quickstart.fail("moetta", 0, SCRIPT, settings={"num_experts": 99, "lr": 0.1})
    path = write_report(quickstart.folder)
    assert path == quickstart.folder / "report.html"
    text = path.read_text()
    bare = _without_images(text)
    page = _Page(text)
    assert "http" not in bare
    assert "//" not in bare
    assert "url(" not in bare
    assert "@import" not in bare
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in page.addresses)
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    assert SCRIPT in page.text
    assert page.alts
    assert all(page.alts)
    for words in (
        "Results of quickstart",
        "The best configuration is moetta num_experts=9",
        "1 problem found",
        "no result with seed 0 (failed), 1",
        "95 % interval: Student-t",
        "Accuracy in each domain",
        "Difference to source in each domain",
        "Use of experts",
        "Trainable parameters",
        "Failed cells",
        "print-mixed",
        "python 3.11.9",
        "abc123",
        "tta-grid query",
    ):
        assert words in page.text, words
    assert list(quickstart.folder.glob(".report*")) == []


@pytest.mark.filterwarnings("error")
def test_page_with_every_diagnostic(results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostic_maps, "MOST_MAPS", 1)
    monkeypatch.setattr(diagnostic_maps, "MOST_MATRICES", 2)
    write_every_quantity(results, ("snow", SCRIPT, "$\\frac{$"), seeds=(0,))
    text = write_report(results.folder).read_text()
    page = _Page(text)
    assert "<script" not in _without_images(text)
    assert "http" not in _without_images(text)
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in page.addresses)
    for words in (
        "Routing collapsed in 2 of 4 layers of moetta lambda_balance=0: blocks.0.norm2 and blocks.1.norm2.",
        "An expert keeps less than 1 %",
        "Of 5 configurations the figures show at most",
        "Similarity, weights",
        "Agreement between domains",
        "not comparable to results on the embedded benchmark",
        "This stream never resets the method",
        "Length of the displacement",
        SCRIPT,
    ):
        assert words in page.text, words
    assert len(set(page.alts)) == len(page.alts)


def test_figures_of_many_protocols_are_left_out(results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(section_page, "MOST_DIAGNOSED", 1)
    rows = [
        measurement("shift_f1", 0.5),
        measurement("retrieval", 1.0, step=0, domain="fog", against="source"),
        measurement("code_drift", 1.0, step=0, layer="blocks.0"),
    ]
    for stream in ("continual", "gradual"):
        results.add("imse", protocol={"stream": stream}, measured=rows)
    page = _Page(write_report(results.folder).read_text())
    assert page.text.count("To keep the page small") == 1
    assert page.text.count("Set off by a short last batch") == 2
    assert [alt for alt in page.alts if "bank" in alt] == [
        "Heat map: weight of the bank's entries by true domain, imse."
    ]
    assert page.text.count("Spectral codes") == 3  # both overviews and one block


def test_diagnostics_in_markdown(results) -> None:
    write_every_quantity(results, seeds=(0,))
    text = report_markdown(open_results(results.folder))
    assert "- **Routing collapsed in 2 of 4 layers of moetta lambda_balance=0" in text
    for header in ("Similarity, weights", "Shift F1, exact batch", "Agreement, mean", "Backward transfer"):
        assert header in text


def test_page_is_replaced_in_one_step(results, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_report(results.folder)
    old = path.read_text()

    def refuse(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(ResultsError, match=r"cannot be written.*No space left"):
        write_report(results.folder)
    assert path.read_text() == old
    assert list(results.folder.glob(".report*")) == []


def test_output_elsewhere(results, tmp_path: Path) -> None:
    assert write_report(results.folder, tmp_path / "page.html") == tmp_path / "page.html"
    with pytest.raises(ResultsError, match="give a file in a folder that exists"):
        write_report(results.folder, tmp_path / "missing" / "page.html")


def test_no_cells(results) -> None:
    page = _Page(write_report(results.folder).read_text())
    assert "No cell has finished yet" in page.text
    assert "All checks passed" not in page.text
    assert "No cell has finished yet" in report_markdown(open_results(results.folder))


def test_failed_cells_only(results) -> None:
    results.fail("tent", 0, SCRIPT)
    page = _Page(write_report(results.folder).read_text())
    assert "No cell has finished; 1 failed" in page.text
    assert SCRIPT in page.text
    assert "boom" not in page.text


@pytest.mark.filterwarnings("error")
def test_source_only_with_one_seed(results) -> None:
    results.add("source", 0, (1, 0))
    page = _Page(write_report(results.folder).read_text())
    assert "Only source was run: 50.0 % (one seed)" in page.text
    assert "All checks passed" in page.text
    assert "one seed, so there is none" in page.text
    assert "Difference to source in each domain" not in page.text


def test_no_source_and_two_protocols(results) -> None:
    results.add("tent", 0, (1, 0))
    results.add("tent", 0, (1, 0), protocol={"stream": "continual"})
    page = _Page(write_report(results.folder).read_text())
    assert "2 protocols, which must not be compared" in page.text
    assert "stream continual" in page.text
    assert "no finished source cell" in page.text
    assert "What differs between the protocols is in bold" in page.text
    assert "significant" not in page.text


def test_names_from_the_results_are_escaped(results) -> None:
    results.add("source", 0, (1, 0), sweep=SCRIPT, device=SCRIPT, git_commit=SCRIPT, protocol={"stream": SCRIPT},
                domains=[SCRIPT, SCRIPT], cell="a", folder="a")  # fmt: skip
    text = write_report(results.folder).read_text()
    assert "<script" not in text
    assert f"Results of {SCRIPT}" in _Page(text).text


def test_labels_cannot_be_mathematics_for_matplotlib(results) -> None:
    results.add("tent", 0, (1, 0), settings={"name": "$\\frac{$"}, domains=["$x", "y$"], cell="a", folder="a",
                usage={"$\\bad{$": [1.0]})  # fmt: skip
    results.add("tent", 0, (1, 0), settings={"name": "other"}, domains=["$x", "y$"], cell="b", folder="b")
    assert write_report(results.folder).exists()


def test_markdown(quickstart) -> None:
    text = report_markdown(open_results(quickstart.folder))
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings == [
        "# Results of quickstart",
        "## benchmark digits-c v1, stream mixed, severity 5",
        "### Cost",
        "## Checks",
    ]
    assert "All checks passed" in text


def test_analysis_imports_nothing_of_ours_and_nothing_heavy() -> None:
    code = (
        "import sys, analysis.report.report; "
        "bad = {'tta_core', 'grid', 'torch', 'ray', 'mlflow', 'optuna', 'matplotlib.pyplot'} & set(sys.modules); "
        "sys.exit(', '.join(sorted(bad)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
