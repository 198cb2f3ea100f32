"""Quantize a language model, evaluate it, leave a run record.

python run.py                                    # SmolLM2-135M, no hub, no GPU needed
python run.py -m crvq.critical_ratio=0.01,0.02   # a sweep
python run.py --help

The installed command `crvq` is the same program. (Hydra's shell completion looks for the words
@hydra.main in this file; the function that it decorates is in crvq/cli/main.py.)
"""

from __future__ import annotations

from crvq.cli.main import main

if __name__ == "__main__":
    main()
