"""The second moment H = E[x xᵀ] of a linear's input, and what code search needs of it."""

from __future__ import annotations

from threading import RLock

import torch
from torch import Tensor

from crvq.vq.computed_once import computed_once
from crvq.vq.tiles import tiles
from crvq.vq.triangular import inverse_factor

# A channel whose activations are this much weaker than the typical live channel is dead: its
# weights change nothing on the calibration text. Typical is the median: a single
# channel with huge activations would raise a mean so much that all others seem dead.
_DEAD_BELOW = 1e-10
# Dead channels get this part of the typical diagonal element, so that their weights still follow
# the original ones instead of being left to chance.
_DEAD_DIAG = 1e-4
_MAX_DAMPING = 1.0
_SINGLE_PRECISION_FROM = 1e-3


class HessianError(ValueError):
    """H is not finite, or no damping makes it positive definite."""


class Hessian:
    """H = E[x xᵀ] of shape ``(in, in)``, with a small diagonal element for dead channels.

    Up to a factor it is the second derivative of a layer's squared output error with respect to a
    row of its weight: GPTQ's Hessian, a layer-wise proxy for that of the model's loss. Linear
    layers that read one input share one object, and what is computed once for it (`padded`,
    `shared_factor`, `inv_diag_weight`), also when they are quantized in parallel. A float32
    ``second_moment`` without dead channels is kept, not copied.

    Raises:
        HessianError: H holds NaN or infinity.
    """

    def __init__(self, second_moment: Tensor, damping: float = 0.01) -> None:
        if not bool(torch.isfinite(second_moment).all()):
            raise HessianError("the second moment of the input holds NaN or infinity")
        diag_h = second_moment.diagonal()
        positive = diag_h[diag_h > 0]
        live = diag_h > _DEAD_BELOW * (positive.median() if len(positive) else 1.0)
        typical = diag_h[live].median() if bool(live.any()) else diag_h.new_tensor(1.0)
        self.dead_channels = int((~live).sum())
        self.damping = damping
        self.matrix = second_moment.float()
        if self.dead_channels:
            self.matrix = self.matrix.clone()
            # Rows of a dead channel are zero up to rounding; make them exactly so.
            self.matrix[~live] = 0
            self.matrix[:, ~live] = 0
            added = _DEAD_DIAG * typical if bool(live.any()) else typical
            self.matrix.diagonal()[~live] = added.float()
        self._lock = RLock()
        self._padded: dict[tuple[int, float], Hessian] = {}
        self._factor: tuple[Tensor, Tensor] | None = None

    def padded(self, multiple: int, damping: float) -> Hessian:
        """Return this H with another damping and zero channels added; one object for all callers.

        Args:
            multiple: of channels; 1 adds none.
            damping: of the inverse, relative to the mean of the diagonal.
        """
        padding = -len(self.matrix) % multiple
        if not padding and damping == self.damping:
            return self
        with self._lock:
            key = padding, damping
            if key not in self._padded:
                matrix = torch.nn.functional.pad(self.matrix, (0, padding, 0, padding))
                self._padded[key] = Hessian(matrix, damping)
            return self._padded[key]

    def shared_factor(self, order: Tensor) -> Tensor:
        """Return `feedback_factor`, remembered for the order last asked for; do not change it.

        For orders that linear layers with one input have in common: computed once for all.

        Raises:
            HessianError: as `feedback_factor` does.
        """
        with self._lock:
            if self._factor is None or not torch.equal(self._factor[0], order):
                self._factor = None  # the old one is freed before there is a new one
                self._factor = order, self.feedback_factor(order)
            return self._factor[1]

    @computed_once
    def inv_diag_weight(self) -> Tensor:
        """Return ``1 / diag(H⁻¹)``, ``(in,)``: the cost of an error that others may compensate.

        The weight of an error in optimal brain surgeon (Hassibi & Stork 1993) and in GPTQ.
        """
        natural = torch.arange(len(self.matrix), device=self.matrix.device)
        # diag(UᵀU) is the squared length of U's columns.
        lengths = torch.linalg.vector_norm(self.feedback_factor(natural), dim=0)
        return lengths.square().reciprocal()

    def feedback_factor(self, order: Tensor) -> Tensor:
        """Return the upper triangular U with ``H⁻¹ = Uᵀ U`` for channels in ``order``, float32.

        H is damped: ``H + damping * mean(diag H) I``; damping grows tenfold until that is positive
        definite (`damping_used`). For an error E of the columns, ``E H Eᵀ = ‖E U⁻¹‖²``; the factor
        says how the columns still to come best compensate errors already made (GPTQ, arXiv
        2210.17323, section 3).

        Raises:
            HessianError: not even damping by the mean of the diagonal helps.
        """
        mean = float(self.matrix.diagonal().double().mean())
        damping = self.damping
        while True:
            # Damped by a thousandth, H's condition number is at most 1000 * in, and float32 will
            # do; with less, the last pivots would drown in its rounding.
            dtype = torch.float32 if damping >= _SINGLE_PRECISION_FROM else torch.float64
            factor = inverse_factor(self.matrix, order, damping * mean, dtype)
            if factor is not None:
                self.damping_used = damping
                return factor.float()
            if damping >= _MAX_DAMPING:
                break
            damping = min(max(10 * damping, 1e-6), _MAX_DAMPING)
        raise HessianError(
            f"the second moment is not positive definite even when damped by {_MAX_DAMPING:g} of "
            "its mean diagonal; it is not a second moment of finite activations"
        )

    damping_used: float = 0.0


def output_loss(error: Tensor, second_moment: Tensor) -> float:
    """``tr(E H Eᵀ)``: the expected squared error of the outputs, summed over out features.

    Args:
        error: ``W - Ŵ``, ``(out, in)``.
        second_moment: H, ``(in, in)``.
    """
    total = torch.zeros((), dtype=torch.float64, device=error.device)
    for rows in tiles(error.shape[0], error.shape[1], error.device):
        part = error[rows]
        total += ((part @ second_moment) * part).sum(dtype=torch.float64)
    return float(total)
