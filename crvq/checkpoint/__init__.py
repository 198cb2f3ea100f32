"""Packed blocks on disk: safetensors and a manifest in JSON, nothing pickled."""

from crvq.checkpoint.block_store import BlockStore, StoredBlock

__all__ = ["BlockStore", "StoredBlock"]
