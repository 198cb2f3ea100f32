import pytest

from crvq.config import CalibrationConfig, TextConfig
from crvq.data.text import load_documents
from crvq.errors import ConfigError, SourceError


def test_a_local_path_wins_over_the_source(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("some text")
    config = TextConfig(source="hub", repo="nobody/nothing", path=str(file), separator=" ")
    documents = load_documents(config, tmp_path)
    assert documents.texts == ["some text"]
    assert documents.separator == " "
    assert str(file) in documents.description


def test_calibration_configs_are_text_configs(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("some text")
    assert load_documents(CalibrationConfig(path=str(file)), tmp_path).texts == ["some text"]


@pytest.mark.parametrize("text", ["", " \n\n "])
def test_blank_text_is_refused(tmp_path, text):
    file = tmp_path / "a.txt"
    file.write_text(text)
    with pytest.raises(SourceError, match="holds no text"):
        load_documents(TextConfig(path=str(file)), tmp_path)


def test_a_column_that_holds_no_text_is_refused(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "a"}\n{"text": 3}\n')
    with pytest.raises(SourceError, match=r"line 2: text is int, not text"):
        load_documents(TextConfig(path=str(file)), tmp_path)


def test_unknown_sources_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="source='hubb'"):
        load_documents(TextConfig(source="hubb"), tmp_path)
