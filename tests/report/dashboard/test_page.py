import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crvq.report.dashboard.page import json_block, write_dashboard
from crvq.report.dashboard.runs import NoRunsError


class Page(HTMLParser):
    """Tags with their attributes, and the text of every script and style."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.style = [], [], ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._inside = tag
        if tag == "script":
            self.scripts.append((dict(attributes), ""))

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        elif self._inside == "style":
            self.style += data

    @property
    def data(self):
        return next(text for attributes, text in self.scripts if attributes.get("id") == "data")

    @property
    def code(self):
        return [text for attributes, text in self.scripts if "type" not in attributes]

    @property
    def policy(self):
        return next(
            attributes["content"]
            for tag, attributes in self.tags
            if attributes.get("http-equiv") == "Content-Security-Policy"
        )


@pytest.fixture(scope="module")
def written(all_kinds, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "new" / "page.html"
    write_dashboard(all_kinds, out)
    return out.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(written):
    return Page(written)


def test_nothing_is_fetched(page):
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base", "img"}
        for name in ("src", "srcset", "data", "action", "background"):
            assert name not in attributes, (tag, attributes)
        assert attributes.get("href", "#").startswith("#")
    assert "url(" not in page.style
    assert "@import" not in page.style
    assert "default-src 'none'" in page.policy


def test_the_policy_lets_these_scripts_run_and_no_others(page):
    assert len(page.code) == 2
    assert sum(code.startswith("/**\n* plotly.js") for code in page.code) == 1
    allowed = set(re.findall(r"'sha256-([^']+)'", page.policy))
    digests = {
        base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in page.code
    }
    assert allowed == digests
    assert "unsafe-inline" not in page.policy.split("script-src")[1].split(";")[0]
    assert "unsafe-eval" not in page.policy


def test_hostile_strings_are_data(written, page):
    assert "</script><img" not in written
    assert "onerror=alert(1)>" not in written
    runs = {run["key"]: run for run in json.loads(page.data)["runs"]}
    assert runs["trouble/hostile"]["notes"] == ["</script><img src=x onerror=alert(1)>&<b>\u2028"]


def test_the_folder_s_name_is_escaped(save_run, tmp_path):
    results = save_run("a/1")
    hostile = tmp_path / "<script>alert(1)<"
    results.rename(hostile)
    write_dashboard(hostile, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in text
    assert "&lt;script&gt;alert(1)" in text


@settings(deadline=None, max_examples=50)
@given(st.recursive(st.none() | st.text() | st.integers(), lambda inner: st.lists(inner)))
def test_json_in_a_script_reads_back_and_cannot_end_it(value):
    text = json_block(value)
    assert json.loads(text) == value
    assert not set(text) & set("<>&\u2028\u2029")


def test_json_without_names_for_nan():
    with pytest.raises(ValueError, match="JSON"):
        json_block(float("nan"))


def test_no_runs_leave_no_page(tmp_path):
    with pytest.raises(NoRunsError):
        write_dashboard(tmp_path, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_only_a_watched_page_reloads(save_run, tmp_path, page):
    assert all("data-reload" not in attributes for _, attributes in page.tags)
    write_dashboard(save_run("a/1"), tmp_path / "page.html", reload_seconds=7.0)
    watched = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert [attributes["data-reload"] for tag, attributes in watched.tags if tag == "body"] == [
        "7.0"
    ]
