"""Try faults on a tiny model from outside, and print what was survived.

python -m tests.faults                      # all of them, 15 minutes on two cores
python -m tests.faults --short              # the form that `make test` runs
python -m tests.faults --only damaged       # kinds and names with a word in them
python -m tests.faults --seed 7 --out faults.md
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from tests.faults.bench import Bench
from tests.faults.suite import SEED, Tried, all_faults, markdown, table, try_all


def main() -> int:
    """Return 0 if every fault was survived."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--jobs", type=int, default=2, help="faults tried at once")
    parser.add_argument("--short", action="store_true", help="the short form")
    parser.add_argument("--only", help="a word of the kinds or names to try")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="try a random part, for so long"
    )
    parser.add_argument("--out", type=Path, help="write the table as Markdown, too")
    parser.add_argument("--keep", type=Path, help="an empty folder for all files, which stay there")
    chosen = parser.parse_args()
    console = Console(stderr=True, highlight=False)
    faults = [one for one in all_faults(chosen.seed) if one.short or not chosen.short]
    if chosen.only:
        faults = [one for one in faults if chosen.only in f"{one.kind}: {one.name}"]
    if chosen.minutes < float("inf"):
        random.Random(chosen.seed).shuffle(faults)
    begun = time.monotonic()
    done = [0]

    def show(tried: Tried) -> None:
        done[0] += 1
        line = f"{done[0]}/{len(faults)} {tried.outcome}: {tried.fault.kind}: {tried.fault.name}"
        console.print(line, style="red" if tried.outcome == "failed" else "", markup=False)
        if tried.outcome == "failed":
            console.print(tried.message, markup=False)

    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        root = chosen.keep or Path(scratch)
        root.mkdir(parents=True, exist_ok=True)
        bench = Bench(root)
        try:
            results = try_all(bench, faults, chosen.jobs, show, chosen.minutes)
        finally:
            bench.close()
    Console().print(table(results))
    if chosen.out is not None:
        command = f"python -m tests.faults {' '.join(sys.argv[1:])}".strip()
        chosen.out.write_text(markdown(results, command, time.monotonic() - begun))
    return int(any(one.outcome == "failed" for one in results))


if __name__ == "__main__":
    sys.exit(main())
