"""Numbers that papers and their authors published, each with where it was read and how surely."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from crvq.errors import CrvqError
from crvq.report.records import REFERENCE

PUBLISHED_FILE = "published.csv"
CONFIDENCE = ("high", "medium", "low")
_READ = {
    "source": "source",
    "source_url_or_repo": "where",
    "model": "model",
    "method": "method",
    "avg_bits": "bits_stated",
    "dataset_or_task": "dataset",
    "metric": "metric",
    "value": "value",
    "seqlen": "context_stated",
    "note": "note",
    "confidence": "confidence",
}
_SAME_SOURCE = ["source", "model", "dataset", "context_stated"]
_SAME_CONTEXT = ["model", "dataset", "context"]
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_CONTEXT = re.compile(r"(?<![\d.])(256|512|1024|2048|4096|8192)(?![\d.])")


class PublishedError(CrvqError):
    """The table of published numbers cannot be read."""


def read_published(path: Path) -> pd.DataFrame:
    """Return the published numbers, typed.

    Args:
        path: the CSV, or the results folder (:func:`published_path`).

    Returns:
        A row a number: ``source``, ``where``, ``model``, ``method``, ``dataset``, ``metric``,
        ``value`` (float), ``note``, ``confidence`` (high, medium, low), and

        - ``bits_stated`` as printed and ``bits`` as a number: ``~1`` is 1, and ``1(+1.1)``, a bit
          and 1.1 bits of masks and scales, is 2.1; NaN where nothing is stated;
        - ``context_stated`` as noted and ``context`` (Int64), NA where it is not known.

        An unread cell is missing, never zero.

    Raises:
        PublishedError: no such file, a column missing, a value that is not a number, or an
            unknown confidence.
    """
    path = published_path(path) if path.is_dir() else path
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise PublishedError(f"There are no published numbers at {path}.") from None
    except (ValueError, OSError) as error:
        raise PublishedError(f"{path} cannot be read: {error}") from error
    missing = [name for name in _READ if name not in table]
    if missing:
        raise PublishedError(
            f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(table.columns)}."
        )
    table = table[list(_READ)].rename(columns=_READ)
    unknown = sorted(set(table["confidence"]) - set(CONFIDENCE))
    if unknown:
        raise PublishedError(
            f"{path}: confidence {unknown[0]!r} is not one of {', '.join(CONFIDENCE)}."
        )
    table["confidence"] = pd.Categorical(table["confidence"], CONFIDENCE, ordered=True)
    table["value"] = _values(table, path)
    table["bits"] = table["bits_stated"].map(stated_bits).astype(float)
    table["context"] = table["context_stated"].map(stated_context).astype("Int64")
    return table


def published_path(results_dir: Path) -> Path:
    """Return the path of the table for a results folder: its own, else the shipped one."""
    own = results_dir / PUBLISHED_FILE
    return own if own.exists() else results_dir / REFERENCE / PUBLISHED_FILE


def stated_bits(text: str) -> float | None:
    """Bits per weight from what a source prints; parts in brackets are added."""
    numbers = [float(number) for number in _NUMBER.findall(text)]
    return sum(numbers) if numbers else None


def stated_context(text: str) -> int | None:
    """Return the context in tokens, where the text names exactly one."""
    if text.strip().isdecimal():
        return int(text)
    named = {int(number) for number in _CONTEXT.findall(text)}
    return named.pop() if len(named) == 1 else None


def published_perplexities(published: pd.DataFrame) -> pd.DataFrame:
    """Rows with a perplexity, and ``relative``: how many times full precision's it is.

    Full precision is the row of the same source, model, data set and context with 16 bits; where
    a source does not print it, the best confidence of other sources with the same stated
    context; otherwise NaN. Full-precision rows themselves are left out.
    """
    rows = published[(published["metric"] == "ppl") & published["value"].notna()]
    full = rows[rows["bits"] == 16].sort_values("confidence", kind="stable")
    same_source, same_context = (
        {key: float(group["value"].iloc[0]) for key, group in full.groupby(keys)}
        for keys in (_SAME_SOURCE, _SAME_CONTEXT)  # groups without a context are dropped
    )
    quantized = rows[rows["bits"] != 16].reset_index(drop=True)
    own = quantized[_SAME_SOURCE].apply(tuple, axis=1).map(same_source)
    others = quantized[_SAME_CONTEXT].apply(tuple, axis=1).map(same_context)
    quantized["full_precision"] = own.fillna(others).astype(float)
    quantized["relative"] = quantized["value"] / quantized["full_precision"]
    return quantized


def canonical_model(name: str) -> str:
    """One spelling for a model's names: ``meta-llama/Llama-2-7b-hf`` and ``LLaMA2-7B`` agree."""
    last = name.rsplit("/", 1)[-1].lower()
    letters = re.sub(r"[^a-z0-9.]+", "", last)
    return re.sub(r"^meta|(hf|base)$", "", letters)


def _values(table: pd.DataFrame, path: Path) -> pd.Series:
    stated = table["value"].str.strip()
    values = pd.to_numeric(stated, errors="coerce")
    # Not everything is a number: the sizes of models that a paper covers ("125M-13B").
    wrong = table[values.isna() & (stated != "") & table["metric"].isin(["ppl", "acc_pct"])]
    if len(wrong):
        row = wrong.iloc[0]
        raise PublishedError(
            f"{path}: {row['method']} on {row['dataset']} has the value {row['value']!r}, which "
            "is not a number; leave the cell empty if it could not be read."
        )
    return values
