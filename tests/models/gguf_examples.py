"""Small GGUF files of a Llama, written by the gguf library itself."""

import gguf
import numpy as np

HIDDEN, MIDDLE, HEADS, VOCABULARY = 64, 96, 2, 40


def tensors(blocks=1):
    """Random float32 weights by GGUF name."""
    random = np.random.default_rng(0)
    shapes = {
        "token_embd": (VOCABULARY, HIDDEN),
        "output_norm": (HIDDEN,),
        "output": (VOCABULARY, HIDDEN),
    }
    for block in range(blocks):
        shapes |= {
            f"blk.{block}.attn_norm": (HIDDEN,),
            f"blk.{block}.ffn_norm": (HIDDEN,),
            f"blk.{block}.attn_q": (HIDDEN, HIDDEN),
            f"blk.{block}.attn_k": (HIDDEN, HIDDEN),
            f"blk.{block}.attn_v": (HIDDEN, HIDDEN),
            f"blk.{block}.attn_output": (HIDDEN, HIDDEN),
            f"blk.{block}.ffn_gate": (MIDDLE, HIDDEN),
            f"blk.{block}.ffn_up": (MIDDLE, HIDDEN),
            f"blk.{block}.ffn_down": (HIDDEN, MIDDLE),
        }
    return {
        f"{name}.weight": random.standard_normal(shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def write_gguf(path, weights, blocks=1, settings=True, split=None, packed=None):
    """Write a GGUF.

    Args:
        path: the file.
        weights: float32 arrays by name.
        blocks: what the file says of the model's depth.
        settings: whether it has the model's settings and vocabulary (only a first shard has).
        split: (number from 0, count, tensors in all) of a shard.
        packed: weights in 4 bits (Q4_1), by name.
    """
    writer = gguf.GGUFWriter(path, "llama")
    if settings:
        writer.add_context_length(32)
        writer.add_embedding_length(HIDDEN)
        writer.add_block_count(blocks)
        writer.add_feed_forward_length(MIDDLE)
        writer.add_head_count(HEADS)
        writer.add_head_count_kv(HEADS)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_freq_base(10000.0)
        writer.add_vocab_size(VOCABULARY)
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(["w", *(str(i) for i in range(VOCABULARY - 1))])
        writer.add_token_types([1] * VOCABULARY)
        writer.add_token_merges(["1 2"])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
    if split is not None:
        writer.add_uint16("split.no", split[0])
        writer.add_uint16("split.count", split[1])
        writer.add_int32("split.tensors.count", split[2])
    for name, weight in weights.items():
        writer.add_tensor(name, weight)
    for name, weight in (packed or {}).items():
        writer.add_tensor(name, weight, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_shards(folder, weights, blocks, name="tiny", packed=None):
    """Write two shards, block 1 and everything after it in the second; returns their paths."""
    later = {n: w for n, w in weights.items() if n.startswith("blk.1.")}
    first = {n: w for n, w in weights.items() if n not in later}
    total = len(weights) + len(packed or {})
    paths = [folder / f"{name}-{number:05d}-of-00002.gguf" for number in (1, 2)]
    write_gguf(paths[0], first, blocks, split=(0, 2, total))
    write_gguf(paths[1], later, blocks, settings=False, split=(1, 2, total), packed=packed)
    return paths
