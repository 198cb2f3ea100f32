import pytest

from crvq.cli.typed_config import typed_config
from crvq.errors import ConfigError

SIX = ("winogrande", "piqa", "hellaswag", "arc_easy", "arc_challenge", "boolq")


def test_the_preset_asks_the_six_tasks_beside_perplexity(compose_config):
    config = typed_config(compose_config("eval=zero_shot", "eval.zero_shot.limit=100")).eval
    assert config.zero_shot.tasks == SIX
    assert config.zero_shot.limit == 100
    assert list(config.perplexity) == ["wikipedia"]


def test_tasks_beside_another_evaluation(compose_config):
    config = typed_config(compose_config("eval=full", "+eval/tasks@eval.zero_shot=six")).eval
    assert config.zero_shot.tasks == SIX
    assert config.perplexity["wikipedia"].max_windows is None


def test_other_tasks(compose_config):
    typed = typed_config(compose_config("eval=zero_shot", "eval.zero_shot.tasks=[sciq]"))
    assert typed.eval.zero_shot.tasks == ("sciq",)


def test_none_by_default(compose_config):
    assert typed_config(compose_config()).eval.zero_shot is None


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("eval.zero_shot.limit=0", "equal to 1"),
        ("eval.zero_shot.shots=-1", "equal to 0"),
        ("eval.zero_shot.batch_size=0", "equal to 1"),
        ("eval.zero_shot.source=net", "packaged"),
        ("eval.zero_shot.tasks=[]", "at least 1"),
        ("eval.zero_shot.tasks=[piqa,piqa]", "piqa is there more than once"),
    ],
)
def test_bad_values(compose_config, override, said):
    with pytest.raises(ConfigError, match=rf"eval\.zero_shot\.\w+.*{said}"):
        typed_config(compose_config("eval=zero_shot", override))
