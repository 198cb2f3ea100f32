"""Quantize a language model, evaluate it, leave a run record.

python run.py                                    # SmolLM2-135M, no hub, no GPU needed
python run.py -m crvq.critical_ratio=0.01,0.02   # a sweep
python run.py --help
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Before torch and tokenizers load: forked workers would only warn about each other.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from crvq.cli.job import run_job
from crvq.cli.main import run_program, show_error
from crvq.errors import CrvqError

CONF = Path(__file__).parent / "conf"


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> str:
    """One job; in a sweep, a failed one is Hydra's to count."""
    try:
        return run_job(config)
    except CrvqError as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        show_error(error)
        sys.exit(1)


if __name__ == "__main__":
    run_program(main, CONF, "config")
