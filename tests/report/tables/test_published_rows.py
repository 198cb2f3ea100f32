import pytest

from crvq.report.published import read_published
from crvq.report.tables import comparison_table, peers_table

HEAD = (
    "source,source_url_or_repo,model,method,avg_bits,dataset_or_task,metric,value,seqlen,note,"
    "confidence"
)


@pytest.fixture
def published(tmp_path):
    (tmp_path / "published.csv").write_text(
        f"{HEAD}\n"
        "P,url,LLaMA2-7B,FP16,16,wikitext2,ppl,5,64,,high\n"
        "P,url,LLaMA2-7B,AQLM,~1,wikitext2,ppl,15,64,,low\n"
        "P,url,LLaMA2-7B,AQLM,2,wikitext2,ppl,6,128,,high\n"
        "P,url,LLaMA2-7B,AQLM,4,wikitext2,ppl,5.5,64,,high\n"
        "P,url,OPT-1.3B,AQLM,1,wikitext2,ppl,9,64,,high\n"
    )
    return read_published(tmp_path)


def test_only_the_same_model_text_and_context(runs_of, make_run, published):
    repo = {"model": {"name": "llama", "repo": "meta-llama/Llama-2-7b-hf"}}
    runs = runs_of(make_run({"wikitext2": 30.0}, bits=1.1, config=repo))
    table = comparison_table(runs, published)
    assert table.frame["value"].tolist() == [15.0, 30.0, 5.5]
    assert table.frame["confidence"].tolist() == ["low", "measured", "high"]
    assert table.frame["relative"].tolist() == pytest.approx([3.0, 3.0, 1.1])


def test_other_models_are_told_why_not(runs_of, make_run, published):
    table = comparison_table(runs_of(make_run({"wikitext2": 30.0}, model="SmolLM2")), published)
    assert table.frame.empty
    (note,) = table.notes
    assert "SmolLM2: no published number is of this model" in note
    assert "LLaMA2-7B, OPT-1.3B" in note


def test_so_are_other_texts_and_contexts(runs_of, make_run, published):
    table = comparison_table(runs_of(make_run({"wiki": 9.0}, model="opt-1.3b")), published)
    assert "other texts or contexts (wikitext2 at 64)" in table.notes[0]


def partial(make_run, **read):
    repo = {"model": {"name": "llama", "repo": "meta-llama/Llama-2-7b-hf"}}
    run = make_run({"wikitext2": 30.0}, config=repo)
    run["perplexity"]["wikitext2"] |= read
    return run


@pytest.mark.parametrize(
    "read",
    [
        {"windows": 8, "windows_available": 100},
        {"key": {"context": 64, "windows": "drawn", "count": 64, "seed": 0}},
    ],
    ids=str,
)
def test_a_part_of_the_text_is_not_the_same_text(runs_of, make_run, published, read):
    table = comparison_table(runs_of(partial(make_run, **read)), published)
    assert table.frame.empty
    (note,) = table.notes
    assert "llama" in note.lower()
    assert "left out, since published numbers are of the whole text" in note


def test_as_many_drawn_windows_as_papers_draw_are_the_same(runs_of, make_run, published):
    drawn = partial(make_run, protocol="256 windows drawn with seed 0; they may overlap")
    assert 30.0 in set(comparison_table(runs_of(drawn), published).frame["value"])


def test_peers_near_one_bit(published):
    table = peers_table(published, model="llama-2-7b")
    assert table.frame["value"].tolist() == [15.0, 6.0]
    assert [row[-2:] for row in table.cells()] == [["P", "low"], ["P", "high"]]


def test_no_runs(runs_of, published):
    assert comparison_table(runs_of(), published).frame.empty


def test_a_folder_beside_a_model_of_the_hub(runs_of, make_run, published):
    repo = {"model": {"name": "llama", "repo": "meta-llama/Llama-2-7b-hf"}}
    folder = {"model": {"name": "opt-1.3b", "repo": None}}
    runs = runs_of(
        make_run({"wikitext2": 30.0}, bits=1.1, config=repo),
        make_run({"wikitext2": 31.0}, bits=1.1, config=folder),
    )
    assert {30.0, 31.0, 9.0} <= set(comparison_table(runs, published).frame["value"])
