import io

import pytest
from rich.console import Console

from crvq.report.closing_table import closing_table

FAILED = {
    "status": "failed",
    "error": {"type": "ConfigError", "message": "critical_ratio=7 [seen]\n  is too much"},
    "label": "critical_ratio=7",
}


def render(records, width=200):
    console = Console(file=io.StringIO(), width=width, no_color=True, _environ={})
    console.print(closing_table(records))
    return console.file.getvalue()


def row(text, start):
    (line,) = [line for line in text.splitlines() if line.strip().startswith(start)]
    return line.split()


def test_full_precision_comes_first_then_runs_in_order(make_record):
    text = render([make_record(params={"critical_ratio": ratio}) for ratio in (0.03, 0.01)])
    starts = [text.index(name) for name in ("full precision", "λ=0.03", "λ=0.01")]
    assert starts == sorted(starts)
    assert row(text, "full precision") == ["full", "precision", "-", "21.50"]
    assert row(text, "CRVQ · λ=0.03")[3:] == ["2.125", "94.25", "42", "s"]
    assert "those left unquantized too: 3.50 bits" in " ".join(text.split())


def test_asked_beside_used(make_record):
    text = render([make_record(effective={"critical_ratio": 0.013888})])
    assert "CRVQ · λ=0.02 → 0.0139" in text


def test_head_says_the_protocol(make_record):
    text = render([make_record()])
    assert "4,096 tokens" in text
    assert "context 64" in text
    assert "windows" not in text


@pytest.mark.parametrize("how", ["available", "config"])
def test_a_capped_number_of_windows_is_said(make_record, how):
    entry = {"quantized": 2.0, "tokens": 128, "context": 64, "windows": 2}
    config = {}
    if how == "available":
        entry["windows_available"] = 9
    else:
        config = {"eval": {"perplexity": {"wiki": {"max_windows": 2}}}}
    text = render([make_record(perplexity={"wiki": entry}, config=config)])
    assert "the first 2 windows" in " ".join(text.split())


def test_a_cap_that_the_text_does_not_reach_is_not(make_record):
    entry = {"quantized": 2.0, "tokens": 128, "context": 64, "windows": 2}
    config = {"eval": {"perplexity": {"wiki": {"max_windows": 5}}}}
    assert "windows" not in render([make_record(perplexity={"wiki": entry}, config=config)])


def test_contexts_never_share_a_column(make_record):
    records = [
        make_record(
            params={"codebooks": context},
            perplexity={
                "wiki": {
                    "full_precision": 5.0 + context,
                    "quantized": 9.0 + context,
                    "tokens": 4096,
                    "context": context,
                }
            },
        )
        for context in (64, 128)
    ]
    text = render(records)
    assert row(text, "full precision")[-2:] == ["69.00", "133.00"]
    assert row(text, "CRVQ · codebooks=64")[4:6] == ["73.00", "-"]
    assert row(text, "CRVQ · codebooks=128")[4:6] == ["-", "137.00"]


def test_models_have_their_own_full_precision_rows(make_record):
    def entry(value):
        return {"wiki": {"full_precision": value, "quantized": 9.0, "tokens": 4096, "context": 64}}

    records = [
        make_record(config={"model": {"name": name}}, perplexity=entry(value))
        for name, value in (("small", 30.0), ("large", 5.5), ("large", 5.5))
    ]
    text = render(records)
    assert row(text, "full precision (small)")[-1] == "30.00"
    assert row(text, "full precision (large)")[-1] == "5.50"


def test_differing_measurements_of_one_model_are_not_hidden(make_record):
    records = [
        make_record(
            config={"activation_dtype": kind},
            perplexity={
                "wiki": {"full_precision": value, "quantized": 9.0, "tokens": 1, "context": 1}
            },
        )
        for kind, value in (("float32", 21.5), ("bfloat16", 21.9))
    ]
    assert render(records).count("full precision") == 2


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (9.999, "10.00"),
        (999.4, "999.40"),
        (12345.6, "12,346"),
        (float("inf"), "inf"),
        (float("nan"), "nan"),
        ("Infinity", "inf"),
        (None, "-"),
    ],
    ids=str,
)
def test_perplexity_of_any_size(make_record, value, shown):
    entry = {"quantized": value, "tokens": 128, "context": 64}
    assert row(render([make_record(perplexity={"wiki": entry})]), "CRVQ  ")[2] == shown


def test_failures_are_told_in_one_line(make_record):
    text = render([make_record(), FAILED])
    assert "critical_ratio=7: failed: ConfigError: critical_ratio=7 [seen] is too much" in " ".join(
        text.split()
    )
    assert row(text, "critical_ratio=7 failed")[-2:] == ["0", "s"]


def test_unfinished_runs_are_marked(make_record):
    assert "not finished" in render([make_record(status="running", perplexity={})])


def test_notes_on_models_are_there_once(make_record):
    records = [make_record(params={"codebooks": n}, model_note="was 4-bit") for n in (1, 2)]
    assert render(records).count("was 4-bit") == 1


def test_long_durations(make_record):
    assert "61 min" in render([make_record(seconds={"quantize": 3665.0})])


@pytest.mark.parametrize("width", [80, 120])
def test_nothing_is_cut_off(make_record, width):
    wiki = {"full_precision": 21.5, "quantized": 94.25, "tokens": 301056, "context": 2048}
    capped = {**wiki, "windows": 16, "windows_available": 99}
    records = [
        make_record(
            params={"critical_ratio": ratio},
            effective={"critical_ratio": 0.0139},
            perplexity={"wikipedia": capped, "wikitext2": wiki},
        )
        for ratio in (0.01, 0.02)
    ]
    text = render([*records, FAILED], width)
    assert all(len(line) <= width for line in text.splitlines())
    assert "…" not in text
    assert text.count("94.25") == 4
    assert text.count("42 s") == 2


def test_many_datasets_leave_room_for_all_columns(make_record):
    """On a terminal of 80 columns; what their heads leave out stands below the table."""
    entry = {"full_precision": 20.0, "quantized": 30.0, "tokens": 16384, "context": 2048}
    entry |= {"windows": 8, "windows_available": 90}
    names = ("wikipedia", "wikitext2", "c4", "of my own")
    text = render([make_record(perplexity=dict.fromkeys(names, entry))], width=80)
    assert "time" in text
    assert "42 s" in text
    said = f"{', '.join(names)}: the first 8 windows, 16,384 tokens, context 2048."
    assert said in " ".join(text.split())


def test_a_sweep_with_three_texts_is_legible_at_80_columns(make_record):
    """No word is cut: a name breaks between its values."""
    entry = {"full_precision": 20.0, "quantized": 3e4, "tokens": 16384, "context": 2048}
    texts = dict.fromkeys(("wikipedia", "wikitext2", "c4"), entry)
    records = [
        make_record(
            params={"critical_ratio": ratio, "reorder": order, "codebook_dtype": kind},
            effective={"critical_ratio": 0.0139},
            perplexity=texts,
        )
        for ratio, order, kind in ((0.01, "sorted", "int8"), (0.02, "stratified", "float16"))
    ]
    text = render(records, width=80)
    assert all(len(line) <= 80 for line in text.splitlines())
    words = text.split()
    for word in ("λ=0.02", "reorder=stratified", "codebook_dtype=float16"):
        assert word in words
    assert words.count("30,000") == 6


def test_says_what_was_computed_now_and_what_was_reused_from_where_and_when(make_record):
    about = {"host": "far", "device": "cuda:0", "finished": "2026-11-02T10:00:00+00:00"}
    reused = make_record(**about, reused=True)
    text = render([make_record(params={"critical_ratio": 0.01}), reused])
    assert "1 run computed now." in text
    assert "1 run reused, made on far, cuda:0, 2026-11-02." in " ".join(text.split())
    assert row(text, "CRVQ · λ=0.02")[-1] == "reused"
    named = render([{**reused, "device_name": "H100"}])
    assert "No runs computed now." in named
    assert "made on far, H100, 2026-11-02" in " ".join(named.split())


def test_a_stopped_run_says_how_to_resume(make_record):
    text = render([make_record(status="running") | {"status": "stopped"}])
    words = " ".join(text.split())
    assert "stopped: the same command resumes after the last completed block" in words
