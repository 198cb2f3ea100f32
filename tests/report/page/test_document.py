"""The page as a file: what it holds, and that strings of records stay strings."""

import base64
import gzip
import html
import json
import re

import pytest

from crvq.report.page.document import render
from crvq.report.page.sections import page_payload
from crvq.report.page.server import Page, PageError
from crvq.report.runs import NoRunsError, load_runs

from .conftest import ATTACK, perplexity


@pytest.fixture(scope="module")
def payload(all_kinds):
    return page_payload(load_runs(all_kinds), all_kinds, lambda record: "python run.py")


def titles(payload):
    return [column["title"] for column in payload["columns"]]


def rows(payload, title):
    place = titles(payload).index(title)
    return {row["runs"][0]: row["cells"][place] for row in payload["rows"]}


def test_every_run_is_a_row_and_failed_ones_say_why(payload):
    status = rows(payload, "status")
    assert len(status) == 11
    assert status["trouble/failed"][:3] == ["failed", "failed", "k_proj is not finite"]
    assert status["trouble/dead"][0] == "stopped"
    assert status["trouble/damaged"][0] == "damaged"
    assert {one["key"] for one in payload["failures"]} == {
        "trouble/failed",
        "trouble/hostile",
        "trouble/damaged",
    }


def test_values_stand_under_their_protocol_with_full_precision_next_to_them(payload):
    shown, value, about = rows(payload, "ppl wiki 64")["sweep/run1"]
    assert (shown, value) == ("90.00", 90.0)
    assert "full precision 20.00" in about
    assert rows(payload, "arc")["sweep/run0"][0] == "27.0 ≈"  # within two standard errors of 25


def test_seeds_are_one_row_with_mean_and_deviation(save_run):
    for seed, value in enumerate((90.0, 94.0)):
        results = save_run(f"a/{seed}", config={"seed": seed}, perplexity=perplexity(value))
    found = page_payload(load_runs(results), results, lambda record: None)
    (row,) = found["rows"]
    assert row["runs"] == ["a/0", "a/1"]
    assert rows(found, "ppl wiki 64")["a/0"][0] == "92.0 ± 2.8"  # sqrt(8)


def test_strings_of_records_are_escaped_in_cells_and_end_no_script(payload, all_kinds):
    cells = [cell[:2] for row in payload["rows"] for cell in row["cells"]]
    assert not any("<" in str(part) for cell in cells for part in cell)
    text = render(payload)
    assert ATTACK not in text
    assert len(re.findall("</script>", text)) == 4
    packed = re.search(r'id="data">([^<]*)<', text)[1]
    assert json.loads(gzip.decompress(base64.b64decode(packed))) == payload


def test_the_policy_lets_only_a_served_page_ask_its_server(payload):
    assert "connect-src 'none'" in html.unescape(render(payload))
    served = html.unescape(render({**payload, "stamp": "1"}))
    assert "connect-src 'self'" in served
    assert "default-src 'none'" in served


def test_a_page_goes_only_where_it_was_asked_for(all_kinds, tmp_path):
    with pytest.raises(PageError, match=r"name the file to write, such as .*report\.html"):
        Page(all_kinds).write(tmp_path)
    with pytest.raises(NoRunsError, match="holds no runs"):
        Page(tmp_path).write(tmp_path / "page.html")
    assert len(Page(all_kinds, "sweep").write(tmp_path / "page.html")) == 6
