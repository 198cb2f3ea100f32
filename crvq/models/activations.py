"""Hidden states of many windows, kept where there is room for them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, overload

import torch
from torch import Tensor

from crvq.errors import SourceError

Place = Literal["device", "host", "disk"]


class HiddenStates(Sequence[Tensor]):
    """A sequence of tensors of one shape and type, held on a device, in host memory or on disk.

    Args:
        place: where they are kept; what is read is on ``device``.
        device: where they are computed.
        folder: for ``disk``: the files are temporary, in a folder of their own in it.
    """

    def __init__(
        self,
        place: Place = "device",
        device: torch.device | None = None,
        folder: Path | None = None,
    ) -> None:
        self.place, self._device = place, device
        self._held: list[Tensor | None] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._parent = folder

    def empty(self) -> HiddenStates:
        """Return an empty sequence that is kept in the same place."""
        return HiddenStates(self.place, self._device, self._parent)

    def filled(self, states: Iterable[Tensor]) -> HiddenStates:
        """Return a new sequence in the same place with these states, taken one by one."""
        made = self.empty()
        for one in states:
            made.append(one)
        return made

    def append(self, state: Tensor) -> None:
        """Add the states of one more batch."""
        self._held.append(None)
        self[len(self._held) - 1] = state

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[index] for index in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...

    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        held = self._held[index]
        assert held is not None
        if self.place == "disk":
            data = torch.empty(held.shape, dtype=held.dtype)
            raw = data.view(torch.uint8).numpy() if data.numel() else None
            with self._file(index).open("rb") as file:
                if raw is not None and file.readinto(raw.data) != raw.nbytes:
                    raise SourceError(f"{self._file(index)} was cut while the run was using it")
            held = data
        return held if self._device is None else held.to(self._device, non_blocking=True)

    def __setitem__(self, index: int, state: Tensor) -> None:
        if self.place == "device":
            self._held[index] = state
            return
        on_host = state.detach().to("cpu")
        if self.place == "host":
            pinned = self._device is not None and self._device.type == "cuda"
            self._held[index] = on_host.pin_memory() if pinned else on_host
            return
        # Written as a file and not mapped: mapped pages would count as this process's memory.
        with self._file(index).open("wb") as file:
            file.write(on_host.contiguous().view(torch.uint8).numpy().data)
        self._held[index] = torch.empty(on_host.shape, dtype=on_host.dtype, device="meta")

    def _file(self, index: int) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="hidden-states-", dir=self._parent)
        return Path(self._folder.name) / f"{index}.bin"
