import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crvq.report.figures.pareto import (
    frontier,
    pareto_figure,
    pareto_models,
    pareto_points,
    pareto_protocols,
)
from crvq.report.figures.style import PALETTE, SYMBOLS
from crvq.report.published import read_published

POINT = st.tuples(st.integers(1, 5), st.integers(1, 5))


@given(st.lists(POINT, min_size=1, max_size=8))
def test_the_frontier_is_what_no_point_beats(points):
    bits, perplexity = (pd.Series(values) for values in zip(*points, strict=True))
    best = {
        index
        for index, (b, p) in enumerate(points)
        if not any(x <= b and y <= p and (x, y) != (b, p) for x, y in points)
    }
    flags = frontier(bits, perplexity)
    assert set(flags[flags].index) == best


def test_points_are_settings_with_their_spread(runs_of, make_run):
    seeds = [make_run(v, config={"seed": n}) for n, v in enumerate((40.0, 60.0))]
    points = pareto_points(runs_of(*seeds, make_run(math.inf, reorder="none")))
    assert points["perplexity"].tolist() == [50.0]
    assert points["relative"].tolist() == [5.0]
    assert points["spread"].tolist() == [pytest.approx(math.sqrt(200))]


def test_frontiers_are_of_one_model_and_protocol(runs_of, make_run):
    points = pareto_points(
        runs_of(
            make_run({"wiki": 9.0}),
            make_run({"c4": 50.0}, bits=2.0, reorder="none"),
            make_run({"wiki": 70.0}, bits=3.0, model="other"),
        )
    )
    assert points["best"].tolist() == [True, True, True]


def test_the_figure_holds_all_points_and_says_them(runs_of, make_run):
    figure = pareto_figure(
        runs_of(make_run(50.0, bits=1.25), make_run(30.0, bits=9.0, group_size=4))
    )
    points, line = figure.data
    assert list(points.x) == [1.25]  # 9 bits are beyond the figure
    assert list(points.y) == [5.0]
    assert "perplexity 50" in points.text[0]
    assert line.mode == "lines"
    assert list(pareto_figure(runs_of(make_run(50.0)), relative=False).data[0].y) == [50.0]


def names(figure):
    return [trace.name for trace in figure.data]


def test_one_protocol_a_figure(runs_of, make_run):
    both = make_run({"wiki": 50.0, "c4": 70.0})
    runs = runs_of(both, make_run({"c4": 80.0}, bits=1.0, reorder="none"))
    assert list(pareto_figure(runs, relative=False).data[0].y) == [80.0, 70.0]
    one = pareto_figure(runs, relative=False, protocol="wiki, 64")
    assert list(one.data[0].y) == [50.0]
    assert one.layout.title.text.endswith("wiki, 64")
    assert "on other" in pareto_figure(runs, protocol="other").layout.annotations[0].text


def test_one_model_a_figure(runs_of, make_run):
    runs = runs_of(make_run(70.0, model="other"), make_run(9.0), make_run(8.0, reorder="none"))
    (protocol,) = pareto_protocols(runs)
    assert pareto_models(runs, protocol) == ["tiny", "other"]
    figure = pareto_figure(runs, protocol=protocol, model="other", relative=False)
    assert [list(trace.y) for trace in figure.data] == [[70.0], [70.0]]  # the point, its frontier
    assert "tiny" not in figure.layout.title.text
    assert pareto_models(runs_of(), None) == []


def test_a_method_looks_alike_in_the_figures_of_all_models(runs_of, make_run):
    runs = runs_of(make_run(method="aqlm"), make_run(), make_run(70.0, model="other"))
    for model in ("tiny", "other"):
        traces = {trace.name: trace for trace in pareto_figure(runs, model=model).data}
        marker = traces["CRVQ"].marker
        assert (marker.color, marker.symbol) == (PALETTE[1], SYMBOLS[1]), model


def test_frontiers_of_several_models_are_told_apart(runs_of, make_run):
    figure = pareto_figure(runs_of(make_run(70.0, model="other"), make_run(9.0)))
    lines = {trace.name: trace.line.color for trace in figure.data if trace.mode == "lines"}
    assert set(lines) == {"frontier, other", "frontier, tiny"}
    assert len(set(lines.values())) == 2


def test_protocols_with_enough_settings(runs_of, make_run):
    runs = runs_of(
        make_run({"wiki": 50.0, "c4": 70.0, "own": 1.0}),
        make_run({"c4": 80.0, "own": 2.0}, bits=1.0, reorder="none"),
    )
    assert pareto_protocols(runs, least=2) == ["c4, 64", "own, 64"]
    assert pareto_protocols(runs, least=9) == ["c4, 64"]
    assert pareto_protocols(runs_of()) == []


def test_fine_tuned_settings_stand_apart(runs_of, make_run):
    tuned = {"finetune": {"end_to_end": {"epochs": 1}}}
    figure = pareto_figure(runs_of(make_run(50.0), make_run(20.0, config=tuned)))
    plain, opened, *_ = figure.data
    assert names(figure) == ["CRVQ", "CRVQ, fine-tuned", "frontier", "frontier, fine-tuned"]
    assert [plain.marker.symbol, opened.marker.symbol] == ["circle", "circle-open"]
    assert "fine-tuning: end to end" in opened.text[0]
    assert "fine-tuning: none" in plain.text[0]


def test_methods_out_of_view_are_last_in_the_legend(runs_of, make_run):
    figure = pareto_figure(runs_of(make_run(50.0), make_run(1e14, method="aqlm", bits=1.0)))
    ranks = {trace.name: trace.legendrank for trace in figure.data}
    assert ranks["AQLM"] > 1000
    assert ranks["CRVQ"] is None


def test_published_points_are_in_view(runs_of, make_run, tmp_path):
    (tmp_path / "published.csv").write_text(
        "source,source_url_or_repo,model,method,avg_bits,dataset_or_task,metric,value,seqlen,note,"
        "confidence\n"
        "A paper,url,M,FP16,16,wiki,ppl,5,2048,,high\n"
        "A paper,url,M,VQ,4,wiki,ppl,5.5,2048,,low\n"
        "A paper,url,M,VQ,1,wiki,ppl,4000,2048,,low\n"
    )
    runs = runs_of(make_run(50.0), make_run(1e14, group_size=4))
    figure = pareto_figure(runs, read_published(tmp_path))
    low, high = (10**end for end in figure.layout.yaxis.range)
    assert low < 1.1
    assert high > 800


def test_published_points_tell_their_source(runs_of, make_run, tmp_path):
    (tmp_path / "published.csv").write_text(
        "source,source_url_or_repo,model,method,avg_bits,dataset_or_task,metric,value,seqlen,note,"
        "confidence\n"
        "A paper,url,M,FP16,16,wiki,ppl,5,2048,,high\n"
        "A paper,url,M,VQ <b>,~1,wiki,ppl,20,2048,a note,low\n"
        "A paper,url,M,wreck,1,wiki,ppl,99999,2048,,low\n"
        "A paper,url,M,unread,1,wiki,ppl,,2048,,low\n"
    )
    published = read_published(tmp_path)
    faint = pareto_figure(runs_of(make_run()), published).data[0]
    assert list(faint.x) == [1.0]
    assert list(faint.y) == [4.0]
    for said in ("VQ &lt;b&gt;", "source: A paper", "confidence: low", "a note", "2048"):
        assert said in faint.text[0]
    absolute = pareto_figure(runs_of(make_run()), published, relative=False)
    assert not any("published" in (trace.name or "") for trace in absolute.data)


def test_names_cannot_bring_markup(runs_of, make_run):
    run = make_run(model="<img src=x>", method="<script>")
    assert "<img" not in pareto_figure(runs_of(run)).to_json().replace("\\u003c", "<")


def test_nothing_to_show_says_so(runs_of, make_run):
    for runs in (pd.DataFrame(), runs_of(make_run({}))):
        assert "No finished run" in pareto_figure(runs).layout.annotations[0].text


def test_ruins_do_not_squeeze_the_rest(runs_of, make_run):
    """They stay in the figure, above the part that is shown first."""
    figure = pareto_figure(runs_of(make_run(50.0), make_run(1e14, group_size=4)))
    (low, high), (points, *_) = figure.layout.yaxis.range, figure.data
    assert sorted(points.y) == [5.0, 1e13]
    assert 10**low < 5.0 < 10**high < 1000
    assert "1 above" in figure.layout.annotations[0].text
    assert pareto_figure(runs_of(make_run(1e14))).layout.yaxis.range is None
