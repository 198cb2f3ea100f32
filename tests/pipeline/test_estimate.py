"""Predictions against what a run then comes to."""

import pytest

from crvq.cli.dry_run import show_plan
from crvq.cli.main import CONFIG_NAME
from crvq.cli.preflight import check_command
from crvq.errors import ConfigError, SourceError
from crvq.pipeline import estimate as estimates
from crvq.pipeline.estimate import estimate
from crvq.pipeline.run import run
from crvq.tracking.record_schema import read_record
from tests.conftest import ROOT

PER_INPUT, PER_LAYER, PER_WEIGHT = 2e-9, 3e-9, 5e-6


def layer_seconds(method, weight, hessian, tokens):
    """A factor of H that is remembered, another that is not, and work per weight."""
    rows, width = weight.shape
    factor = 0.0 if hasattr(hessian, "factored") else PER_INPUT * width**3
    hessian.factored = True
    return factor + PER_LAYER * width**3 + PER_WEIGHT * rows * width


@pytest.fixture(autouse=True)
def no_probes(monkeypatch):
    """A machine of a known speed."""
    monkeypatch.setattr(estimates, "_product_speed", lambda dtype, device: 1e9)
    monkeypatch.setattr(estimates, "_layer_seconds", layer_seconds)


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["budget.bits=3"],
        ["crvq.codebook_scope=block"],
        ["rotation=block_hadamard", "rotation.block=4", "rotation.keep=0.1"],
    ],
    ids=["layout", "budget", "shared", "rotated"],
)
def test_bits_and_disk_are_those_of_the_run(compose_run, more):
    config = compose_run(*more)
    found = estimate(config)
    record = read_record(run(config))
    assert found.bits_per_weight == pytest.approx(
        record["bits"]["average_quantized_weights"], rel=1e-3
    )
    assert found.disk == pytest.approx(record["packed_bytes"], rel=0.01)
    assert found.all_weights == record["bits"]["all_weights"]
    assert found.weights == record["bits"]["quantized_weights"]


def test_time_is_counted_work_at_the_measured_speed(compose_run):
    found = estimate(compose_run("threads=1"))
    assert set(found.seconds) == {
        "evaluate full precision",
        "calibrate",
        "quantize",
        "evaluate quantized",
    }
    assert found.seconds["evaluate quantized"] == found.seconds["evaluate full precision"]
    trained = estimate(compose_run("finetune=block", "finetune.samples=8"))
    assert trained.seconds["fine-tune blocks"] > 0


def test_factors_of_h_are_charged_to_inputs_and_layers_and_not_to_rows(compose_run):
    """Blocks of seven layers: in features 44 for one of them and 32 else, of four inputs."""
    weights = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 44 * 32
    layers = 6 * 32**3 + 44**3
    inputs = 3 * 32**3 + 44**3
    expected = PER_WEIGHT * weights + PER_LAYER * layers + PER_INPUT * inputs
    found = estimate(compose_run("threads=1")).seconds["quantize"]
    assert found == pytest.approx(3 * expected, rel=1e-6)


def test_a_folder_that_is_not_there_is_said(compose_run):
    with pytest.raises(SourceError, match=r"model\.path=/no/where: there is no such folder"):
        estimate(compose_run("model.path=/no/where"))


def test_a_model_is_known_by_its_yaml_alone(compose_run):
    asked = ("model=llama-2-7b", "placement=disk")
    config = compose_run().model_copy(update={"model": compose_config_model(compose_run, *asked)})
    found = estimate(config)
    assert found.all_weights == 6_738_415_616  # as published, with the head
    assert found.weights == 6_476_005_376


def compose_config_model(compose_run, *asked):
    from omegaconf import OmegaConf

    from crvq.config import ModelConfig

    values = OmegaConf.load(ROOT / "conf" / "model" / "llama-2-7b.yaml")
    del values["defaults"]
    return ModelConfig(**OmegaConf.to_container(values))


def test_without_shapes_it_says_what_to_set(compose_run):
    config = compose_run()
    unknown = config.model.model_copy(update={"path": "/no/where"})
    with pytest.raises(SourceError, match=r"set model\.architecture="):
        estimate(config.model_copy(update={"model": unknown}))
    nameless = config.model.model_copy(update={"architecture": {"hidden_size": 8}})
    with pytest.raises(ConfigError, match="a model_type"):
        estimate(config.model_copy(update={"model": nameless}))


def test_a_sweeps_table_names_its_jobs_and_writes_nothing(tiny_overrides, tmp_path, capsys):
    asked = ["-m", "dry_run=true", "crvq.critical_ratio=0,0.1", *tiny_overrides]
    plan, configs = check_command(asked, ROOT / "conf", CONFIG_NAME)
    show_plan(plan, configs, ["λ=0", "λ=0.1"])
    shown = capsys.readouterr().out
    assert "λ=0.1" in shown
    assert "Nothing was run" in shown
    assert not (tmp_path / "results").exists()


def test_what_grows_with_the_vocabulary_is_counted(compose_run):
    """Three float32 values per logit of 128 positions, where they outweigh the solver's part."""
    config = compose_run().model_copy(update={"model": compose_config_model(compose_run)})
    vast = {**config.model.architecture, "vocab_size": 2_000_000, "num_hidden_layers": 2,
            "hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2,
            "num_key_value_heads": 2}  # fmt: skip
    memory = estimate(
        config.model_copy(update={"model": config.model.model_copy(update={"architecture": vast})})
    ).memory
    freed = memory["solver"] + memory["Hessians"] + memory["weights of a block"]
    assert memory["logits beyond the solver"] == 3 * 4 * 128 * 2_000_000 - freed
    assert memory["tokenizer"] == 1200 * 2_000_000
    assert estimate(compose_run("eval=none")).memory["logits beyond the solver"] == 0
