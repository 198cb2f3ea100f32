"""Runs configurations, one line of JSON each, in a process of its own.

The clients of the hub read HF_ENDPOINT and HF_HOME once, when they are imported, so tests of the
real clients need a process whose environment names the server.
"""

import json
import sys
import time
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from crvq.cli.typed_config import typed_config
from crvq.errors import CrvqError
from crvq.models.load import load_model
from crvq.pipeline.context import read_texts
from crvq.sources import hub

CONF = Path(__file__).parents[2] / "conf"


def tasks(config, cache):
    """Where questions came from, and the first ones of each task."""
    from crvq.evaluation.zero_shot_loading import leaves, load_tasks

    load_tasks.cache_clear()
    loaded = load_tasks(config, cache)
    return {
        "source": loaded.source,
        "data": [task.data for task in loaded.tasks],
        "digests": [task.digest for task in loaded.tasks],
        "questions": {
            leaf.task_name: list(leaf.eval_docs)[: config.limit]
            for task in loaded.tasks
            for leaf in leaves(task.members)
        },
    }


def answer(action, overrides):
    hub._answers.clear()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = typed_config(compose("config", overrides=overrides))
    if action == "run":
        from crvq.pipeline.run import run

        return {"folder": str(run(config))}
    cache = Path(config.cache_dir)
    if action == "tasks":
        return tasks(config.eval.zero_shot, cache)
    loaded = load_model(config.model, cache)
    found = {"model": loaded.description, "tensors": len(loaded.model.state_dict())}
    if action == "texts":
        texts = read_texts(config, loaded, cache)
        found["calibration"] = [texts.calibration_description, texts.calibration.tolist()]
        found["evaluation"] = {
            name: [text.description, text.windows.tolist()]
            for name, text in texts.evaluation.items()
        }
    return found


for line in sys.stdin:
    begun = time.monotonic()
    try:
        reply = answer(*json.loads(line))
    except CrvqError as error:
        reply = {"error": type(error).__name__, "message": str(error)}
    sys.stdout.write(f"reply {json.dumps({**reply, 'seconds': time.monotonic() - begun})}\n")
    sys.stdout.flush()
