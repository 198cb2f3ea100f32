"""Every shipped config of the model, calibration and eval groups composes and is well typed."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from crvq.cli.config_store import defaults
from crvq.config import CalibrationConfig, EvalConfig, ModelConfig
from crvq.data.registry import find_text_source

CONF = Path(__file__).parents[2] / "conf"
TYPES = {"model": ModelConfig, "calibration": CalibrationConfig, "eval": EvalConfig}
CHOICES = [
    (group, file.stem)
    for group in TYPES
    for file in sorted((CONF / group).glob("*.yaml"))
    if not file.stem.startswith("_")
]
NEEDS_A_PATH = {
    ("model", "hub"): "model.repo=owner/name",
    ("model", "folder"): "model.path=x",
    ("calibration", "file"): "calibration.path=x",
    ("eval", "file"): "eval.perplexity.file.path=x",
}


def composed(group, choice, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(overrides=[f"+{group}={choice}", *overrides])
    return TYPES[group](
        **OmegaConf.to_container(config[group], resolve=True, throw_on_missing=True)
    )


@pytest.mark.parametrize(("group", "choice"), CHOICES, ids="/".join)
def test_it_composes(group, choice):
    needed = NEEDS_A_PATH.get((group, choice))
    config = composed(group, choice, *([needed] if needed else []))
    texts = {
        "model": lambda: [],
        "calibration": lambda: [config],
        "eval": lambda: list(config.perplexity.values()),
    }[group]()
    for text in texts:
        find_text_source(text.source)
        assert text.source != "hub" or text.repo
    if group == "model":
        assert config.source != "hub" or config.repo


def test_yaml_states_no_default():
    """A value of a file that is the class's default would be stated twice, and could differ."""
    stated = []
    for group in TYPES:
        for file in sorted((CONF / group).glob("*.yaml")):
            values = OmegaConf.to_container(OmegaConf.load(file))
            shown = defaults(TYPES[group])
            stated += [
                f"{group}/{file.stem}: {key}"
                for key, value in values.items()
                if key in shown and shown[key] == value != {} and value != "???"
            ]
    assert not stated


def test_any_model_of_the_hub_by_its_name():
    config = composed("model", "hub", "model.repo=owner/Some-Model")
    assert config.source == "hub"
    assert config.repo == config.name == "owner/Some-Model"


def test_a_local_path_can_be_set_on_any_dataset():
    config = composed("eval", "papers", "eval.perplexity.wikitext2.path=wiki.raw")
    assert config.perplexity["wikitext2"].path == "wiki.raw"


def test_papers_4096_is_papers_at_4096():
    short, long = (composed("eval", name).perplexity for name in ("papers", "papers_4096"))
    assert list(short) == list(long)
    for name in short:
        assert long[name] == short[name].model_copy(update={"context": 4096})
