"""Text sources, one per module: a new one is a file here with `text_source`, imported below."""

from crvq.data.text_sources import boolq_wikipedia, hub, path, self_generated

__all__ = ["boolq_wikipedia", "hub", "path", "self_generated"]
