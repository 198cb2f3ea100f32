"""Every option that is shipped composes and is well typed."""

import pytest
from omegaconf import OmegaConf

from crvq.cli.arguments import tidy_arguments
from crvq.cli.typed_config import comparison, typed_config, with_params
from crvq.config import RunConfig
from crvq.errors import ConfigError
from crvq.methods import method_names
from crvq.methods.crvq_params import CrvqParams
from crvq.tracking.run_id import run_id
from tests.conftest import ROOT

GROUPS = ("model", "budget", "method", "calibration", "eval", "tracking")
OPTIONS = [
    f"{group}={file.stem}"
    for group in GROUPS
    for file in sorted((ROOT / "conf" / group).glob("*.yaml"))
    if not file.stem.startswith("_")
]
NEEDS = {
    "model=hub": ["model.repo=owner/name"],
    "model=folder": ["model.path=x"],
    "calibration=file": ["calibration.path=x"],
    "eval=file": ["eval.perplexity.file.path=x"],
}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_and_types(option, compose_config):
    config = compose_config(*tidy_arguments([option]), *NEEDS.get(option, []))
    typed = typed_config(config)
    assert isinstance(typed, RunConfig)
    assert run_id(typed)
    changes = comparison(config)
    if changes:
        assert run_id(with_params(typed, changes)) != run_id(typed)


def test_the_options_were_found():
    assert len(OPTIONS) > 20


def test_a_method_option_sets_every_parameter_of_its_method(compose_config):
    """What a YAML leaves out would hide from ``--cfg job`` and from ``-m``."""
    for name in method_names():
        shown = compose_config(f"method={name}")[name]
        params = typed_config(compose_config(f"method={name}")).method_params
        assert set(shown) == set(type(params).model_fields), name


def test_the_papers_layout(compose_config):
    params = typed_config(compose_config("method=crvq_paper")).method_params
    assert isinstance(params, CrvqParams)
    assert (params.group_size, params.codebook_bits, params.extended_bits) == (8, 8, 8)
    assert (params.extended_codebooks, params.critical_ratio) == (3, 0.02)
    assert (params.reorder, params.codebook_scope) == ("sorted", "linear")


def test_all_faults_are_told_at_once(compose_config):
    config = compose_config("seed=-1", "calibration.samples=0")
    with pytest.raises(ConfigError) as error:
        typed_config(config)
    assert len(str(error.value).splitlines()) == 2
    assert "seed=-1" in str(error.value)
    assert "calibration.samples=0" in str(error.value)


def test_types_of_values_do_not_change_a_runs_name(compose_config):
    ids = {
        run_id(typed_config(compose_config(f"crvq.critical_ratio={ratio}")))
        for ratio in ("1", "1.0", "1e0")
    }
    assert len(ids) == 1


def test_comparison_is_parameters_or_nothing(compose_config):
    assert comparison(compose_config()) is None
    asked = compose_config("compare_with={critical_ratio: 0.0}")
    assert comparison(asked) == {"critical_ratio": 0.0}
    with pytest.raises(ConfigError, match="give method parameters"):
        comparison(OmegaConf.create({"compare_with": [1]}))


def test_with_params_checks_anew(compose_config):
    typed = typed_config(compose_config())
    assert with_params(typed, {"critical_ratio": 0.5}).method_params.critical_ratio == 0.5
    assert typed.method_params.critical_ratio == 0.02
    with pytest.raises(ConfigError, match=r"compare_with\.critical_ratio=2\.0"):
        with_params(typed, {"critical_ratio": 2.0})
