"""Models larger than memory: blocks are read from disk when they are needed, and let go after.

The model is built without weights; embeddings, last norm and head are read, and the blocks' tensors
stay on the meta device. `StreamedBlocks.hold` puts those of one block in place. A forward pass of
the whole model works too, as each block is read when its turn comes: right, and slow where
there are many passes, which is why texts go through the blocks one block at a time (`computed`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from crvq.errors import SourceError
from crvq.models.activations import HiddenStates
from crvq.models.block_stream import BlockStream
from crvq.models.blocks import find_blocks, run_experts_one_by_one
from crvq.models.complete import listed
from crvq.models.residence import PutStored, Residence
from crvq.models.weight_files import WeightFiles


class StreamedBlocks(Residence):
    """Reads blocks of a model from its files, one at a time.

    Args:
        model: with blocks on the meta device; the rest is on ``device``.
        files: of the model.
        names: stored name of each tensor of the model.
        states: an empty sequence, in the place where hidden states are kept.
        device: where blocks compute.
    """

    streamed = True

    def __init__(
        self,
        model: PreTrainedModel,
        files: WeightFiles,
        names: dict[str, str],
        states: HiddenStates,
        device: torch.device,
    ) -> None:
        self._model, self._files, self._names = model, files, names
        self._states, self._device = states, device
        self._dtype = model.dtype
        self._prefix, self._blocks = find_blocks(model)
        self._held: dict[int, int] = {}
        self._put_stored: PutStored | None = None
        self._paused = False
        for index, block in enumerate(self._blocks):
            block.register_forward_pre_hook(self._entering(index))
            block.register_forward_hook(self._leaving(index), always_call=True)

    @contextmanager
    def hold(self, index: int) -> Iterator[None]:
        """Read a block, and let it go at the end of the outermost such context."""
        self._take(index)
        try:
            yield
        finally:
            self._release(index)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave blocks on disk although they are called: another function stands in for them."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def follow(self, put_stored: PutStored) -> None:
        """From now on, put stored weights into each block after it is read."""
        self._put_stored = put_stored

    def states(self) -> HiddenStates:
        """Return an empty sequence for hidden states, in host memory or on disk."""
        return self._states.empty()

    def tensors(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Return every parameter and persistent buffer in the order of its name."""
        for name, tensor in sorted(model.state_dict().items()):
            if tensor.is_meta:
                yield name, self._files.read({name: self._names[name]}, self._dtype)[name]
            else:
                yield name, tensor

    @contextmanager
    def computed(
        self,
        windows: Tensor,
        activation_dtype: torch.dtype,
        on_block: Callable[[int], None],
    ) -> Iterator[None]:
        """Take all windows through one block after another; inside, blocks return what came out.

        In the context the model's forward pass of one of these windows ``(1, length)`` runs what is
        around the blocks, and each block hands on the last block's output for that window. Other
        inputs pass through unchanged (`crvq.evaluation.hidden_states` probes the head so).
        """
        # The blocks' outputs as they were computed before belong to other weights or windows.
        stream = BlockStream(
            self._model, self._blocks, windows, 1, activation_dtype, residence=self
        )
        for index in range(len(self._blocks)):
            on_block(index)
            with self.hold(index):
                stream.advance(index)
        places = {_key(window): number for number, window in enumerate(windows)}
        current: list[int | None] = [None]

        def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            current[0] = places.get(_key(args[0]))

        def last_states(hidden: Tensor) -> Tensor:
            return hidden if current[0] is None else stream.hidden[current[0]]

        # The embedding is what every architecture gives the tokens to.
        handle = self._model.get_input_embeddings().register_forward_pre_hook(note)
        try:
            with stream.replaced(last_states):
                yield
        finally:
            handle.remove()

    def _entering(self, index: int) -> Callable[..., None]:
        def take(*_: object) -> None:
            if not self._paused:
                self._take(index)

        return take

    def _leaving(self, index: int) -> Callable[..., None]:
        def release(*_: object) -> None:
            if not self._paused:
                self._release(index)

        return release

    def _take(self, index: int) -> None:
        self._held[index] = self._held.get(index, 0) + 1
        if self._held[index] > 1:
            return
        block, prefix = self._blocks[index], f"{self._prefix}.{index}."
        stored = {name: self._names[prefix + name] for name in block.state_dict()}
        for name, tensor in self._files.read(stored, self._dtype).items():
            _set(block, name, tensor.to(self._device))
        if self._put_stored is not None:
            self._put_stored(index, block)

    def _release(self, index: int) -> None:
        self._held[index] -= 1
        if self._held[index]:
            return
        block = self._blocks[index]
        for name, tensor in block.state_dict().items():
            _set(block, name, tensor.to("meta"))


def empty_model(config: PretrainedConfig, dtype: torch.dtype, trusted: bool) -> PreTrainedModel:
    """Return a model in eval mode whose parameters are on the meta device; buffers are computed."""
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trusted)
    model.tie_weights()
    model.eval().requires_grad_(False)
    run_experts_one_by_one(model)
    return model


def open_streamed(
    files: WeightFiles,
    config: PretrainedConfig,
    dtype: torch.dtype,
    device: torch.device,
    states: HiddenStates,
    trusted: bool,
) -> tuple[PreTrainedModel, StreamedBlocks]:
    """Return the model of some files with its blocks left on disk.

    Args:
        files: of the model.
        config: of the model.
        dtype: in which weights are held.
        device: where they are computed with.
        states: an empty sequence for hidden states.
        trusted: run code that comes with the model.

    Raises:
        SourceError: tensors are missing, superfluous, of another shape, or stored under names that
            transformers converts when it loads the whole model.
    """
    model = empty_model(config, dtype, trusted)
    names = _stored_names(model, files)
    prefix = f"{find_blocks(model)[0]}."
    outer = {name: stored for name, stored in names.items() if not name.startswith(prefix)}
    for name, tensor in files.read(outer, dtype).items():
        _set(model, name, tensor.to(device))
    model.tie_weights()
    absent = [
        name
        for name, tensor in model.state_dict().items()
        if tensor.is_meta and not name.startswith(prefix)
    ]
    if absent:
        raise _unreadable(files, "lacks tensors of the model", absent)
    for name, buffer in model.named_buffers():
        _set(model, name, buffer.to(device))
    return model, StreamedBlocks(model, files, names, states, device)


def _stored_names(model: PreTrainedModel, files: WeightFiles) -> dict[str, str]:
    """Return the stored name of every tensor of the model that is not another one's alias."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    base = f"{model.base_model_prefix}."
    # Some checkpoints hold the body alone, without the name that it has inside the whole model.
    names = {
        name: name if name in files.files else name.removeprefix(base)
        for name in wanted
        if name in files.files or name.removeprefix(base) in files.files
    }
    prefix = f"{find_blocks(model)[0]}."
    missing = [name for name in wanted if name not in names and name.startswith(prefix)]
    unknown = sorted(
        stored
        for stored in set(files.files) - set(names.values())
        if stored.startswith((prefix, prefix.removeprefix(base)))
        # Llama's old checkpoints store rotary frequencies, which the model computes itself.
        and not stored.endswith(".inv_freq")
    )
    other = [name for name, stored in names.items() if files.shapes[stored] != wanted[name]]
    for problem, found in (
        ("lacks tensors of the model", sorted(missing)),
        ("holds tensors for the blocks that the model has no place for", unknown),
        ("holds tensors of another shape than config.json says", sorted(other)),
    ):
        if found:
            raise _unreadable(files, problem, found)
    return names


def _unreadable(files: WeightFiles, problem: str, names: list[str]) -> SourceError:
    return SourceError(
        f"{files.folder} {problem}: {listed(names)}. Either the files do not belong together, or "
        "transformers converts them when it loads the model: only placement=device can read such "
        "a checkpoint"
    )


def _set(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Replace a parameter or buffer by another tensor, which may be on another device."""
    path, _, own = name.rpartition(".")
    holder = module.get_submodule(path)
    if own in holder._parameters:
        holder._parameters[own] = nn.Parameter(tensor, requires_grad=False)
    else:
        holder._buffers[own] = tensor


def _key(window: Tensor) -> bytes:
    return window.cpu().numpy().tobytes()
