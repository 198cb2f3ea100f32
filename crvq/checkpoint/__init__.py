"""Packed blocks on disk: safetensors and JSON, nothing that is unpickled."""

from crvq.checkpoint.block_store import BlockStore, StoredBlock
from crvq.checkpoint.model_shapes import ModelShapes

__all__ = ["BlockStore", "ModelShapes", "StoredBlock"]
