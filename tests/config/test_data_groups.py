"""Every shipped config of the model, calibration and eval groups composes and is well typed."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

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


@pytest.mark.parametrize("group", TYPES)
def test_the_base_shows_every_key_with_its_default(group):
    base = CONF / ("eval/dataset" if group == "eval" else group) / "_base.yaml"
    shown = OmegaConf.to_container(OmegaConf.load(base))
    fields = (
        EvalConfig.model_fields["perplexity"].annotation.__args__[1]
        if group == "eval"
        else TYPES[group]
    ).model_fields
    assert set(shown) == set(fields)
    for name, field in fields.items():
        if name not in ("split",) and not field.is_required():
            value = field.get_default(call_default_factory=True)
            assert shown[name] == (list(value) if isinstance(value, tuple) else value), name


def test_a_local_path_can_be_set_on_any_dataset():
    config = composed("eval", "papers", "eval.perplexity.wikitext2.path=wiki.raw")
    assert config.perplexity["wikitext2"].path == "wiki.raw"


def test_papers_4096_is_papers_at_4096():
    short, long = (composed("eval", name).perplexity for name in ("papers", "papers_4096"))
    assert list(short) == list(long)
    for name in short:
        assert long[name] == short[name].model_copy(update={"context": 4096})
