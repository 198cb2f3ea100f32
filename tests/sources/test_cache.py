from pathlib import Path

from crvq.sources.cache import cache_folder


def test_config_beats_environment_beats_default(monkeypatch):
    monkeypatch.delenv("CRVQ_CACHE", raising=False)
    default = cache_folder(None)
    assert default.is_absolute()
    assert default.name == "crvq"
    monkeypatch.setenv("CRVQ_CACHE", "/elsewhere/kept")
    assert cache_folder(None) == Path("/elsewhere/kept")
    assert cache_folder("/asked/for") == Path("/asked/for")


def test_home_and_relative_folders_become_absolute(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert cache_folder("~/kept") == tmp_path / "kept"
    assert cache_folder("kept") == tmp_path / "kept"
