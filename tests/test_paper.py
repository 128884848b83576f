"""Paper-ready tables and figures: their numbers, their escapes, and that the PDF can be read."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from pypdf import PdfReader

from notsure.core.errors import ConfigurationError
from notsure.evaluation.detection import detection
from notsure.evaluation.records import Records
from notsure.evaluation.robustness import RobustnessRow, robustness
from notsure.report import write_paper
from notsure.report.contents import document_of
from notsure.report.document import Column, Document, Section, Table
from notsure.report.escaping import latex, markdown
from notsure.report.paper import as_latex, as_markdown
from notsure.report.pdf import as_pdf
from tests.records import attacked, clean, random_records, synthetic

ODD = r"a_b % & $x$ # {c} ~ ^ \d | *e* <i> `f` [g](h) λ ℓ₂ ß 中"
"""A guard's name with all that Markdown, LaTeX and XML take for something else."""


@pytest.fixture(scope="module")
def records() -> Records:
    return random_records({"CE": ["A", "B"], "RCE": ["A"]}, count=80)


@pytest.fixture(scope="module")
def document(records: Records) -> Document:
    return document_of(records)


def tables_of(text: str) -> dict[str, list[dict[str, str]]]:
    """The rows of every Markdown table by the beginning of its caption, as a reader parses it."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    found: dict[str, list[dict[str, str]]] = {}
    caption, heads, cells = "", [""], [""]
    for before, token in pairwise(tokens):
        if before.type == "paragraph_open":
            caption = re.sub(r"^Table \d+\. ", "", plain(token))
        elif before.type == "th_open":
            heads.append(plain(token))
        elif before.type == "td_open":
            cells.append(plain(token))
        elif token.type == "table_open":
            found[caption], heads = [], []
        elif token.type == "tr_open":
            cells = []
        elif token.type == "tr_close" and cells:
            found[caption].append(dict(zip(heads, cells, strict=True)))
    return found


def plain(token: Any) -> str:
    """What is read of a piece of Markdown; markup that nobody meant would be missing in it."""
    return "".join(child.content for child in token.children or [])


def table(tables: dict[str, list[dict[str, str]]], caption: str) -> list[dict[str, str]]:
    [rows] = [rows for name, rows in tables.items() if name.startswith(caption)]
    return rows


def cell(rate: Any, usual: int) -> str:
    text = f"{100 * rate.value:.1f} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"
    return text if rate.n == usual else f"{text} of {rate.n}"


def budget(row: RobustnessRow) -> str:
    assert row.eps is not None
    return f"ℓ∞ {row.eps:g} ({255 * row.eps:g}/255)"  # noqa: RUF001


def test_markdown_holds_the_figures_of_robustness(records: Records, document: Document) -> None:
    tables = tables_of(as_markdown(document))
    rows = robustness(records)
    worst = [row for row in rows if row.attack == "worst case"]
    shown = {(r["eps"], r["guard"], r["threat"]): r for r in table(tables, "Worst case")}
    assert len(shown) == len(worst) == 8
    for row in worst:
        line = shown[budget(row), row.guard, row.threat]
        assert line["lenient"] == cell(row.lenient, 80)
        assert line["strict"] == cell(row.strict, 80)
        assert line["flagged"] == cell(row.flagged, 80)
        assert line["success"] == cell(row.success, -1)
    for guard in records.guards:
        own = [row for row in rows if row.guard == guard and row.attack != "worst case"]
        lines = table(tables, f"{guard}: every attack")
        assert len(lines) == len(own) == 8
        for row in own:
            [line] = [
                one
                for one in lines
                if (one["eps"], one["attack"], one["threat"])
                == (budget(row), row.attack, row.threat)
            ]
            assert line["lenient"] == cell(row.lenient, 80)
            assert line["success"] == cell(row.success, -1)


def test_headline_is_the_worst_case_at_the_largest_eps(
    records: Records, document: Document
) -> None:
    lines = table(tables_of(as_markdown(document)), "What is left of each guard")
    worst = [row for row in robustness(records) if row.attack == "worst case" and row.eps == 0.3]
    assert [(line["guard"], line["threat"]) for line in lines] == [
        (guard, threat) for guard in ("CE", "RCE") for threat in ("oblivious", "white-box")
    ]
    for row in worst:
        [line] = [x for x in lines if (x["guard"], x["threat"]) == (row.guard, row.threat)]
        assert line["clean accuracy"] == cell(row.clean_accuracy, 80)
        assert line["clean rejection"] == cell(row.clean_rejection, 80)
        assert (line["lenient"], line["strict"]) == (cell(row.lenient, 80), cell(row.strict, 80))


def test_markdown_holds_the_figures_of_detection(records: Records, document: Document) -> None:
    tables = tables_of(as_markdown(document))
    successful = table(tables, "CE: detection of the images")
    everything = table(tables, "CE: detection of all")
    own = [row for row in detection(records) if row.guard == "CE"]
    assert len(successful) == len(everything) == len(own) == 16
    for row in own:
        line, other = (
            one
            for lines in (successful, everything)
            for one in lines
            if (one["detector"], one["attack"], one["threat"])
            == (row.detector, row.attack, row.threat)
            and one["eps"] == f"ℓ∞ {row.eps:g}"  # noqa: RUF001
        )
        area = row.successful
        assert line["AUC, made wrong"] == (f"{area.value:.3f} [{area.low:.3f}, {area.high:.3f}]")
        assert line["n"] == str(row.flagged.n) == str(row.false_positives.n)
        assert line["found"] == cell(row.flagged, row.flagged.n)
        assert line["false alarms"] == cell(row.false_positives, row.flagged.n)
        assert other["AUC, all"].startswith(f"{row.everything.value:.3f} [")
        assert other["evaded"] == cell(row.evaded, 80)
        assert other["found, of all"] == cell(row.flagged_everything, 80)
        assert other["false alarms, of all"] == cell(row.false_positives_everything, 80)


def test_every_flag_is_told(records: Records, document: Document) -> None:
    tables = tables_of(as_markdown(document))
    raised = [flag for flag in records.flags() if flag.raised]
    quiet = [flag for flag in records.flags() if not flag.raised]
    assert raised, "80 images are too few"
    told = {line["flag"]: line for line in table(tables, "Flags that are raised")}
    assert list(told) == [flag.name for flag in raised]
    for flag in raised:
        assert told[flag.name]["raised because"] == flag.because
        assert told[flag.name]["what it means"] == flag.means
        assert told[flag.name]["what to do"] == flag.remedy
    others = {line["flag"]: line["answer"] for line in table(tables, "Flags that are not raised")}
    assert others == {flag.name: "not raised" if flag.looked else "not looked at" for flag in quiet}


def test_what_was_not_tested_is_said(document: Document) -> None:
    text = as_markdown(document)
    for threat in ("transfer", "query-scores", "query-decisions"):
        assert f"**Not tested: {threat}.** " in text
    alone = as_markdown(document_of(random_records(threats=("oblivious",))))
    assert "only while the guard stays secret" in alone.split("##")[1]
    assert "only while the guard stays secret" not in text.split("##")[1]


@pytest.fixture(scope="module")
def odd() -> Document:
    return document_of(random_records({ODD: ["A_1"], "plain": []}, data="50 % of $MNIST_2"))


def test_names_read_in_markdown_as_they_were_given(odd: Document) -> None:
    text = as_markdown(odd)
    assert {line["guard"] for line in table(tables_of(text), "Worst case")} == {ODD, "plain"}
    assert "# What is left: 50 % of \\$MNIST\\_2\n" in text


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("a_b", r"a\_b"),
        ("50 % & $5", r"50 \% \& \$5"),
        ("#{x}", r"\#\{x\}"),
        ("~^\\", r"\textasciitilde{}\textasciicircum{}\textbackslash{}"),
        ("<a|b>", r"\textless{}a\textbar{}b\textgreater{}"),
        ("[1]*", "{[}1{]}{*}"),
        ("a--b---c", "a-{}-b-{}-{}-c"),
        (
            "'q' \"q\" `q`",
            r"\textquotesingle{}q\textquotesingle{} "
            r"\textquotedbl{}q\textquotedbl{} \textasciigrave{}q\textasciigrave{}",
        ),
        ("ℓ∞ ℓ₂", r"\ensuremath{\ell_\infty} \ensuremath{\ell}\ensuremath{_2}"),  # noqa: RUF001
        ("λ Σ ×", r"\ensuremath{\lambda} \ensuremath{\Sigma} \ensuremath{\times}"),  # noqa: RUF001
        ("Müller, Çağ", "Müller, Çağ"),
        ("中 😀", r"\othercharacter{中}{4E2D} \othercharacter{😀}{1F600}"),
        ("a\n\tb\x00c", "a b c"),
        ("u\u0308", "ü"),
    ],
)
def test_latex_escapes(given: str, written: str) -> None:
    assert latex(given) == written


def test_markdown_escapes() -> None:
    assert markdown("a\nb\x1b c") == "a b c"
    assert markdown("97.2 [95.5, 98.3] (of 5)") == "97.2 [95.5, 98.3] (of 5)"
    for hostile in ("![x](y)", "<b>", "a|b", "&amp;", "**x**", "\\| x", "$x$", "~~x~~"):
        [rows] = tables_of(f"t\n\n| {markdown(hostile)} |\n| --- |\n| x |").values()
        assert rows == [{hostile: "x"}]


def groups(text: str) -> Iterator[int]:
    """The depth of braces after each character, escaped ones apart."""
    depth = 0
    for found in re.finditer(r"\\.|[{}]", text, flags=re.DOTALL):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        yield depth


def test_latex_is_well_formed(odd: Document) -> None:
    text = as_latex(odd, figures="x-figures")
    depths = list(groups(text))
    assert min(depths) == 0
    assert depths[-1] == 0
    opened: list[str] = []
    for what, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if what == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    # a row has as many cells as its table has columns
    pattern = r"\\begin\{(tabular|longtable)\}\{(.*?)\}\n(.*?)\\end\{\1\}"
    tables = re.findall(pattern, text, flags=re.DOTALL)
    assert len(tables) == sum(len(section.tables) for section in odd.sections)
    for _, preamble, body in tables:
        columns = preamble.count("p{")
        rows = re.findall(r"^ +(?!\\(?:caption|toprule))(.*) \\\\$", body, flags=re.MULTILINE)
        assert rows
        for row in rows:
            assert len(re.findall(r"(?<!\\)&", row)) == columns - 1, row
    labels = re.findall(r"\\label\{(.*?)\}", text)
    assert len(set(labels)) == len(labels)
    assert {f"tab:{table.identifier}" for s in odd.sections for table in s.tables} <= set(labels)


def test_latex_figures_lie_beside_it(records: Records, tmp_path: Path) -> None:
    written = write_paper(records, tmp_path / "my paper_1.tex", kind="tex")
    text = written.read_text(encoding="utf-8")
    wanted = re.findall(r"\\includegraphics\[width=\\linewidth\]\{(.*?)\}", text)
    assert len(wanted) == len(document_of(records).plots)
    for name in wanted:
        assert re.fullmatch(r"[A-Za-z0-9-]+/[a-z0-9-]+\.pdf", name)
        [page] = PdfReader(tmp_path / name).pages
        assert not page.images, "vectors, no pixels"
    assert {path.name for path in (tmp_path / "my-paper-1-figures").iterdir()} == {
        Path(name).name for name in wanted
    }


@pytest.fixture(scope="module")
def pdf(records: Records, tmp_path_factory: pytest.TempPathFactory) -> PdfReader:
    path = tmp_path_factory.mktemp("pdf") / "paper.pdf"
    return PdfReader(write_paper(records, path, kind="pdf", title="My guards"))


def test_pdf_has_the_same_tables(records: Records, document: Document, pdf: PdfReader) -> None:
    assert len(pdf.pages) > 3
    text = re.sub(r"\s+", " ", " ".join(page.extract_text() for page in pdf.pages))
    assert "My guards" in text
    for section in document.sections:
        assert section.heading in text
        for part in section.parts:
            assert re.sub(r"\s+", " ", part.caption) in text
    for row in robustness(records):
        assert cell(row.lenient, 80) in text
    assert pdf.metadata is not None
    assert pdf.metadata.title == "My guards"


def test_pdf_holds_letters_and_vectors(pdf: PdfReader) -> None:
    assert all(abs(page.mediabox.width - 595.28) < 0.1 for page in pdf.pages)
    axes = sum(page.extract_text().count("robust accuracy, %") for page in pdf.pages)
    # lenient and strict under each threat, then each guard's attacks under each
    assert axes == 2 * 2 + 2 * 2
    assert not any(len(page.images) for page in pdf.pages)
    kinds = {
        font.get_object()["/Subtype"]
        for page in pdf.pages
        for font in page["/Resources"]["/Font"].values()  # type: ignore[index]
    }
    assert "/Type3" not in kinds


def test_pdf_takes_any_name(odd: Document) -> None:
    named = [Section(heading=ODD, parts=[*odd.sections[0].parts, *odd.plots[:1]])]
    content = as_pdf(Document(title=ODD, about=ODD, sections=named))
    text = " ".join(page.extract_text() for page in PdfReader(BytesIO(content)).pages)
    for word in ("a_b", "$x$", "{c}", "<i>", "`f`", "[g](h)", "λ", "ß", "[U+4E2D]"):
        assert word in text


def test_the_same_records_give_the_same_bytes(records: Records, document: Document) -> None:
    again = document_of(records)
    assert as_markdown(document) == as_markdown(again)
    first, second = (
        Document(
            title=one.title,
            about="",
            sections=[one.sections[1], Section(heading="h", parts=one.plots[:1])],
        )
        for one in (document, again)
    )
    assert as_pdf(first) == as_pdf(second)


def test_attacks_without_a_budget_and_queries() -> None:
    found = document_of(
        synthetic(
            clean(y=[0, 1, 0, 1]),
            attacked("DeepFool", norm=None, prediction=[1, 0, 1, 1], l2=[0.5, 1.0, 2.0, 0.0]),
            attacked(
                "Square", threat="query-scores", prediction=[1, 0, 0, 1], queries=[5, 50, 99, 99]
            ),
        )
    )
    text = as_markdown(found)
    [line] = [one for one in table(tables_of(text), "How far") if one["attack"] == "DeepFool"]
    assert (line["n"], line["ℓ₂"], line["mean ℓ₂"]) == ("3", "1", "1.17")
    assert line["RMS"] == f"{255 * (3.5 / 3) / 4:.3g}"
    assert "Detection" not in [section.heading for section in found.sections]
    assert len(PdfReader(BytesIO(as_pdf(found))).pages) > 1


def test_transfer_has_its_table() -> None:
    found = document_of(
        synthetic(
            clean(y=[0, 1, 0, 1]),
            attacked("PGD", prediction=[1, 0, 1, 0]),
            attacked("PGD", threat="transfer", substitute="a CNN", prediction=[1, 1, 0, 1]),
        )
    )
    lines = table(tables_of(as_markdown(found)), "Transfer")
    assert {line["substitute"]: line["success"] for line in lines} == {
        "itself": "100.0 [51.0, 100.0] of 4",
        "a CNN": "25.0 [4.6, 69.9] of 4",
    }


def test_long_tables_repeat_their_groups() -> None:
    columns = [Column(head="guard", width=0.5, grouped=True), Column(head="n", width=0.5)]
    short = Table(identifier="t", caption="", columns=columns, rows=[("a", "1"), ("a", "1")])
    assert short.grouped_rows() == [["a", "1"], ["", "1"]]
    long = Table(identifier="t", caption="", columns=columns, rows=[("a", "1")] * 40)
    assert long.grouped_rows() == [["a", "1"]] * 40
    text = as_latex(
        Document(title="", about="", sections=[Section(heading="h", parts=[long])]), figures="f"
    )
    assert r"\begin{longtable}" in text
    with pytest.raises(ConfigurationError, match="2 columns and a row of 1"):
        Table(identifier="t", caption="", columns=columns, rows=[("a",)])


def test_tables_are_as_wide_as_the_page(records: Records, document: Document) -> None:
    for section in document.sections:
        for one in section.tables:
            assert sum(column.width for column in one.columns) == pytest.approx(1), one.identifier


@pytest.mark.parametrize(
    ("kind", "path", "words"),
    [
        ("docx", "x.docx", "md, tex, pdf; got 'docx'"),
        ("md", "", "is a folder"),
        ("pdf", "file/x.pdf", "Cannot write to the output folder"),
    ],
)
def test_files_that_cannot_be_written(
    records: Records, tmp_path: Path, kind: str, path: str, words: str
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=words):
        write_paper(records, tmp_path / path, kind=kind)


def test_records_that_no_paper_can_be_made_of(records: Records, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="clean images alone"):
        write_paper(records.where(threat="clean"), tmp_path / "x.md", kind="md")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("kind", "module"), [("tex", "matplotlib"), ("pdf", "reportlab")])
def test_missing_libraries_are_named(
    records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, module: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == module else find(name)
    )
    with pytest.raises(ConfigurationError, match=rf"needs {module}.*pip install notsure\[paper\]"):
        write_paper(records, tmp_path / "x", kind=kind)
    assert write_paper(records, tmp_path / "x.md", kind="md").exists()


def test_a_folder_is_made(records: Records, tmp_path: Path) -> None:
    assert write_paper(records, tmp_path / "new" / "x.md", kind="md").exists()
