"""Bits against quality as the page draws it."""

import pytest

from crvq.report.dashboard.page import write_dashboard

from .browser import opened, until
from .conftest import perplexity

pytestmark = pytest.mark.browser

TUNED = {"finetune": {"block": {"epochs": 1}, "end_to_end": None}}
HEAD = (
    "source,source_url_or_repo,model,method,avg_bits,dataset_or_task,metric,value,seqlen,note,"
    "confidence\n"
)


def bits(average):
    return {
        "average_quantized_weights": average,
        "average_all_weights": average + 1,
        "quantized_weights": 10,
        "all_weights": 20,
    }


@pytest.fixture
def traces(browser, save_run, tmp_path):
    """What the chart is made of once runs (experiment/id to changes) are saved, by legend."""

    def drawn(runs, fragment="", published=""):
        for place, changes in runs.items():
            save_run(place, **changes)
        if published:
            (tmp_path / "results" / "published.csv").write_text(HEAD + published)
        write_dashboard(tmp_path / "results", tmp_path / "page.html")
        with opened(browser, tmp_path / "page.html", fragment) as page:
            until(page, "document.querySelectorAll('#pareto .main-svg').length > 0")
            data = page.evaluate(
                "document.querySelector('#pareto .chart').data.map(({name, x, y, text, marker, "
                "error_y}) => ({name, x, y, text, symbol: marker && marker.symbol, "
                "bars: error_y && error_y.array}))"
            )
            options = page.locator("#pareto").get_by_label("outcome").inner_text().split("\n")
        return {trace["name"]: trace for trace in data}, options

    return drawn


def run(average, score, model="tiny", seed=0, **config):
    return {
        "bits": bits(average),
        "perplexity": perplexity(score),
        "config": {"model": {"name": model}, "seed": seed, **config},
        "params": {"layout": average},
    }


def test_a_front_for_each_model(traces):
    data, _ = traces({"a/1": run(1, 90.0), "a/2": run(2, 50.0), "a/3": run(1.5, 20.0, "large")})
    assert data["best so far, tiny"]["y"] == [90.0, 50.0]
    assert data["best so far, large"]["y"] == [20.0]


def test_fine_tuned_runs_are_open_and_leave_a_front_to_the_others(traces):
    data, _ = traces(
        {"a/1": run(1, 90.0), "a/2": run(2, 50.0), "a/3": run(1, 40.0, **TUNED)},
        "#by=model",
    )
    assert data["best, fine-tuned or not"]["y"] == [40.0]
    assert data["best without fine-tuning"]["y"] == [90.0, 50.0]
    assert data["tiny"]["symbol"] == ["circle", "circle", "circle-open"]
    assert "fine-tuned: block" in data["tiny"]["text"][2]
    assert "not fine-tuned" in data["tiny"]["text"][0]


def test_seeds_are_one_point_with_their_standard_deviation(traces):
    runs = {f"a/{seed}": run(1, score, seed=seed) for seed, score in enumerate((40.0, 50.0, 60.0))}
    data, _ = traces({**runs, "b/2": runs["a/2"]})  # one run that lies in two experiments
    assert data["crvq"]["y"] == [50.0]
    assert data["crvq"]["bars"] == [10.0]
    assert "over 3 runs" in data["crvq"]["text"][0]


def test_only_measures_of_quality_are_offered(traces):
    measured = run(1, 40.0)
    measured["perplexity"] = perplexity(40.0, quantized_bits_per_byte=1.5)
    _, options = traces({"a/1": {**measured, "peak_memory_bytes": 2**30}})
    assert options == [
        "perplexity of wiki, quantized",
        "perplexity of wiki, ratio to full precision",
        "bits per byte of wiki, quantized",
    ]


PUBLISHED = "P,u.org,M,fp,16,w,ppl,5,4096,,high\nP,u.org,M,A,1,w,ppl,10,4096,n,medium\n"


def test_published_numbers_stand_beside_ratios_with_source_and_confidence(traces):
    data, _ = traces({"a/1": run(1, 40.0)}, published=PUBLISHED)
    assert data["crvq"]["y"] == [2.0]
    (text,) = data["published: M, w"]["text"]
    assert "at: u.org" in text
    assert "confidence in the number: medium" in text


def test_published_perplexities_of_other_models_are_not_drawn_unasked(traces):
    absolute = "#quality=perplexity+of+wiki%2C+quantized"
    data, _ = traces({"a/1": run(1, 40.0)}, absolute, PUBLISHED)
    assert data["crvq"]["y"] == [40.0]
    assert "published: M, w" not in data
    data, _ = traces({}, absolute + "&published=M%7Cw", PUBLISHED)
    assert data["published: M, w"]["y"] == [10]


def test_bars_are_in_view_to_their_upper_ends(browser, save_run, tmp_path):
    for seed, score in enumerate((40.0, 100.0)):
        save_run(f"a/{seed}", **run(1, score, seed=seed))
    write_dashboard(tmp_path / "results", tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        until(page, "document.querySelectorAll('#pareto .main-svg').length > 0")
        _, top = page.evaluate("document.querySelector('#pareto .chart').layout.yaxis.range")
    assert 10**top > 70 + 42.4
