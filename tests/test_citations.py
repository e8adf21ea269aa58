"""Every citation has its section in docs/methods, and every link between documents leads somewhere.

A citation names a file there and sections of it: `imse §1.2`, or `imse §1.2, §1.7 and §1.9`. In a document of that
folder a section alone is one of the document itself.
"""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
METHODS = ROOT / "docs" / "methods"
FOLDERS = ("tta_core", "grid", "analysis", "tests", "docs", "clusters")
SUFFIXES = {".py", ".yaml", ".md", ".j2"}

HEADING = re.compile(r"^#{2,} (\d+(?:\.\d+)*|[A-Z])(?= )", re.MULTILINE)
SECTION = r"§[\w.]*"
CITATION = re.compile(rf"(?:([\w-]+)\s)?({SECTION}(?:(?:,\s|\sand\s|\sto\s){SECTION})*)")
OLD_FORM = re.compile(r"\bspec,? (?:\d[\d.]*|appendix\b|table \d)", re.IGNORECASE)
CODE_BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


class Citation(NamedTuple):
    """One cited section; `name` is empty where no file is named."""

    line: int
    name: str
    section: str


def line_of(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def citations(text: str) -> Iterator[Citation]:
    for match in CITATION.finditer(text) if "§" in text else ():
        for section in re.findall(SECTION, match[2]):
            yield Citation(line_of(text, match.start(2)), match[1] or "", section.strip("§."))


def closest(word: str, known: set[str]) -> str:
    return get_close_matches(word, sorted(known), n=1, cutoff=0)[0]


def problems(place: str, text: str, known: Mapping[str, set[str]], own: str = "") -> list[str]:
    """What is wrong with the citations of a text, each with its place and what is closest to it.

    `known` has the sections of each document; `own` is the document that a section without a name belongs to.
    """
    found = []
    for line, name, section in citations(text):
        cited = own if own and name not in known else name
        if cited not in known:
            what = f"no {name}.md, the closest is {closest(name, set(known))}.md" if name else "no file is named"
        elif section not in known[cited]:
            what = f"{cited}.md has no such heading, the closest is §{closest(section, known[cited])}"
        else:
            continue
        found.append(f"{place}:{line}: {name} §{section}: {what}")
    found += [
        f"{place}:{line_of(text, match.start())}: {match[0]}: is cited as docs/methods/README.md says"
        for match in OLD_FORM.finditer(text)
    ]
    return found


def texts() -> dict[str, str]:
    files = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*")) if file.suffix in SUFFIXES]
    files += [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    # This file has wrong citations on purpose.
    return {str(file.relative_to(ROOT)): file.read_text() for file in files if file != Path(__file__).resolve()}


TEXTS = texts()
DOCUMENTS = {file.stem: file.read_text() for file in sorted(METHODS.glob("*.md")) if file.stem != "README"}
SECTIONS = {name: set(HEADING.findall(document)) for name, document in DOCUMENTS.items()}
OWN = {f"docs/methods/{name}.md": name for name in DOCUMENTS}


def test_every_citation_has_its_section():
    assert not [line for place, text in TEXTS.items() for line in problems(place, text, SECTIONS, OWN.get(place, ""))]


def test_the_code_is_full_of_citations():
    cited = [one for place, text in TEXTS.items() if not place.startswith("docs/") for one in citations(text)]
    assert len(cited) > 150, "the pattern misses them"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("one\ntwo (imes §1.2)", "x.py:2: imes §1.2: no imes.md, the closest is imse.md"),
        ("imse §1.2 and §1.3.", "x.py:1: imse §1.3: imse.md has no such heading, the closest is §1.2"),
        ("imse § 1.2", "x.py:1: imse §: imse.md has no such heading, the closest is §1.2"),
        ("(§1.2)", "x.py:1:  §1.2: no file is named"),
        ("(imse spec 1.2)", "x.py:1: spec 1.2: is cited as docs/methods/README.md says"),
    ],
)
def test_a_wrong_citation_is_named(text, problem):
    assert problems("x.py", text, {"imse": {"1.2"}, "moase": {"2"}}) == [problem]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_number_stands_over_one_section(name):
    assert len(HEADING.findall(DOCUMENTS[name])) == len(SECTIONS[name]) > 0


def test_the_index_has_every_document():
    assert {f"{name}.md" for name in DOCUMENTS} <= set(LINK.findall(TEXTS["docs/methods/README.md"]))


def anchors(document: str) -> set[str]:
    """Anchors of the headings of a document, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", CODE_BLOCK.sub("", document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("place", [place for place in TEXTS if place.endswith(".md")])
def test_links_lead_somewhere(place):
    for target in LINK.findall(TEXTS[place]):
        path, _, anchor = target.partition("#")
        if "://" not in target:
            file = (ROOT / place).parent / path if path else ROOT / place
            assert file.exists(), target
            assert not anchor or anchor in anchors(file.read_text()), target
