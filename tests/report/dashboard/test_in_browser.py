"""The page as a reader meets it. One browser serves all tests; each opens a fresh page."""

import csv
import io
from itertools import pairwise

import pytest

from crvq.report.dashboard.page import write_dashboard

from .browser import opened, until
from .conftest import perplexity

pytestmark = pytest.mark.browser

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@pytest.fixture(scope="module")
def file(all_kinds, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "page.html"
    write_dashboard(all_kinds, out)
    return out


def rows(page):
    return page.locator("#run-table tbody tr").evaluate_all(
        "lines => lines.map(line => line.dataset.key)"
    )


def charts(page, section):
    return page.locator(f"#{section} .js-plotly-plot:has(.main-svg)").count()


def test_everything_is_drawn_and_hostile_strings_do_nothing(browser, file):
    with opened(browser, file) as page:
        assert len(rows(page)) == 11
        until(page, "document.querySelectorAll('.main-svg').length > 8")
        assert charts(page, "pareto") == 1
        assert charts(page, "sweeps") == 2
        assert charts(page, "layers") == 1
        assert charts(page, "finetune") == 2
        assert page.locator("#progress .item").count() == 1
        assert "Not running any more" not in page.locator("#progress").inner_text()
        assert "Not running any more" in page.locator("#failures").inner_text()
        assert "k_proj is not finite" in page.locator("#failures").inner_text()
        assert "onerror=alert(1)" in page.locator("#notices").inner_text()
        assert page.locator("img").count() == 0
        assert "top-1 agreement" in page.locator("#scores").inner_text()
        assert page.locator("#scores .near").count() > 0
        page.get_by_role("button", name="onerror").first.click()
        assert "onerror=alert(1)" in page.locator("dialog").inner_text()
        page.keyboard.press("Escape")
        page.get_by_role("button", name="critical_ratio=0.01").first.click()
        details = page.locator("dialog").inner_text()
        assert "[object" not in details
        assert "0.0075" in details  # what was used where 0.01 was asked
        assert "42 s" not in details  # each stage by itself
        assert "40 s" in details


def test_filters_and_search_and_an_address_that_keeps_them(browser, file):
    with opened(browser, file) as page:
        page.locator("#filters").get_by_label("status").select_option("failed")
        assert set(rows(page)) == {"trouble/failed", "trouble/hostile"}
        page.get_by_role("button", name="clear").click()
        assert len(rows(page)) == 11
        page.locator("#search").fill("method_params.critical_ratio=0.01 reorder=none")
        until(page, "document.querySelectorAll('#run-table tbody tr').length === 1")
        assert rows(page) == ["sweep/run3"]
        assert page.locator("#count").inner_text() == "1 of 11 runs"
        page.reload()
        page.wait_for_selector("#run-table")
        assert rows(page) == ["sweep/run3"]
    with opened(browser, file, "#experiment=sweep") as page:
        assert len(rows(page)) == 6
        assert page.get_by_role("button", name="reorder", exact=True).count() == 1


def test_sorting_by_any_column_with_the_keyboard(browser, file):
    with opened(browser, file, "#experiment=sweep") as page:
        head = page.locator("#run-table button.sort", has_text="ppl wiki").first
        head.focus()
        page.keyboard.press("Enter")
        upward = rows(page)
        assert upward == [f"sweep/run{number}" for number in (5, 4, 3, 2, 1, 0)]
        page.keyboard.press("Enter")
        assert rows(page) == upward[::-1]
        assert page.locator("#run-table th[aria-sort=descending]").count() == 1


def test_runs_without_a_value_come_last_either_way(browser, file):
    for direction in ("up", "down"):
        with opened(browser, file, f"#sort=bits|{direction}") as page:
            assert set(rows(page)[-3:]) == {"trouble/running", "trouble/dead", "trouble/damaged"}


def test_saved_csv_reads_back_and_holds_no_formulas(browser, save_run, tmp_path):
    results = save_run("a/1", params={"note": "=1+1"})
    save_run("a/2", params={"note": 'say "so", twice'})
    write_dashboard(results, tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html", "#experiment=a") as page:
        with page.expect_download() as download:
            page.get_by_role("button", name="save as CSV").click()
        table = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
    assert [row["run_id"] for row in table] == ["1", "2"]
    assert [row["note"] for row in table] == ["'=1+1", 'say "so", twice']
    assert float(table[0]["bits"]) == 2.125


def background(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_light_and_dark(browser, file):
    with opened(browser, file, color_scheme="dark") as page:
        dark = background(page)
        page.get_by_label("theme").select_option("light")
        light = background(page)
        page.reload()
        page.wait_for_selector("#run-table")
        assert background(page) == light
    assert sum(map(int, dark[4:-1].split(","))) < 150
    assert sum(map(int, light[4:-1].split(","))) > 600


def test_a_phone_s_width_does_not_scroll_sideways(browser, file):
    with opened(browser, file, **PHONE) as page:
        until(page, "document.querySelectorAll('.main-svg').length > 8")
        page.locator("details").evaluate_all("all => all.forEach(one => { one.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        beyond = page.locator(".chart").evaluate_all(
            "all => all.filter(one => one.getBoundingClientRect().right > innerWidth).length"
        )
        assert beyond == 0


def test_a_choice_of_run_measure_and_outcome_redraws(browser, file):
    with opened(browser, file) as page:
        layers = page.locator("#layers")
        layers.get_by_label("run", exact=True).select_option("sweep/run0")
        layers.get_by_label("measure").select_option("bits")
        layers.get_by_label("divided by").select_option("sweep/run1")
        ratios = "document.querySelector('#layers .chart').data[0].z.flat()"
        until(page, f"{ratios}.length === 6")
        assert page.evaluate(ratios) == [0] * 6  # logarithms of 1
        page.locator("#sweeps").get_by_label("outcome").select_option("bits per quantized weight")
        drawn = "document.querySelector('#sweeps .chart').data.flatMap(line => line.y)"
        until(page, f"{drawn}.every(y => y === 2.125)")


def test_a_watched_page_reloads_and_keeps_its_place(browser, save_run, tmp_path):
    results = save_run("a/1")
    out = tmp_path / "page.html"
    write_dashboard(results, out, reload_seconds=1)
    with opened(browser, out, "#search=crvq") as page:
        page.evaluate("scrollTo(0, 200)")
        save_run("a/2", params={"critical_ratio": 0.5})
        write_dashboard(results, out, reload_seconds=1)
        until(page, "document.querySelectorAll('#run-table tbody tr').length === 2")
        until(page, "scrollY === 200")
        assert page.locator("#search").input_value() == "crvq"


def test_an_axis_has_a_short_name_and_its_hover_tells_what_was_used_and_bits(browser, file):
    with opened(browser, file, "#experiment=sweep") as page:
        until(page, "document.querySelectorAll('#sweeps .main-svg').length > 0")
        chart = "document.querySelector('#sweeps .js-plotly-plot')"
        assert page.evaluate(f"{chart}.layout.xaxis.title.text") == "critical_ratio"
        texts = page.evaluate(f"{chart}.data.flatMap(line => line.text)")
        hover = next(text for text in texts if text.startswith("critical_ratio=0.02"))
        assert "critical_ratio, asked → used: 0.02 → 0.015" in hover
        assert "2.125 bits per quantized weight" in hover


def test_a_lying_log_axis_has_as_few_ticks_as_fit_a_phone(browser, save_run, tmp_path):
    names = ("a rather long name of a setting", "another rather long name")
    for number, score in enumerate((50.0, 1200.0)):
        save_run(f"a/{number}", params={"importance": names[number]}, perplexity=perplexity(score))
    write_dashboard(tmp_path / "results", tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html", **PHONE) as page:
        until(page, "document.querySelectorAll('#sweeps .xtick').length > 0")
        boxes = page.locator("#sweeps .xtick").evaluate_all(
            "all => all.map(one => one.getBoundingClientRect()).map(box => [box.left, box.right])"
        )
        assert all(right < left for (_, right), (left, _) in pairwise(boxes))


def test_seeds_of_two_kinds_keep_their_full_names(browser, save_run, tmp_path):
    for number in (0, 1):
        save_run(f"a/{number}", config={"seed": number, "calibration": {"seed": number}})
    write_dashboard(tmp_path / "results", tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        told = page.locator("#differences summary").first.inner_text()
        assert told.endswith("differ in seed, calibration.seed")
