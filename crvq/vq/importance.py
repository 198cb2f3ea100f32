"""How much a channel (in feature) deserves more bits: CRVQ's importance and its ablations."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from crvq.registry import Registry
from crvq.vq.hessian import Hessian
from crvq.vq.kmeans import kmeans, nearest_centroids
from crvq.vq.tiles import tiles

ImportanceForm = Callable[[Tensor, Tensor, Hessian, torch.Generator], Tensor]

FORMS: Registry[ImportanceForm] = Registry("importance")


def importance_names() -> list[str]:
    """Return the forms that `channel_importance` knows."""
    return FORMS.names()


def channel_importance(
    form: str,
    weight: Tensor,
    hessian: Hessian,
    group_size: int,
    entries: int,
    generator: torch.Generator,
) -> Tensor:
    """Return the importance of each in feature, ``(in,)``, by one of `importance_names`.

    Forms that look at the error VQ leaves quantize the weight once with a plain k-means codebook
    of ``entries`` centroids of length ``group_size`` (arXiv 2412.09282, section 3, step 1).

    Args:
        form: name of the form.
        weight: ``(out, in)``; ``in`` is a multiple of ``group_size``.
        hessian: of the input.
        group_size: d, the length of a sub-vector.
        entries: centroids of the trial codebook.
        generator: a CPU generator.
    """
    residual = weight
    # Only these forms need the trial quantization, which costs more than the ranking itself.
    if form.startswith(("error", "max_error")):
        residual = _vq_residual(weight, group_size, entries, generator)
    return FORMS.get(form)(weight, residual, hessian, generator)


def row_scales(weight: Tensor) -> Tensor:
    """Return the root mean square of each row, ``(out,)``; a small number for a row of zeros.

    A code search divides by scales, so none may be zero; and a row of zeros must not weigh in a
    codebook, so its scale is no larger than that of any other row.
    """
    scales = torch.linalg.vector_norm(weight, dim=1) / weight.shape[1] ** 0.5
    some = scales > 0
    smallest = scales.new_tensor(torch.finfo(torch.float16).smallest_normal)
    if bool(some.any()):
        smallest = torch.minimum(smallest, scales[some].min())
    return torch.where(some, scales, smallest)


def _vq_residual(
    weight: Tensor, group_size: int, entries: int, generator: torch.Generator
) -> Tensor:
    # The trial codebook is shared by all rows, so rows are brought to one scale first, as the
    # solver does; errors are scaled back at the end.
    scales = row_scales(weight)[:, None]
    # A copy, which becomes the residual below.
    residual = weight / scales
    vectors = residual.view(-1, group_size)
    even = torch.ones_like(vectors[:1]).expand_as(vectors)
    # A ranking of channels needs no converged codebook: a sample and a few rounds rank them alike.
    centroids = kmeans(vectors, even, entries, iterations=8, generator=generator, sample=1 << 14)
    indices, _ = nearest_centroids(vectors, even, centroids)
    # In place and in tiles: a second matrix of W's size would be the peak of a run's memory.
    for part in tiles(len(vectors), group_size, vectors.device):
        vectors[part] -= centroids[indices[part]]
    return residual.mul_(scales)


def _column_norms(matrix: Tensor, order: float) -> Tensor:
    """Norms of columns without a temporary of the matrix's size, ``(in,)``."""
    return torch.linalg.vector_norm(matrix, ord=order, dim=0)


@FORMS.register("error_activation")
def _error_activation(w: Tensor, r: Tensor, h: Hessian, g: torch.Generator) -> Tensor:
    """mean_o R² · H_jj: the authors' code."""
    return _column_norms(r, 2).square() / len(r) * h.matrix.diagonal()


@FORMS.register("max_error_over_inverse")
def _max_error_over_inverse(w: Tensor, r: Tensor, h: Hessian, g: torch.Generator) -> Tensor:
    """max_o R² / [H⁻¹]_jj: the paper's form as readers report it, dividing as OBS does."""
    return _column_norms(r, math.inf).square() * h.inv_diag_weight


@FORMS.register("max_error_times_inverse")
def _max_error_times_inverse(w: Tensor, r: Tensor, h: Hessian, g: torch.Generator) -> Tensor:
    """max_o R² · [H⁻¹]_jj: the other reading of the same report."""
    return _column_norms(r, math.inf).square() / h.inv_diag_weight


@FORMS.register("weight")
def _weight(w: Tensor, r: Tensor, h: Hessian, g: torch.Generator) -> Tensor:
    """mean_o |W|: weights alone."""
    return _column_norms(w, 1) / len(w)


@FORMS.register("activation")
def _activation(w: Tensor, r: Tensor, h: Hessian, g: torch.Generator) -> Tensor:
    """H_jj: activation energy alone."""
    return h.matrix.diagonal().clone()


@FORMS.register("random")
def _random(w: Tensor, r: Tensor, h: Hessian, g: torch.Generator) -> Tensor:
    """Return a seeded draw: the control."""
    return torch.rand(w.shape[1], generator=g).to(w.device)
