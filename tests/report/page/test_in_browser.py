"""The page as a reader meets it. One browser serves all tests; each opens a fresh page."""

import csv
import io

import pytest

from crvq.report.page.server import Page

from .browser import opened, until

pytestmark = pytest.mark.browser

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
COMMAND = "python run.py method=crvq 'a.b=<c>'"


@pytest.fixture(scope="module")
def file(all_kinds, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "page.html"
    Page(all_kinds, command=lambda record: COMMAND).write(out)
    return out


def rows(page):
    return page.locator("#run-table tbody tr").evaluate_all(
        "lines => lines.map(line => line.dataset.key)"
    )


def run(page, key):
    return page.locator(f"#run-table tr[data-key='{key}'] a.run")


def test_sort_search_and_columns_stand_in_the_address(browser, file):
    with opened(browser, file) as page:
        assert len(rows(page)) == 11
        page.locator("#run-table thead th", has_text="ppl wiki 64").first.click()
        upward = [f"sweep/run{number}" for number in (5, 4, 3, 2, 1, 0)]
        until(page, "document.querySelector('#run-table tbody tr').dataset.key === 'sweep/run5'")
        assert [key for key in rows(page) if key.startswith("sweep")] == upward
        page.locator("input[type=search]").first.fill("trouble")
        until(page, "document.querySelectorAll('#run-table tbody tr').length === 5")
        page.get_by_role("button", name="columns").click()
        page.locator(".dt-button-collection button", has_text="critical_ratio").first.click()
        page.keyboard.press("Escape")
        assert page.locator("#run-table thead th", has_text="critical_ratio").count() == 1
        page.reload()
        page.wait_for_selector("body[data-ready]")
        assert len(rows(page)) == 5
        assert page.locator("#run-table thead th", has_text="critical_ratio").count() == 1


def test_a_run_shows_its_error_its_command_and_hostile_strings_do_nothing(browser, file):
    with opened(browser, file) as page:
        run(page, "trouble/hostile").click()
        panel = page.locator("#panel")
        assert "<img src=x onerror=alert(1)>" in panel.inner_text()
        assert panel.locator("pre", has_text="a.b=<c>").inner_text() == COMMAND
        panel.locator(".command button").click()
        until(page, "/copied|selected/.test(document.querySelector('.command button').textContent)")
        page.keyboard.press("Escape")
        assert page.locator("img").count() == 0
        page.locator("#failures a", has_text="failed").first.click()
        assert "k_proj is not finite" in panel.inner_text()
        page.keyboard.press("Escape")
        run(page, "sweep/run3").click()
        until(page, "document.querySelectorAll('#panel .main-svg').length > 0")
        assert "0.01 → 0.0075" in panel.inner_text()  # asked and used


def test_two_runs_side_by_side(browser, file):
    with opened(browser, file) as page:
        assert page.locator("#compare").is_disabled()
        for key in ("sweep/run0", "sweep/run3"):
            page.locator(f"#run-table tr[data-key='{key}'] input").check()
        page.get_by_role("button", name="compare 2 runs").click()
        text = page.locator("#panel").inner_text()
        assert "method_params.critical_ratio" in text
        assert "codebooks" not in text  # the same in both
        until(page, "document.querySelectorAll('#panel .main-svg').length > 0")


def test_figures_are_drawn_in_both_themes_and_fit_a_phone(browser, file):
    with opened(browser, file, color_scheme="dark", **PHONE) as page:
        for section in ("pareto", "sweeps"):
            page.locator(f"#{section}").scroll_into_view_if_needed()
            until(page, f"document.querySelectorAll('#{section} .main-svg').length > 0")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.locator("#theme").select_option("light")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
        heads = page.locator("#sweeps figcaption").all_inner_texts()
        assert heads == ["ppl wiki 64 along critical_ratio", "parallel coordinates", "what matters"]


def test_saved_csv_holds_no_cell_that_a_spreadsheet_would_run(browser, save_run, tmp_path):
    results = save_run("a/1", params={"note": "=1+1"})
    save_run("a/2", params={"note": "plain"})
    Page(results).write(tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        page.get_by_role("button", name="columns").click()
        page.locator(".dt-button-collection button", has_text="note").first.click()
        page.keyboard.press("Escape")
        with page.expect_download() as download:
            page.get_by_role("button", name="save as CSV").click()
        table = list(csv.DictReader(io.StringIO(download.value.path().read_text("utf-8-sig"))))
    assert [row["note"] for row in table] == ["'=1+1", "plain"]
