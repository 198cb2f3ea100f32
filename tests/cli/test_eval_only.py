import shutil

import pytest

from crvq.pipeline.run import run
from crvq.tracking.record_schema import read_record


@pytest.fixture
def finished(compose_run):
    return run(compose_run())


@pytest.fixture
def measure(run_py, tiny_texts, tmp_path):
    """``python run.py eval_only=FOLDER`` on local text, with more arguments."""

    def program(folder, *arguments):
        return run_py(
            f"eval_only={folder}",
            "eval=file",
            f"eval.perplexity.file.path={tiny_texts[1]}",
            "eval.perplexity.file.context=16",
            "eval.perplexity.file.max_windows=2",
            "tracking=disabled",
            "activation_dtype=float32",
            f"cache_dir={tmp_path / 'cache'}",
            *arguments,
        )

    return program


def test_it_measures_adds_and_prints(measure, finished):
    outcome = measure(finished, "eval.agreement={}", "eval.generation={prompts: [w1 w2]}")
    assert outcome.code == 0, outcome.err
    record = read_record(finished)
    assert list(record["perplexity"]) == ["file", "file_16"]
    for said in ("file_16", "agreement with full precision", "greedy continuations", "w1 w2"):
        assert said in outcome.out, said


REFUSED = {
    "key of the finished run": (["crvq.critical_ratio=0.1"], "crvq.critical_ratio=0.1 does nothi"),
    "another model": (["model=opt-125m"], "model=opt-125m does nothing"),
    "unknown dataset": (["eval.agreement={dataset: fill}"], "did you mean file?"),
    "stride out of range": (["eval.perplexity.file.stride=17"], "stride=17 is above context=16"),
    "stride of none": (["eval.perplexity.file.stride=0"], "stride=0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_before_any_work(measure, finished, case):
    arguments, says = REFUSED[case]
    before = (finished / "record.json").read_bytes()
    outcome = measure(finished, *arguments)
    assert outcome.code == 2
    assert says in outcome.err
    assert (finished / "record.json").read_bytes() == before


def test_a_folder_that_is_no_run_is_refused(measure, tmp_path):
    outcome = measure(tmp_path)
    assert outcome.code == 2
    assert "there is no record.json" in outcome.err


def test_a_record_without_its_blocks_is_refused(measure, finished):
    shutil.rmtree(finished / "checkpoint")
    outcome = measure(finished)
    assert outcome.code == 2
    assert "holds no packed blocks" in outcome.err
    assert "force=true" in outcome.err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("eval.perplexity.file.context=65", "context of 64 tokens"),
        ("eval.generation={prompts: [w1 w2], max_new_tokens: 63}", "context of 64"),
    ],
)
def test_more_than_the_models_context_is_refused_and_the_record_stays(
    measure, finished, change, says
):
    before = (finished / "record.json").read_bytes()
    outcome = measure(finished, change)
    assert outcome.code == 1
    assert says in outcome.err
    assert (finished / "record.json").read_bytes() == before
