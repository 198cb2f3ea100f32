"""transformers' side of an exported folder: skeleton without weights, checks, packed layers."""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.quantizers import auto
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from crvq.errors import CheckpointError
from crvq.export.layout import METHOD, PACKED, SHARED, Layout

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from crvq.weights.quantized import QuantizedWeight

_log = logging.getLogger("crvq")


class CrvqQuantizationConfig(QuantizationConfigMixin):
    """The ``quantization_config`` of an exported folder, as transformers carries it around."""

    def __init__(self, **values: Any) -> None:  # noqa: ANN401 - checked by Layout
        self.quant_method = METHOD  # type: ignore[assignment]
        self.__dict__.update(copy.deepcopy(values))


class PackedTensors(nn.Module):
    """Stands for a quantized linear while its packed tensor is being read.

    Args:
        stored: bytes of the packed tensor.
        bias: of the linear that it replaces, still without values.
    """

    def __init__(self, stored: int, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.register_buffer(PACKED, torch.empty(stored, dtype=torch.uint8, device="meta"))
        self.register_parameter("bias", bias)
        # Not stored: some models draw first values for the weights of certain linears by name.
        self.weight = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        """Refuse: the layer is not complete."""
        raise RuntimeError("the model is not loaded yet")


class CrvqQuantizer(HfQuantizer):
    """Loads packed linear layers; no dense weight is ever made for those that run packed."""

    requires_calibration = True

    def __init__(self, quantization_config: QuantizationConfigMixin, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(quantization_config, **kwargs)
        self.layout = Layout.read(quantization_config.to_dict())
        self._dtype: torch.dtype | None = None

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Refuse layers on disk, from where packed tensors cannot be used."""
        device_map = kwargs.get("device_map")
        if isinstance(device_map, dict) and "disk" in device_map.values():
            raise CheckpointError("device_map: packed layers cannot be offloaded to disk")

    def _process_model_before_weight_loading(
        self,
        model: PreTrainedModel,
        checkpoint_files: list[str] | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> PreTrainedModel:
        """Replace linears by `PackedTensors` and check the files against the model."""
        from crvq.export.checks import check_files

        self._dtype = dtype
        modules = dict(model.named_modules())
        for name in self.layout.linears:
            found = _shape(modules.get(name))
            if found != self.layout.shape(name):
                raise CheckpointError(
                    f"{name!a:.120} is {found or 'missing'} in the model that config.json "
                    f"describes, and {self.layout.shape(name)} in its quantization_config"
                )
        stored = self.layout.packed_bytes
        for name in self.layout.linears:
            bias = getattr(modules[name], "bias", None)
            model.set_submodule(name, PackedTensors(stored[f"{name}.{PACKED}"], bias))
        if self.layout.sets:
            model.add_module(SHARED, nn.Module())
            for key in self.layout.set_keys.values():
                empty = torch.empty(stored[key], dtype=torch.uint8, device="meta")
                getattr(model, SHARED).register_buffer(key.removeprefix(f"{SHARED}."), empty)
        check_files(checkpoint_files or [], self.layout, model)
        return model

    def _process_model_after_weight_loading(
        self,
        model: PreTrainedModel,
        **kwargs: Any,  # noqa: ANN401
    ) -> PreTrainedModel:
        """Make each linear from its packed tensor, one after the other."""
        from crvq.inference import share_reorders

        shared = {
            name: self.layout.unpack_set(name, model.get_buffer(key).cpu())
            for name, key in self.layout.set_keys.items()
        }
        placed: dict[tuple[str, torch.device], dict[str, Tensor]] = {}
        dense = []
        for name in self.layout.linears:
            held = model.get_submodule(name)
            assert isinstance(held, PackedTensors)
            packed = held.get_buffer(PACKED)
            if packed.is_meta:
                raise CheckpointError(f"{name}: packed layers cannot be offloaded to disk")
            together = self.layout.shared_set(name)
            books = {} if together is None else shared[together]
            weight = self.layout.unpack(name, packed.cpu(), books)
            module = _module(weight, held._parameters["bias"], self._dtype or torch.float32)
            module.to(packed.device)
            if together is not None:
                _share_buffers(module, placed.setdefault((together, packed.device), {}))
            if isinstance(module, nn.Linear):
                dense.append(weight.format)
            _move_hook(held, module)
            module.eval()
            model.set_submodule(name, module)
        if self.layout.sets:
            delattr(model, SHARED)
        share_reorders(model)
        if dense:
            _log.warning(
                "%d linear layers of the format %s have no packed kernels: they run dequantized",
                len(dense),
                ", ".join(sorted(set(dense))),
            )
        return model

    def get_state_dict_and_metadata(
        self, model: PreTrainedModel
    ) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return the packed tensors, so that `save_pretrained` writes what can be loaded again."""
        from crvq.export.repack import repacked_state

        state, layout = repacked_state(model, self.layout)
        self.layout = layout
        model.config.quantization_config = CrvqQuantizationConfig(**layout.model_dump())
        return state, {}

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:  # noqa: ANN401
        """Return that `save_pretrained` works."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Gradients reach inputs, and codebooks and scales after `train_parts`."""
        return True


def register_quantizer() -> None:
    """Add the quantizer to transformers' tables; does nothing a second time."""
    if METHOD not in auto.AUTO_QUANTIZER_MAPPING:
        auto.register_quantization_config(METHOD)(CrvqQuantizationConfig)
        auto.register_quantizer(METHOD)(CrvqQuantizer)


def _shape(module: nn.Module | None) -> tuple[int, int] | None:
    """Return ``(out, in)`` of a linear or a Conv1D."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        return None
    if isinstance(module, nn.Linear):
        return weight.shape[0], weight.shape[1]
    # GPT-2's Conv1D holds (in, out).
    return (weight.shape[1], weight.shape[0]) if hasattr(module, "nf") else None


def _module(weight: QuantizedWeight, bias: Tensor | None, dtype: torch.dtype) -> nn.Module:
    from crvq.inference import QuantizedLinear
    from crvq.weights.additive import AdditiveWeight

    bias = None if bias is None else bias.detach()
    if isinstance(weight, AdditiveWeight):
        return QuantizedLinear.from_weight(weight, bias)
    linear = nn.Linear(weight.in_features, weight.out_features, bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.dequantize().to(dtype), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear


def _share_buffers(module: nn.Module, known: dict[str, Tensor]) -> None:
    """Let a layer use the codebooks that another layer of its set has on the same device."""
    for name, buffer in module.named_buffers(recurse=False):
        if name.startswith(("codebook_", "steps_")):
            setattr(module, name, known.setdefault(name, buffer))


def _move_hook(old: nn.Module, new: nn.Module) -> None:
    """Keep what accelerate attached to a module that it placed on a device."""
    hook = getattr(old, "_hf_hook", None)
    if hook is not None:
        from accelerate.hooks import add_hook_to_module

        add_hook_to_module(new, hook)
