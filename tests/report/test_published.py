from pathlib import Path

import pandas as pd
import pytest

from crvq.report.published import (
    PublishedError,
    canonical_model,
    published_perplexities,
    read_published,
    stated_bits,
    stated_context,
)

COMMITTED = Path(__file__).parents[2] / "results" / "reference"
HEAD = (
    "source,source_url_or_repo,model,method,avg_bits,dataset_or_task,metric,value,seqlen,note,"
    "confidence"
)


def written(tmp_path, *rows):
    path = tmp_path / "published.csv"
    path.write_text("\n".join([HEAD, *rows]) + "\n")
    return path


def row(source="S", method="M", bits="2", value="6", seqlen="2048", **more):
    values = {"model": "LLaMA2-7B", "dataset": "wikitext2", "metric": "ppl", **more}
    confidence = values.pop("confidence", "high")
    return (
        f"{source},url,{values['model']},{method},{bits},{values['dataset']},{values['metric']},"
        f"{value},{seqlen},,{confidence}"
    )


@pytest.mark.parametrize(
    ("text", "bits"),
    [("2.02", 2.02), ("~1", 1.0), ("1(+1.1)", 2.1), ("1.7(+1)", 2.7), ("not stated", None)],
)
def test_stated_bits(text, bits):
    assert stated_bits(text) == (bits if bits is None else pytest.approx(bits))


@pytest.mark.parametrize(
    ("text", "context"),
    [
        ("4096", 4096),
        ("100", 100),
        ("not stated (FP 5.47/5.68 = 2048)", 2048),
        ("not stated (FP 5.47)", None),
        ("2048 or 4096", None),
        ("", None),
    ],
)
def test_stated_context(text, context):
    assert stated_context(text) == context


def test_an_unread_cell_stays_empty(tmp_path):
    table = read_published(written(tmp_path, row(value=""), row(bits="")))
    assert pd.isna(table["value"][0])
    assert pd.isna(table["bits"][1])


def test_damage_is_named(tmp_path):
    with pytest.raises(PublishedError, match="'six'"):
        read_published(written(tmp_path, row(value="six")))
    with pytest.raises(PublishedError, match="'sure'"):
        read_published(written(tmp_path, row(confidence="sure")))
    with pytest.raises(PublishedError, match="no published numbers"):
        read_published(tmp_path / "nowhere.csv")
    (tmp_path / "published.csv").write_text("a,b\n1,2\n")
    with pytest.raises(PublishedError, match="lacks the columns source"):
        read_published(tmp_path)


def test_relative_to_full_precision_of_the_same_source_and_context(tmp_path):
    path = written(
        tmp_path,
        row("A", "FP16", "16", "5"),
        row("A", "FP16", "16", "4", seqlen="4096"),
        row("A", "VQ", "2", "10"),
        row("A", "VQ", "2", "10", seqlen="4096"),
        row("B", "VQ", "2", "20"),
        row("B", "VQ", "2", "20", seqlen="not stated"),
        row("A", "VQ", "2", "10", dataset="c4"),
        row("C", "FP16", "16", "8"),
        row("C", "VQ", "2", "16"),
    )
    relative = published_perplexities(read_published(path))["relative"]
    assert relative[:3].tolist() == [2.0, 2.5, 4.0]
    assert relative[3:5].isna().all()
    assert relative[5] == 2.0  # its own full precision, not A's


@pytest.mark.parametrize(
    "name", ["LLaMA2-7B", "meta-llama/Llama-2-7b-hf", "llama-2-7b", "Llama-2-7B"]
)
def test_one_model_has_many_names(name):
    assert canonical_model(name) == "llama27b"


def test_other_models_stay_others():
    names = ["LLaMA-7B", "LLaMA2-7B", "LLaMA2-13B", "opt-125m", "opt-1.3b", "opt-13b"]
    assert len({canonical_model(name) for name in names}) == len(names)


def test_what_is_committed_says_where_it_was_read():
    table = read_published(COMMITTED)
    assert len(table) > 700
    assert (table["source"].str.len() > 0).all()
    assert table["confidence"].notna().all()
    assert published_perplexities(table)["relative"].dropna().gt(1).all()
