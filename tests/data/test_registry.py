import importlib

import pytest

from crvq.data.registry import find_text_source, text_source
from crvq.errors import ConfigError


def test_an_unknown_source_lists_all_and_guesses():
    with pytest.raises(ConfigError, match="did you mean 'boolq_wikipedia'") as error:
        find_text_source("bolq_wikipedia")
    for name in ("boolq_wikipedia", "hub", "path"):
        assert name in str(error.value)


def test_a_module_dropped_into_the_package_is_found(tmp_path, monkeypatch):
    package = importlib.import_module("crvq.data.text_sources")
    (tmp_path / "fables.py").write_text(
        "from crvq.data.documents import Documents\n"
        "from crvq.data.registry import text_source\n"
        "@text_source('fables')\n"
        "def load(config, cache):\n"
        "    return Documents(['The fox.'], 'fables')\n"
    )
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    assert find_text_source("fables")(None, None).texts == ["The fox."]


def test_two_sources_cannot_share_a_name():
    find_text_source("hub")
    with pytest.raises(ValueError, match="'hub'"):
        text_source("hub")(lambda config, cache: None)
