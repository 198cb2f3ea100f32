import math

import pandas as pd
import pytest

from crvq.report.perplexity_columns import (
    FULL_PRECISION,
    QUANTIZED,
    add_perplexities,
    is_partial,
    protocol_labels,
    protocols_by_settings,
)
from crvq.tracking.json_values import flatten


def frame_of(*perplexities):
    return pd.DataFrame([flatten({"perplexity": entry}) for entry in perplexities])


def entry(value, tokens=640, context=64, **more):
    return {"quantized": value, "full_precision": 2.0, "tokens": tokens, "context": context, **more}


def test_values_stand_under_their_protocol():
    runs = add_perplexities(frame_of({"wiki": entry(5.0)}, {"wiki": entry(7.0), "c4": entry(9.0)}))
    assert protocol_labels(runs) == ["wiki, 64", "c4, 64"]
    assert runs[f"{QUANTIZED}wiki, 64"].tolist() == [5.0, 7.0]
    assert runs[f"{FULL_PRECISION}wiki, 64"].tolist() == [2.0, 2.0]
    c4 = runs[f"{QUANTIZED}c4, 64"].tolist()
    assert math.isnan(c4[0])
    assert c4[1] == 9.0


def test_contexts_caps_and_protocols_never_share_a_column():
    kinds = [
        entry(1.0),
        entry(2.0, context=128),
        entry(3.0, windows=2, windows_available=9),
        entry(4.0, windows=9, windows_available=9, protocol="random windows"),
        entry(5.0, tokens=1280),
    ]
    runs = add_perplexities(frame_of(*({"wiki": kind} for kind in kinds)))
    labels = protocol_labels(runs)
    assert len(labels) == len(kinds)
    for label in labels:
        assert runs[QUANTIZED + label].notna().sum() == 1
    assert "wiki, 128" in labels
    assert "wiki, 64, first 2 windows" in labels


def test_infinity_is_a_value_and_no_records_are_no_labels():
    runs = add_perplexities(frame_of({"wiki": entry(math.inf)}))
    assert runs[f"{QUANTIZED}wiki, 64"].tolist() == [math.inf]
    assert protocol_labels(pd.DataFrame()) == []


def test_drawn_windows_are_counted_in_the_label():
    def drawn(value, number):
        key = {"context": 64, "windows": "drawn", "count": number, "seed": 0}
        return {"c4": entry(value, windows=number, key=key)}

    assert protocol_labels(add_perplexities(frame_of(drawn(1.0, 8)))) == ["c4, 64, 8 drawn windows"]
    both = add_perplexities(frame_of(drawn(1.0, 8), drawn(2.0, 256)))
    assert protocol_labels(both) == ["c4, 64, 8 drawn windows", "c4, 64, 256 drawn windows"]


@pytest.mark.parametrize(
    ("label", "partial"),
    [
        ("wikitext2, 2048", False),
        ("wikitext2, 2048, first 8 windows", True),
        ("c4, 2048, 8 drawn windows", True),
        ("c4, 2048, 256 drawn windows", False),
    ],
)
def test_what_reads_less_than_papers_do(label, partial):
    assert is_partial(label) is partial


def test_protocols_of_most_settings_come_first(runs_of, make_run):
    runs = runs_of(make_run({"wiki": 5.0}), make_run({"wiki": 5.0, "c4": 6.0}, reorder="none"))
    assert protocols_by_settings(runs) == {"wiki, 64": 2, "c4, 64": 1}
    runs = runs_of(make_run({"wiki": 5.0}), *(make_run({"c4": 6.0}, beam=n) for n in (2, 3)))
    assert list(protocols_by_settings(runs)) == ["c4, 64", "wiki, 64"]
