"""Tiny models with random quantized weights."""

import copy
from dataclasses import replace

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from crvq.models.blocks import find_blocks
from tests.inference.linears import random_weight


def random_weights(model, bits=(5, 3), coverage=(2,), stored="int8", sets=True):
    """A quantized weight per linear of a block; those of block 0 share codebooks."""
    prefix, blocks = find_blocks(model)
    weights = {}
    for index, block in enumerate(blocks):
        for number, (name, module) in enumerate(block.named_modules()):
            if not isinstance(module, (nn.Linear, Conv1D)):
                continue
            shape = module.weight.shape if isinstance(module, nn.Linear) else module.weight.T.shape
            weight = random_weight(
                *shape, d=4, bits=bits, coverage=list(coverage), stored=stored, seed=index
            )
            drawn = torch.Generator().manual_seed(100 * index + number)
            weight.code.scales = (torch.rand(shape[0], generator=drawn) * 0.1 + 0.01).half().float()
            if sets and index == 0:
                books = next(iter(weights.values()), weight).codebooks
                weight = replace(
                    weight, codebooks=books, codebook_set="block-0", codebook_share=1 / 7
                )
            weights[f"{prefix}.{index}.{name}"] = weight
    return weights


def decoded(model, weights, dtype):
    """A copy with dequantized weights, and everything else rounded as a folder stores it."""
    model = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype).float()
    for name, weight in weights.items():
        module = model.get_submodule(name)
        value = weight.dequantize()
        module.weight.data = value if isinstance(module, nn.Linear) else value.T.contiguous()
    return model.eval()
