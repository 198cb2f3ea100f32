import pytest

from crvq.data.documents import Documents
from crvq.data.registry import TEXT_SOURCES, find_text_source, text_source
from crvq.errors import ConfigError


def test_an_unknown_source_lists_all_and_guesses():
    with pytest.raises(ConfigError, match="Did you mean 'boolq_wikipedia'") as error:
        find_text_source("bolq_wikipedia")
    for name in ("boolq_wikipedia", "hub", "path"):
        assert name in str(error.value)


def test_a_source_from_outside_is_found_by_its_name():
    @text_source("fables")
    def load(config, cache):
        return Documents(["The fox."], "fables")

    try:
        assert find_text_source("fables")(None, None).texts == ["The fox."]
    finally:
        TEXT_SOURCES.remove("fables")


def test_two_sources_cannot_share_a_name():
    find_text_source("hub")
    with pytest.raises(ValueError, match="'hub'"):
        text_source("hub")(lambda config, cache: None)
