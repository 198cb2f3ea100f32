"""The Hugging Face hub: whether it answers, what it said, and whether its cache is intact."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session

from crvq.files.digests import file_digest

PROBE_SECONDS = 4.0
"""How long the hub may take to answer at all; its clients would retry for minutes."""
_ASK_AGAIN_SECONDS = 60.0
_answers: dict[str, tuple[float, bool]] = {}


def hub_is_reachable() -> bool:
    """Return whether the hub answers, asked at most once a minute; False with HF_HUB_OFFLINE=1."""
    if constants.HF_HUB_OFFLINE:
        return False
    asked, answer = _answers.get(constants.ENDPOINT, (-_ASK_AGAIN_SECONDS, False))
    if time.monotonic() - asked >= _ASK_AGAIN_SECONDS:
        answer = _probe()
        _answers[constants.ENDPOINT] = time.monotonic(), answer
    return answer


def why_unreachable() -> str:
    """Return why nothing is asked of the hub, for messages."""
    if constants.ENDPOINT not in _answers:
        return "HF_HUB_OFFLINE=1 forbids asking the hub"
    return f"{constants.ENDPOINT} did not answer within {PROBE_SECONDS:g} s"


@contextmanager
def offline_where_unreachable() -> Iterator[bool]:
    """Let hub clients read only their cache inside where the hub does not answer.

    Yields whether the hub is reachable.
    """
    if hub_is_reachable():
        yield True
        return
    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    datasets.config.HF_DATASETS_OFFLINE = True
    try:
        yield False
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before
        datasets.config.HF_DATASETS_OFFLINE = before[1]


def dataset_commit(repo: str, revision: str | None) -> str | None:
    """Return the commit that a dataset's revision stands for now.

    Raises:
        RepositoryNotFoundError, RevisionNotFoundError, GatedRepoError: the hub's refusals.
    """
    return HfApi().dataset_info(repo, revision=revision, timeout=30).sha


def hub_problem(error: BaseException, repo: str, revision: str | None) -> str:
    """Return in a sentence what the hub refused and what to do; else the error itself."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    for one in chain:
        if isinstance(one, GatedRepoError):
            return (
                f"{repo} is gated: accept its licence at {constants.ENDPOINT}/{repo}, then run "
                "`hf auth login` (or set HF_TOKEN)"
            )
        if isinstance(one, RevisionNotFoundError):
            return (
                f"{repo} has no revision {revision or 'main'}; name a branch, tag or commit of it"
            )
        if isinstance(one, RepositoryNotFoundError):
            return (
                f"the hub has no repository {repo}, or a private one; check its name, or run "
                "`hf auth login`"
            )
        if isinstance(one, LocalEntryNotFoundError):
            return f"{repo} is not in the hub's cache"
    return f"{type(error).__name__}: {error}"


def drop_damaged_files(repo: str, revision: str) -> list[str]:
    """Check a model's files in the hub's cache, and delete those that were changed or cut.

    The cache names a file by the digest that the hub gave for it: SHA-256 for large files, git's
    SHA-1 for others.

    Returns:
        Names of the deleted files; they are downloaded again when next asked for.
    """
    folder = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    reference = folder / "refs" / revision
    commit = reference.read_text().strip() if reference.is_file() else revision
    damaged = []
    for file in sorted((folder / "snapshots" / commit).rglob("*")):
        # Where links are not allowed the cache holds files of their own, without a digest.
        if file.is_symlink() and file.is_file():
            stored = file.resolve()
            if not _is_intact(stored):
                damaged.append(file.name)
                file.unlink()
                stored.unlink()
    return damaged


def _is_intact(stored: Path) -> bool:
    if re.fullmatch(r"[0-9a-f]{64}", stored.name):
        return file_digest(stored) == stored.name
    if re.fullmatch(r"[0-9a-f]{40}", stored.name):
        content = stored.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
        return git.hexdigest() == stored.name
    return True  # an etag of another kind says nothing of the content


def _probe() -> bool:
    """One short request, in a thread: a name server that does not answer heeds no timeout."""
    answered = threading.Event()

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=PROBE_SECONDS)
        except Exception:  # the network client's own kinds, and whatever a proxy provokes
            return
        answered.set()

    thread = threading.Thread(target=ask, name="hub-probe", daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return answered.is_set()
