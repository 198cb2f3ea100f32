"""CRVQ: Channel-Relaxed Vector Quantization (arXiv 2412.09282)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import torch
from torch import Tensor

from crvq.config.strict import StrictModel
from crvq.errors import QuantizationError
from crvq.methods.additive import additive_weight, small_codebook_notes
from crvq.methods.budget import fit_layout
from crvq.methods.coded_layout import CodedLayout, asked_critical_groups, lay_out
from crvq.methods.crvq_budget import crvq_bits, crvq_layouts
from crvq.methods.crvq_params import CrvqParams
from crvq.methods.linear_by_linear import damping_notes
from crvq.methods.method import LinearInput, LinearShape, Method, QuantizedLinear
from crvq.methods.notes import clipped_notes
from crvq.methods.parallel_map import parallel_map
from crvq.methods.registry import register_method
from crvq.vq.additive_code import CodedLinear
from crvq.vq.alternate import Alternated, alternate
from crvq.vq.hessian import Hessian, HessianError
from crvq.vq.initial_codebooks import initial_codebooks
from crvq.vq.storage import StorageRangeError, load_codebook, store_codebook
from crvq.weights.additive import AdditiveWeight
from crvq.weights.bits import BitCount
from crvq.weights.quantized import QuantizedWeight


@register_method("crvq")
class CrvqMethod(Method[CrvqParams]):
    """Basic codebook for all channels, extended codebooks for the critical ones.

    With ``critical_ratio=0`` this is additive quantization with one codebook (AQLM's 1xN layout).
    """

    Params: ClassVar[type[StrictModel]] = CrvqParams
    uses_solver: ClassVar[bool] = True
    fits_budgets: ClassVar[bool] = True

    def __init__(self, params: CrvqParams, seed: int) -> None:
        super().__init__(params, seed)
        self._kind_codebooks: dict[str, list[Tensor]] = {}
        self._kind_weights: dict[str, int] = {}
        self._before: dict[str, list[Tensor]] = {}

    @property
    def divides_blocks(self) -> bool:
        """Linear layers that share codebooks are quantized together."""
        return self.params.codebook_scope != "block"

    def prepare_blocks(self, count: int) -> Sequence[int]:
        """Evenly spread blocks, when codebooks are to serve the whole model."""
        if self.params.codebook_scope != "model":
            return []
        wanted = min(self.params.survey_blocks, count)
        return sorted({round((i + 0.5) * count / wanted - 0.5) for i in range(wanted)})

    def prepare(self, blocks: Sequence[Sequence[LinearInput]], kinds: dict[str, int]) -> None:
        """Fit one set of codebooks per kind, jointly on the linears of the given blocks."""
        self._kind_weights = dict(kinds)
        by_kind: dict[str, list[LinearInput]] = {}
        for linear in (linear for block in blocks for linear in block):
            by_kind.setdefault(linear.kind, []).append(linear)
        for kind, linears in by_kind.items():
            _, fitted = self._fit(linears)
            self._kind_codebooks[kind] = fitted.codebooks

    def shared_tensors(self) -> dict[str, Tensor]:
        """Stored codebooks of each kind, and the weights that share them."""
        tensors = {}
        for kind, codebooks in self._kind_codebooks.items():
            for k, codebook in enumerate(codebooks):
                for name, part in store_codebook(codebook, self.params.codebook_dtype).items():
                    tensors[f"{kind}.codebooks.{k}.{name}"] = part
        return tensors

    def restore_shared(self, tensors: dict[str, Tensor]) -> None:
        """Read codebooks back by kind."""
        parts: dict[str, dict[int, dict[str, Tensor]]] = {}
        for key, tensor in tensors.items():
            kind, _, place = key.partition(".codebooks.")
            number, _, name = place.partition(".")
            parts.setdefault(kind, {}).setdefault(int(number), {})[name] = tensor
        self._kind_codebooks = {
            kind: [load_codebook(sets[k]) for k in sorted(sets)] for kind, sets in parts.items()
        }

    def quantize_block(
        self, block: int, linears: Sequence[LinearInput]
    ) -> Iterator[QuantizedLinear]:
        """Quantize a block's linears, one by one or (codebook_scope=block) all at once."""
        if not linears:
            return
        if self.params.codebook_scope == "block":
            start = time.perf_counter()
            layouts, fitted = self._fit(linears)
            seconds = (time.perf_counter() - start) / len(linears)
            total = sum(linear.weight.numel() for linear in linears)
            for layout in layouts:
                share = layout.source.weight.numel() / total
                yield self._result(layout, fitted, seconds, f"block-{block}", share)
            return
        for linear in linears:
            # Linears with one input share its factor: compute it before threads ask for it at once.
            with suppress(HessianError):  # reported with the name of the linear that meets it
                _ = self._padded_hessian(linear).inv_diag_weight
        sizes = [linear.weight.numel() * linear.weight.shape[1] for linear in linears]
        yield from parallel_map(
            self._quantize_linear, linears, sizes, linears[0].weight.device.type
        )

    def on_block_stored(self, weights: Mapping[str, QuantizedWeight]) -> None:
        """Look at the block before as it is stored, for ``warm_start``."""
        self._before = {
            kind: [load_codebook(parts) for parts in weight.codebooks]
            for kind, weight in weights.items()
            if isinstance(weight, AdditiveWeight)
        }

    def _quantize_linear(self, linear: LinearInput) -> QuantizedLinear:
        start = time.perf_counter()
        layouts, fitted = self._fit([linear])
        seconds = time.perf_counter() - start
        # A kind that none of the prepared blocks has (a dense block among mixtures) gets its own.
        if linear.kind in self._kind_codebooks:
            share = linear.weight.numel() / self._kind_weights[linear.kind]
            return self._result(layouts[0], fitted, seconds, linear.kind, share)
        return self._result(layouts[0], fitted, seconds, None, 1.0)

    def count_bits(self, shapes: Sequence[LinearShape]) -> BitCount:
        """Return the bits of all linear layers of these shapes."""
        counts = (crvq_bits(self.params, shape, shapes) for shape in shapes)
        return sum(counts, BitCount())

    def fit_budget(self, bits: float, shapes: Sequence[LinearShape]) -> CrvqParams:
        """Vector length, index bits and storage for a budget; see `crvq.methods.crvq_budget`."""
        return fit_layout(
            bits,
            shapes,
            crvq_layouts(self.params),
            lambda params, shape: crvq_bits(params, shape, shapes),
        )

    def effective(self, shapes: Sequence[LinearShape]) -> dict[str, Any]:
        """Critical channels by kind of linear, and the part of all weights that they hold."""
        channels: dict[str, int] = {}
        critical_weights = weights = 0
        for kind, out_features, in_features in shapes:
            groups = asked_critical_groups(in_features, self.params)
            channels[kind] = min(groups * self.params.group_size, in_features)
            critical_weights += out_features * channels[kind]
            weights += out_features * in_features
        return {
            "critical_ratio": critical_weights / weights if weights else 0.0,
            "critical_channels": channels,
        }

    def _fit(self, linears: Sequence[LinearInput]) -> tuple[list[CodedLayout], Alternated]:
        """Lay out linears that share codebooks, and run the alternation on them."""
        params = self.params
        generator = torch.Generator().manual_seed(linears[0].seed)
        layouts = [self._lay_out(linear, generator) for linear in linears]
        coded = [layout.linear for layout in layouts]
        if len(coded) > 1:
            # Losses of different linears have different units; relative ones compare.
            for linear in coded:
                linear.importance = 1.0 / linear.energy if linear.energy > 0 else 0.0
        kind = linears[0].kind
        fixed = self._kind_codebooks.get(kind)
        if fixed is not None:
            codebooks = [codebook.to(linears[0].weight.device) for codebook in fixed]
            _drop_codes(coded, len(codebooks))
        else:
            _drop_codes(coded, max(_used_codebooks(linear) for linear in coded))
            entries = [2**params.codebook_bits]
            entries += [2**params.extended_bits] * params.extended_codebooks
            entries = entries[: len(coded[0].code.codes)]
            codebooks = self._warm_codebooks(linears, entries) or initial_codebooks(
                coded, entries, params.kmeans_iterations, params.kmeans_sample, generator
            )
            notes = small_codebook_notes(codebooks, entries)
            for layout in layouts:
                layout.notes.extend(notes)
        settings = params.alternation(train_codebooks=fixed is None)
        try:
            fitted = alternate(coded, codebooks, settings)
        except (HessianError, StorageRangeError) as error:
            names = ", ".join(linear.name for linear in linears)
            raise QuantizationError(f"{names}: {error}") from error
        return layouts, fitted

    def _lay_out(self, linear: LinearInput, generator: torch.Generator) -> CodedLayout:
        """Lay out one linear; an unusable Hessian is reported with the linear's name."""
        hessian = self._padded_hessian(linear)
        try:
            layout = lay_out(linear, self.params, generator, hessian)
        except HessianError as error:
            raise QuantizationError(f"{linear.name}: {error}") from error
        layout.notes.extend(damping_notes(hessian))
        return layout

    def _warm_codebooks(self, linears: Sequence[LinearInput], entries: list[int]) -> list[Tensor]:
        """Codebooks of the same kind in the block before, where these are to be the start."""
        if not self.params.warm_start:
            return []
        before = self._before.get(linears[0].kind, [])
        if [len(codebook) for codebook in before] != entries:
            return []
        return [codebook.to(linears[0].weight.device) for codebook in before]

    def _padded_hessian(self, linear: LinearInput) -> Hessian:
        """Return one padded Hessian for each input, however many linears read it."""
        return linear.hessian.padded(self.params.group_size, self.params.damping)

    def _result(
        self,
        layout: CodedLayout,
        fitted: Alternated,
        seconds: float,
        codebook_set: str | None,
        share: float,
    ) -> QuantizedLinear:
        linear, source = layout.linear, layout.source
        loss = float(linear.row_loss(fitted.codebooks).sum())
        weight = additive_weight(
            source,
            linear,
            fitted.codebooks,
            self.params.codebook_dtype,
            layout.stored_positions,
            codebook_set,
            share,
        )
        return QuantizedLinear(
            source=source,
            weight=weight,
            loss=loss / source.weight.shape[0],
            relative_loss=loss / linear.energy if linear.energy > 0 else 0.0,
            rounds=fitted.rounds,
            seconds=seconds,
            critical_in_features=layout.critical_in_features(),
            notes=[*layout.notes, *clipped_notes(weight)],
        )


def _used_codebooks(linear: CodedLinear) -> int:
    """Codebooks that cover any group of a linear."""
    return sum(covered > 0 for covered in linear.code.coverage())


def _drop_codes(linears: Sequence[CodedLinear], kept: int) -> None:
    """Leave only the codes for the first ``kept`` codebooks."""
    for linear in linears:
        del linear.code.codes[kept:]
