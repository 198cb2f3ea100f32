"""Keep lm-eval from talking, and from changing random states that are not its own."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import lm_eval.api.task
import numpy as np
import torch
from datasets.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED

from crvq.models.quiet import quiet_transformers


@contextmanager
def quiet_harness() -> Iterator[None]:
    """Only errors from lm-eval inside, no progress bars of it, of datasets or of transformers."""
    logger = logging.getLogger("lm_eval")
    level, no_bars, bar = logger.level, are_progress_bars_disabled(), lm_eval.api.task.tqdm
    logger.setLevel(logging.ERROR)
    disable_progress_bars()
    # lm-eval draws this bar without asking anybody.
    lm_eval.api.task.tqdm = partial(bar, disable=True)
    try:
        with quiet_transformers():
            yield
    finally:
        logger.setLevel(level)
        lm_eval.api.task.tqdm = bar
        if not no_bars:
            enable_progress_bars()


@contextmanager
def harness_seeds() -> Iterator[None]:
    """The seeds that the `lm_eval` command sets, inside; the states that were there, after."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    torch.manual_seed(DEFAULT_OTHER_SEED)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
