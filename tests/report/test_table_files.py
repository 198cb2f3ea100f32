import io
import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from crvq.report.paper_table import Column, PaperTable
from crvq.report.table_files import (
    escape_latex,
    inert_cell,
    to_csv,
    to_latex,
    to_markdown,
    write_tables,
)

NASTY = r"a_b & 50 % of {x}^2 ~ \alpha #1 $5 <b> |c| `d` *e* [f](g) λ=0.02 → 0.01"
TEXT = st.text(st.sampled_from(r"ab \{}$&#%_^~<>|`*[]()!λ±→"), min_size=1).filter(str.strip)


def table_of(*names, **changes):
    frame = pd.DataFrame(
        {
            "name": list(names),
            "ppl": [57.89606211251333 + n for n in range(len(names))],
            "ppl std": [1.25] * len(names),
            "run_ids": [f"r{n}" for n in range(len(names))],
        }
    )
    columns = (
        Column("name", "na_me"),
        Column("ppl", "perplexity", "perplexity"),
        Column("absent", "absent", "bits"),
        Column("run_ids", "runs", only_csv=True),
    )
    values = {"name": "t_1", "title": "T & U", "frame": frame, "columns": columns, **changes}
    return PaperTable(**values)


def cells_seen_by_markdown(text):
    html = MarkdownIt("commonmark").enable("table").render(text)
    found = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", html)
    entities = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&amp;": "&"}
    for entity, letter in entities.items():
        found = [cell.replace(entity, letter) for cell in found]
    return found


def latex_text(escaped):
    """What LaTeX would print: an inverse that knows nothing of how escaping is done."""
    words = {
        "textbackslash": "\\",
        "textasciicircum": "^",
        "textasciitilde": "~",
        "textless": "<",
        "textgreater": ">",
        "textbar": "|",
    }
    maths = {r"\pm": "±", r"\lambda": "λ", r"\to": "→"}
    text, at = "", 0
    while at < len(escaped):
        rest = escaped[at:]
        if word := re.match(r"\\([a-z]+)\{\}", rest):
            text += words[word[1]]
            at += len(word[0])
        elif rest[0] == "\\":
            assert rest[1] in "{}$&#%_"
            text += rest[1]
            at += 2
        elif formula := re.match(r"\$(\\[a-z]+)\$", rest):
            text += maths[formula[1]]
            at += len(formula[0])
        else:
            assert rest[0] not in "{}$&#%_^~<>|"
            text += rest[0]
            at += 1
    return text


def test_markdown_shows_every_letter_and_no_provenance():
    text = to_markdown(table_of(NASTY, "x"))
    assert cells_seen_by_markdown(text) == [
        "na_me", "perplexity", NASTY, "57.9 ± 1.2", "x", "58.9 ± 1.2",
    ]  # fmt: skip
    assert "r0" not in text


@given(TEXT)
def test_markdown_never_changes_a_cell(name):
    seen = cells_seen_by_markdown(to_markdown(table_of(name)))
    assert seen[2] == " ".join(name.split())


@given(TEXT)
def test_latex_never_changes_a_cell(text):
    assert latex_text(escape_latex(text)) == text


def test_latex_is_a_booktabs_table():
    text = to_latex(table_of("a", "b", "c", section="name", notes=("50 % noise",)))
    assert r"\caption{T \& U}" in text
    assert r"\label{tab:t-1}" in text
    assert r"\begin{tabular}{lr}" in text
    assert text.count(r"\midrule") == 3  # below the head, and between three sections
    assert r"a & 57.9 $\pm$ 1.2 \\" in text
    assert r"50 \% noise" in text
    assert text.count("{") == text.count("}")


def test_long_text_is_wrapped_in_latex():
    assert r"p{0.60\linewidth}r}" in to_latex(table_of("word " * 20))


def test_what_fits_no_page_is_a_longtable_and_the_rest_floats():
    short, long = to_latex(table_of("a")), to_latex(table_of(*map(str, range(60))))
    assert (r"\begin{table}" in short, r"\begin{longtable}" in short) == (True, False)
    assert (r"\begin{table}" in long, r"\begin{longtable}" in long) == (False, True)
    for text in (short, long):
        assert all(
            text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}")
            for name in ("table", "tabular", "longtable")
        )


def test_csv_reads_back_equal():
    table = table_of(NASTY, 'quote " and, comma')
    back = pd.read_csv(io.StringIO(to_csv(table)))
    pd.testing.assert_frame_equal(back, table.frame, check_exact=True)


def test_an_empty_table_says_how_to_fill_it():
    empty = table_of(frame=pd.DataFrame(), made_by="python run.py")
    for text in (to_markdown(empty), to_latex(empty)):
        assert "No records for this table yet. Run `python run.py` first." in text


@pytest.mark.parametrize("notes", [(), ("said why",)])
def test_files_of_tables_without_rows_do_not_stay(tmp_path, notes):
    write_tables([table_of("a")], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"t_1.md", "t_1.tex", "t_1.csv"}
    write_tables([table_of(frame=pd.DataFrame(), notes=notes)], tmp_path)
    assert bool(list(tmp_path.iterdir())) is bool(notes)
    if notes:
        assert "said why" in (tmp_path / "t_1.md").read_text()
        assert "said why" in (tmp_path / "t_1.tex").read_text()


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+A1",
        "-A1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "  =1",
        '=HYPERLINK("http://x","y")',
        "+.5 bits",
    ],
)
def test_no_cell_is_a_formula_to_a_spreadsheet(text):
    table = table_of(text, "plain")
    read = pd.read_csv(io.StringIO(to_csv(table)), dtype=str, keep_default_na=False)
    assert read["name"].tolist() == [f"'{text}".replace("\r", "\n"), "plain"]
    assert inert_cell(inert_cell(text)) == inert_cell(text)


def test_numbers_are_no_formulas():
    frame = table_of("a").frame.assign(ppl=[-0.5], name=["-1.25e-05"])
    read = pd.read_csv(io.StringIO(to_csv(table_of("a", frame=frame))))
    assert read["ppl"].tolist() == [-0.5]
    assert read["name"].tolist() == [-1.25e-05]


def test_a_head_is_no_formula():
    table = table_of("a")
    frame = table.frame.rename(columns={"name": "=cmd"})
    table = table_of("a", frame=frame, columns=(Column("=cmd", "x"),))
    assert to_csv(table).splitlines()[0] == "'=cmd"
