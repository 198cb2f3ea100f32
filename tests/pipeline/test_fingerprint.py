import json

import pytest
import torch

from crvq.pipeline.fingerprint import derived_seed, fingerprint

WINDOWS = torch.arange(12).view(3, 4)


@pytest.mark.parametrize(
    "override",
    ["seed=1", "crvq.critical_ratio=0.5", "calibration.samples=3",
     "calibration.stream=full_precision",
     "model.dtype=bfloat16", "model.skip_linears=[k_proj]"],
)  # fmt: skip
def test_what_blocks_depend_on_is_in_it(compose_run, override):
    args = ("weights", WINDOWS, torch.float32)
    assert fingerprint(compose_run(override), *args) != fingerprint(compose_run(), *args)


@pytest.mark.parametrize(
    "override",
    ["experiment=other", "force=true", "results_dir=x", "eval=none", "tracking=offline",
     "model.name=other"],
)  # fmt: skip
def test_what_blocks_do_not_depend_on_is_not(compose_run, override):
    args = ("weights", WINDOWS, torch.float32)
    assert fingerprint(compose_run(override), *args) == fingerprint(compose_run(), *args)


def test_weights_tokens_and_type_count_and_json_keeps_it(compose_run):
    config = compose_run()
    base = fingerprint(config, "weights", WINDOWS, torch.float32)
    assert fingerprint(config, "other", WINDOWS, torch.float32) != base
    assert fingerprint(config, "weights", WINDOWS + 1, torch.float32) != base
    assert fingerprint(config, "weights", WINDOWS, torch.bfloat16) != base
    assert fingerprint(config, "weights", WINDOWS, torch.float32, "cuda") != base
    assert fingerprint(config, "weights", WINDOWS, torch.float32, "cpu") == base
    fitted = {"codebook_bits": 7}  # a budget's rule of another version may choose otherwise
    assert fingerprint(config, "weights", WINDOWS, torch.float32, "cpu", fitted) != base
    assert fingerprint(config, "weights", WINDOWS, torch.float32, "cpu", {}) == base
    assert json.loads(json.dumps(base)) == base


def test_seeds_differ_by_name_and_by_seed():
    seeds = {derived_seed(seed, name) for seed in range(5) for name in "abcde"}
    assert len(seeds) == 25
    assert derived_seed(3, "a") == derived_seed(3, "a")
    assert all(0 <= seed < 2**63 for seed in seeds)
