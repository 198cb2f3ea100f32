"""Widths that follow what is measured, kept through a run, a resume and a record."""

import json

import pytest

from crvq.errors import ConfigError
from crvq.methods.allocated import AllocatedMethod, _line
from crvq.methods.crvq_params import CrvqParams
from crvq.methods.method import LinearShape
from crvq.pipeline.run import run
from crvq.tracking.csv_files import read_layers
from crvq.tracking.record_schema import read_record

ASKED = [
    "crvq.allocation=model",
    "crvq.codebook_scope=block",
    "crvq.critical_ratio=0",
    "crvq.allocation_widths=[2,6]",
    "crvq.allocation_blocks=2",
    "crvq.allocation_rows=1",
]


LAYOUT = {
    "allocation": "model",
    "codebook_scope": "block",
    "codebook_dtype": "int8",
    "critical_ratio": 0,
    "group_size": 8,
}


def widths(folder):
    rows = read_layers(folder / "layers.csv")
    return {
        row.name: row.bit_parts["codes"] * 4 / row.in_features / row.out_features for row in rows
    }


def test_bits_are_divided_within_the_total_and_kept(compose_run, tmp_path):
    fixed = read_record(run(compose_run("crvq.codebook_scope=block", "crvq.critical_ratio=0")))
    folder = run(compose_run(*ASKED, f"results_dir={tmp_path / 'allocated'}"))
    record = read_record(folder)
    bits = record["bits"]["average_quantized_weights"]
    assert bits <= fixed["bits"]["average_quantized_weights"]
    assert bits == pytest.approx(fixed["bits"]["average_quantized_weights"], rel=0.05)
    assert bits * record["bits"]["quantized_weights"] == 8 * record["packed_bytes"]
    allocation = record["effective"]["code_widths"]
    assert len(allocation) == 3
    found = widths(folder)
    for block, own in enumerate(allocation):
        for kind, width in own.items():
            assert found[f"model.layers.{block}.{kind}"] == pytest.approx(width)
    manifest = json.loads((folder / "checkpoint" / "manifest.json").read_text())
    assert manifest["plan"] == {"codebook_bits": allocation}


def test_a_budget_is_met(compose_run):
    record = read_record(run(compose_run(*ASKED, "budget.bits=2.6")))
    assert 2.4 < record["bits"]["average_quantized_weights"] <= 2.6


def test_what_cannot_be_divided_is_refused(compose_run):
    with pytest.raises(ConfigError, match=r"budget.bits=1: codes of 2 bits take [0-9.]+"):
        run(compose_run(*ASKED, "budget.bits=1"))
    with pytest.raises(ConfigError, match="overrides do so too"):
        run(compose_run(*ASKED, "overrides={*.q_proj: {codebook_bits: 5}}"))
    with pytest.raises(ValueError, match="set codebook_scope=block"):
        CrvqParams(allocation="model")
    with pytest.raises(ValueError, match=r"allocation_widths=\[8,8\]"):
        CrvqParams(allocation_widths=(8, 8))


def test_layers_that_gain_more_get_wider_codes():
    method = AllocatedMethod(CrvqParams(**LAYOUT), 0)
    method.prepare_blocks(3)
    shapes = [LinearShape("steep", 2048, 2048), LinearShape("flat", 2048, 2048)]
    steep, flat = {6: 0.5, 9: 0.1, 12: 0.02}, {6: 0.5, 9: 0.45, 12: 0.4}
    # In the last block it is the other way round; the one in the middle lies in between.
    curves = [{"steep": steep, "flat": flat}, {"steep": flat, "flat": steep}]
    first, middle, last = method._divide([0, 2], curves, shapes)
    assert first["steep"] > first["flat"]
    assert last["steep"] < last["flat"]
    assert middle["steep"] == middle["flat"]
    every = [*first.values(), *middle.values(), *last.values()]
    assert sum(every) / 6 == pytest.approx(8, abs=0.2)  # as many bits as 8-bit codes everywhere


def test_a_plan_comes_back():
    params = CrvqParams(allocation="model", codebook_scope="block")
    method = AllocatedMethod(params, 0)
    method.restore_plan({"codebook_bits": [{"q": 7}]})
    assert method.plan() == {"codebook_bits": [{"q": 7}]}


def test_losses_lie_on_broken_lines():
    assert [_line([2, 4, 8], [0.0, 2.0, 4.0], at) for at in (1, 2, 3, 6, 10)] == [-1, 0, 1, 3, 5]
    assert _line([3], [7.0], 99) == 7.0
