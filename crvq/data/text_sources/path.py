"""Local text: one file, or all readable files of a folder in the order of their names."""

from __future__ import annotations

from pathlib import Path

from crvq.config.text import TextConfig
from crvq.data.documents import Documents, chosen
from crvq.data.readers import READERS, find_reader
from crvq.data.registry import text_source
from crvq.errors import ConfigError, SourceError


@text_source("path")
def load(config: TextConfig, cache: Path) -> Documents:
    """Return the texts of ``config.path``; see `crvq.data.readers` for what a document is."""
    if config.path is None:
        raise ConfigError("path is not set, but source=path needs it: a text file or a folder")
    path = Path(config.path).expanduser()
    description, texts = str(path), list[str]()
    try:
        for file in _files(path):
            path = file
            reader = find_reader(file)
            assert reader is not None
            texts += reader(file, config.column)
    except OSError as error:
        raise SourceError(
            f"{path} cannot be read: {error.strerror or error}; check its permissions, or set path "
            "to another file"
        ) from error
    return Documents(chosen(texts, config), description, config.separator)


def _files(path: Path) -> list[Path]:
    """Return the file itself, or the files below a folder that there is a reader for."""
    allowed = ", ".join(READERS)
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.is_file() and find_reader(f))
        if not files:
            names = sorted(entry.name for entry in path.iterdir())[:10]
            raise SourceError(
                f"path={path} is a folder without {allowed} files; it holds: "
                f"{', '.join(names) or 'nothing'}"
            )
        return files
    if path.exists() and not path.is_file():
        raise SourceError(f"path={path} is neither a regular file nor a folder")
    if not path.is_file():
        raise SourceError(f"path={path}: there is no such file or folder (from {Path.cwd()})")
    if find_reader(path) is None:
        raise ConfigError(f"path={path} ends in {path.suffix!r}; allowed: {allowed}")
    return [path]
