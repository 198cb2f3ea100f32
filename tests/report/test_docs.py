"""The README and docs/ quote what shipped records hold, and link to files that are there."""

import os
import re
from pathlib import Path

import pytest

from crvq.report.records import load_records

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md"))]
RUNS = {
    "`crvq`, the default": ("crvq", 2.257),
    "`gptvq`": ("gptvq", 2.166),
    "`aqlm_2x8g8`": ("aqlm", 2.153),
    "`crvq_paper`": ("crvq", 1.297),
    "`crvq_1bit`": ("crvq", 1.100),
    "`aqlm`": ("aqlm", 1.088),
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
    missing = [
        link
        for link in links
        if not link.startswith("http") and not os.path.exists(page.parent / link)
    ]
    assert missing == []


def test_the_results_table_is_that_of_the_records():
    records = load_records(ROOT / "results", "smollm2-main-table")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, (method, bits) in RUNS.items():
        (line,) = [row for row in readme.splitlines() if row.startswith("|") and f"({name})" in row]
        quoted = [cell.strip(" *").replace(",", "") for cell in line.split("|")[2:6]]
        close = (records["bits.average_quantized_weights"] - bits).abs() < 5e-4
        (record,) = records[close & (records["method"] == method)].to_dict("records")
        measured = [
            record[f"perplexity.{text}.quantized"] for text in ("wikipedia", "wikitext2", "c4")
        ]
        digits = [len(cell.partition(".")[2]) for cell in quoted]
        values = [record["bits.average_quantized_weights"], *measured]
        assert quoted == [f"{value:.{d}f}" for value, d in zip(values, digits, strict=True)], name


def test_the_critical_ratios_are_those_of_the_records():
    records = load_records(ROOT / "results", "smollm2-critical-ratio")
    text = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    section = text.partition("## The critical ratio")[2].partition("\n## ")[0]
    quoted = re.findall(r"^\| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", section, re.M)
    measured = [
        (f"{row['config.method_params.critical_ratio']:g}",
         f"{row['bits.average_quantized_weights']:.3f}",
         f"{row['perplexity.wikipedia.quantized']:.1f}")
        for row in records.to_dict("records")
    ]  # fmt: skip
    assert len(quoted) == 7
    assert sorted(quoted) == sorted(measured)
