"""Lays the windows of a batch one after another, and attends within each: no padding is computed.

Owns that layout, and the attention that knows of it: two kernels of torch for sequences of many lengths,
which take half precision, on GPUs from Ampere on. Tensor names end in the letters of their shape: B windows,
H heads, T tokens of the longest window, S tokens of all windows, M wordpieces of rows, E size of a head.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.torch_version import TorchVersion

from ctxbatch.text.batching import TokenBatch

_NAME = "ctxbatch_packed"
_AMPERE = (8, 0)
# Flash attention works in tiles of 128 tokens, memory-efficient attention in tiles of 64. The latter takes
# half the time for windows of up to so many tokens, and more than flash attention for longer ones.
SHORT = 64

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Part:
    """Windows of a batch that one kernel attends in.

    ``tokens`` says which of S are theirs. ``ends`` says where among these windows end, (B + 1,) from 0: an
    array, or a tensor on the device.
    """

    tokens: slice
    ends: Any
    longest: int


@dataclass(frozen=True, slots=True)
class Packed:
    """The tokens of a batch without padding.

    ``ids_S`` are token ids, ``places_S`` their places in their windows, from 0. ``parts`` are all
    windows: the longer ones, then the short ones. ``positions_M`` are the rows' wordpieces as indices into S.
    """

    ids_S: Array
    places_S: Array
    parts: list[Part]
    positions_M: Array

    def positions(self, padding: int | None) -> Array:
        """Return the positions of tokens, (S,).

        Args:
            padding: The token from whose id on positions are counted, and only those of other tokens;
                ``None`` for places.
        """
        if padding is None:
            return self.places_S
        is_counted_S = self.ids_S != padding
        counted_S = np.cumsum(is_counted_S)
        first = np.flatnonzero(self.places_S == 0)
        before = counted_S[first] - is_counted_S[first]
        before_S = np.repeat(before, np.diff(np.append(first, len(counted_S))))
        positions_S: Array = (counted_S - before_S) * is_counted_S + padding
        return positions_S


def is_in_torch() -> bool:
    """Return whether this torch has the attention: that of 2.10 takes neither a scale nor a window."""
    return TorchVersion(torch.__version__) >= "2.11"


def runs_on(device: str) -> bool:
    """Return whether this torch has the attention and a device runs it."""
    if not device.startswith("cuda") or not is_in_torch():
        return False
    return torch.cuda.get_device_capability(device) >= _AMPERE


def pack(batch: TokenBatch) -> Packed:
    """Return the tokens of a batch one after another; its windows stand longest first."""
    longest = batch.input_ids_BT.shape[1]
    is_token_BT = np.arange(longest) < batch.lengths_V[:, None]
    packed_T = np.cumsum(is_token_BT.ravel()) - 1
    return Packed(
        ids_S=batch.input_ids_BT[is_token_BT],
        places_S=np.broadcast_to(np.arange(longest), is_token_BT.shape)[is_token_BT],
        parts=_parts(batch.lengths_V),
        positions_M=packed_T[batch.positions_M],
    )


def _parts(lengths_B: Array) -> list[Part]:
    n_long = int((lengths_B > SHORT).sum())
    parts, begin = [], 0
    for its in (lengths_B[:n_long], lengths_B[n_long:]):
        if len(its):
            ends = np.concatenate([[0], np.cumsum(its)]).astype(np.int32)
            parts.append(Part(slice(begin, begin + int(ends[-1])), ends, int(its[0])))
            begin += int(ends[-1])
    return parts


def packed_attention() -> str:
    """Register the attention within windows; return its name in transformers."""
    from transformers import AttentionInterface, AttentionMaskInterface

    # Under a name of our own, and for good: a model looks its attention up by name in every pass.
    AttentionInterface.register(_NAME, _attend)
    AttentionMaskInterface.register(_NAME, lambda *_, **__: None)
    return _NAME


def _attend(
    _module: nn.Module,
    query_BHSE: Tensor,
    key_BHSE: Tensor,
    value_BHSE: Tensor,
    _mask: Tensor | None,
    *,
    packed_parts: list[Part],
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_options: Any,  # noqa: ANN401 (what a family adds)
) -> tuple[Tensor, None]:
    """Attend within windows that stand one after another in a batch of one."""
    arrays = [each[0].transpose(0, 1) for each in (query_BHSE, key_BHSE, value_BHSE)]
    attended = [
        _attend_within(part, scaling, sliding_window, *(array[part.tokens] for array in arrays))
        for part in packed_parts
    ]
    return (attended[0] if len(attended) == 1 else torch.cat(attended))[None], None


def _attend_within(
    part: Part, scaling: float | None, sliding_window: int | None, query: Tensor, key: Tensor, value: Tensor
) -> Tensor:
    """Attend within the windows of a part; tensors are (S, H, E)."""
    from torch.nn.attention.varlen import varlen_attn  # a second of imports, which a CPU does not need

    bounds = (part.ends, part.ends, part.longest, part.longest)
    if part.longest <= min(SHORT, sliding_window or SHORT):
        # torch has no public function for it that does not take milliseconds to start.
        found = torch.ops.aten._efficient_attention_forward(
            query[None], key[None], value[None], None, *bounds, 0.0, 0, scale=scaling
        )
        return found[0][0]  # type: ignore[no-any-return]  # torch leaves it untyped
    # transformers counts the token itself to each side of a sliding window, flash attention does not.
    window = (-1, -1) if sliding_window is None else (sliding_window - 1, sliding_window - 1)
    attended = varlen_attn(query, key, value, *bounds, scale=scaling, window_size=window)
    assert isinstance(attended, Tensor)
    return attended
