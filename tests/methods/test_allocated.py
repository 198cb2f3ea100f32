"""Widths that follow what is measured, kept through a run, a resume and a record."""

import json

import pytest

from crvq.errors import ConfigError
from crvq.methods.allocated import AllocatedMethod, _line
from crvq.methods.allocation import Layout
from crvq.methods.crvq_params import CrvqParams
from crvq.methods.method import LinearShape
from crvq.pipeline.context import run_method
from crvq.pipeline.run import run
from crvq.tracking.csv_files import read_layers
from crvq.tracking.record_schema import read_record
from tests.methods.linear_examples import random_linear

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
    assert manifest["plan"] == {"codebook_bits": allocation, "group_sizes": [4, 4, 4]}


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
    steep = {Layout(8, 6): 0.5, Layout(8, 9): 0.1, Layout(8, 12): 0.02}
    flat = {Layout(8, 6): 0.5, Layout(8, 9): 0.45, Layout(8, 12): 0.4}
    # In the last block it is the other way round; the one in the middle lies in between.
    curves = [{"steep": steep, "flat": flat}, {"steep": flat, "flat": steep}]
    first, middle, last = method._divide([0, 2], curves, shapes)
    assert first["steep"] > first["flat"]
    assert last["steep"] < last["flat"]
    assert middle["steep"] == middle["flat"]
    every = [*first.values(), *middle.values(), *last.values()]
    assert sum(x.codebook_bits for x in every) / 6 == pytest.approx(
        8, abs=0.2
    )  # as many bits as 8-bit codes everywhere


def test_a_plan_comes_back():
    params = CrvqParams(allocation="model", codebook_scope="block")
    method = AllocatedMethod(params, 0)
    method.restore_plan({"codebook_bits": [{"q": 7}], "group_sizes": [6]})
    assert method.plan() == {"codebook_bits": [{"q": 7}], "group_sizes": [6]}
    method.restore_plan({"codebook_bits": [{"q": 7}]})  # as stored before lengths were chosen
    assert method.plan()["group_sizes"] == [params.group_size]


def test_blocks_choose_the_vector_length_that_loses_less():
    params = CrvqParams(
        **LAYOUT, codebook_bits=8, allocation_group_sizes=(4, 8), allocation_widths=(4, 8)
    )
    method = AllocatedMethod(params, 0)
    method.prepare_blocks(2)
    shapes = [LinearShape("q", 4096, 4096)]
    assert method._choices(shapes) == {4: [4, 5, 6], 8: [6, 7, 8]}  # near a bit, the narrower out
    short = {Layout(4, w): 2.0**-w for w in (4, 5, 6)}
    curves = [
        {"q": short | {Layout(8, w): 0.9 * 2.0 ** (-w / 2) for w in (6, 7, 8)}},
        {"q": short | {Layout(8, w): 1.2 * 2.0 ** (-w / 2) for w in (6, 7, 8)}},
    ]
    long, fallback = method._divide([0, 1], curves, shapes)
    assert long["q"] == Layout(8, 8)
    assert fallback["q"] == Layout(4, 4)


def test_vector_lengths_are_chosen_within_the_budget(compose_run, tmp_path):
    asked = [*ASKED, "crvq.allocation_group_sizes=[2,4]", "budget.bits=2.2"]
    folder = run(compose_run(*asked, "crvq.allocation_widths=[3,8]"))
    record = read_record(folder)
    assert 1.9 < record["bits"]["average_quantized_weights"] <= 2.2
    sizes = record["effective"]["group_sizes"]
    assert len(sizes) == 3
    assert set(sizes) <= {2, 4}
    rows = read_layers(folder / "layers.csv")
    for row in rows:
        width = record["effective"]["code_widths"][row.block][row.kind]
        wanted = width / sizes[row.block] * row.in_features * row.out_features
        assert row.bit_parts["codes"] == pytest.approx(wanted)


def test_a_layer_can_be_timed_before_anything_is_divided():
    params = CrvqParams(
        **LAYOUT, allocation_group_sizes=(4, 8), allocation_widths=(2, 6), allocation_bits=1
    )
    method = AllocatedMethod(params, 0)
    linear = random_linear(16, 32)
    (done,) = method.quantize_block(0, [linear])
    assert done.weight.bits().codes == 16 * 32  # codes of 4 bits for 4 weights
    counted = method.count_bits([LinearShape("q", 1024, 1024)]).total / 1024**2
    assert 0.75 < counted <= 1  # with codebooks and scales


def test_a_rotated_basis_changes_neither_the_objective_nor_what_is_stored(compose_run, tmp_path):
    config = compose_run(*ASKED, "rotation=hadamard")
    method = run_method(config, config.method_params)
    assert method.wants_sensitivity
    folder = run(config)
    widths = read_record(folder)["effective"]["code_widths"]
    manifest = json.loads((folder / "checkpoint" / "manifest.json").read_text())
    assert manifest["plan"]["codebook_bits"] == widths


def test_vector_lengths_out_of_reach_are_refused():
    with pytest.raises(ValueError, match=r"allocation_group_sizes=\[4, 4\]: give different"):
        CrvqParams(allocation_group_sizes=(4, 4))
    params = CrvqParams(
        **LAYOUT, allocation_group_sizes=(16, 32), allocation_widths=(6, 8), allocation_bits=2
    )
    with pytest.raises(ConfigError, match="add longer or shorter ones"):
        AllocatedMethod(params, 0)._choices([LinearShape("q", 4096, 4096)])


def test_losses_lie_on_broken_lines():
    assert [_line([2, 4, 8], [0.0, 2.0, 4.0], at) for at in (1, 2, 3, 6, 10)] == [-1, 0, 1, 3, 5]
    assert _line([3], [7.0], 99) == 7.0
