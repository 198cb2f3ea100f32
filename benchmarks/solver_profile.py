"""Where the solver's CPU-seconds go, function by function, on real linears.

    python benchmarks/solver_profile.py --layers layers/block7 --method crvq crvq_paper

Each function's own seconds, without the listed functions that it calls; one thread. The folder is
one that `collect_layers.py` wrote. ``CRVQ_COMPILED=0`` profiles the torch search.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from solver_layers import method_of, read_linears

FUNCTIONS = {
    "crvq.vq.alternate": ["alternate"],
    "crvq.vq.nearest_codes": ["best_entries"],
    "crvq.vq.codebook_solve": [
        "solve_codebooks", "_pull", "_add_by_entry", "_preconditioner", "_mass_by_entry",
    ],
    "crvq.vq.coordinate_descent": ["descend_codes", "_descend_block", "_improve_group"],
    "crvq.vq.feedback_search": [
        "search_codes", "_search_rows", "_extend", "_inherit", "_trace_back", "_diagonal_inverses",
    ],
    "crvq.vq.importance": ["channel_importance"],
    "crvq.vq.initial_codebooks": ["initial_codebooks", "_residual"],
    "crvq.vq.kmeans": ["kmeans", "nearest_centroids"],
    "crvq.vq.scale_solve": ["solve_scales"],
    "crvq.vq.triangular": ["inverse_factor"],
}  # fmt: skip


class Profile:
    """Own CPU-seconds of wrapped functions, innermost first."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._inner = [0.0]

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that adds its own time under ``name``."""

        @functools.wraps(function)
        def timed(*args: object, **kwargs: object) -> object:
            self._inner.append(0.0)
            start = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                whole = time.process_time() - start
                self.seconds[name] += whole - self._inner.pop()
                self.calls[name] += 1
                self._inner[-1] += whole

        return timed

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Wrap `FUNCTIONS` wherever the package imported them."""
        changed = []
        for module_name, names in FUNCTIONS.items():
            module = importlib.import_module(module_name)
            for name in names:
                function = getattr(module, name, None)
                if function is None:
                    continue
                wrapped = self.wrap(name, function)
                for holder in list(sys.modules.values()):
                    if getattr(holder, "__name__", "").startswith("crvq.") and (
                        vars(holder).get(name) is function
                    ):
                        setattr(holder, name, wrapped)
                        changed.append((holder, name, function))
        try:
            yield
        finally:
            for holder, name, function in changed:
                setattr(holder, name, function)


def main() -> None:
    """Quantize the folder's linears by each method and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=Path, required=True)
    parser.add_argument("--method", nargs="+", default=["crvq"], help="names of conf/method")
    parser.add_argument("--changes", nargs="*", default=[], help="crvq.codebook_bits=10 ...")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name in asked.method:
        for linears in (read_linears(asked.layers)[:1], read_linears(asked.layers)):
            # The first linear alone warms up: imports, compilation, allocation.
            profile = Profile()
            with profile.watching():
                start = time.process_time()
                list(method_of(name, asked.changes).quantize_block(0, linears))
                total = time.process_time() - start
        weights = sum(linear.weight.numel() for linear in linears)
        per_million = 1e6 * total / weights
        title = f"{name}: {total:.2f} CPU-s, {per_million:.2f} per million weights"
        table = Table(title=title, title_justify="left")
        for column in ("function", "own CPU-s", "%", "calls"):
            table.add_column(column, justify="left" if column == "function" else "right")
        rest = total - sum(profile.seconds.values())
        for function, seconds in [*profile.seconds.most_common(), ("everything else", rest)]:
            if seconds >= 0.005 * total:
                table.add_row(function, f"{seconds:.3f}", f"{100 * seconds / total:.1f}",
                              str(profile.calls[function]))  # fmt: skip
        Console(width=100).print(table)


if __name__ == "__main__":
    main()
