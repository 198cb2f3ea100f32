"""A run as its mirror sees it."""

import logging

CONFIG = {"method": "crvq", "method_params": {"critical_ratio": 0.02}}
RECORD = {
    "status": "complete",
    "perplexity": {"wiki": {"full_precision": 21.5, "quantized": float("inf"), "tokens": 64}},
    "bits": {"average_quantized_weights": 2.125},
    "seconds": {"quantize": 3.0},
}


def warned(caplog):
    """Warnings and worse: other tests may have left the root logger at a lower level."""
    return [entry for entry in caplog.records if entry.levelno >= logging.WARNING]
