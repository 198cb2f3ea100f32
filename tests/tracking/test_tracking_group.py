"""The shipped conf/tracking group."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from crvq.config import TrackingConfig

CONF = Path(__file__).parents[2] / "conf"


CHOICES = {
    "offline": {},
    "online": {"mode": "online"},
    "disabled": {"mode": "disabled"},
    "trackio": {"backend": "trackio"},
}


@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_is_a_whole_and_typed_group(name):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        values = OmegaConf.to_container(compose(f"tracking/{name}"), resolve=True)["tracking"]
    assert values.keys() == TrackingConfig.model_fields.keys()
    assert TrackingConfig(**values) == TrackingConfig(**CHOICES[name])


def test_the_group_has_no_other_choice():
    names = {path.stem for path in (CONF / "tracking").iterdir()}
    assert names == set(CHOICES)


def test_trackio_cannot_be_online():
    with pytest.raises(ValueError, match=r"set tracking\.mode=offline, or tracking\.backend=wandb"):
        TrackingConfig(backend="trackio", mode="online")
