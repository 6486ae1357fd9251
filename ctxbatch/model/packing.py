"""Lays the windows of a batch one after another, and attends within each: no padding is computed.

Owns that layout, and the attention that knows of it: torch's flash attention for sequences of many lengths,
which takes half precision, on GPUs from Ampere on. Tensor names end in the letters of their shape: B windows,
H heads, T tokens of the longest window, S tokens of all windows, M wordpieces of rows, E size of a head.
"""

import importlib.util
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ctxbatch.text.batching import TokenBatch

_NAME = "ctxbatch_packed"
_AMPERE = (8, 0)

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Packed:
    """The tokens of a batch without padding.

    ``ids_S`` are token ids, ``places_S`` their places in their windows, from 0. ``ends`` says where windows
    end, (B + 1,) from 0. ``positions_M`` are the rows' wordpieces as indices into S.
    """

    ids_S: Array
    places_S: Array
    ends: Array
    longest: int
    positions_M: Array


def runs_on(device: str) -> bool:
    """Return whether this torch has the attention, as 2.10 and newer do, and a device runs it."""
    if not device.startswith("cuda") or importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return False
    return torch.cuda.get_device_capability(device) >= _AMPERE


def pack(batch: TokenBatch) -> Packed:
    """Return the tokens of a batch one after another."""
    longest = batch.input_ids_BT.shape[1]
    is_token_BT = np.arange(longest) < batch.lengths_B[:, None]
    packed_T = np.cumsum(is_token_BT.ravel()) - 1
    return Packed(
        ids_S=batch.input_ids_BT[is_token_BT],
        places_S=np.broadcast_to(np.arange(longest), is_token_BT.shape)[is_token_BT],
        ends=np.concatenate([[0], np.cumsum(batch.lengths_B)]).astype(np.int32),
        longest=longest,
        positions_M=packed_T[batch.positions_M],
    )


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
    cu_seq_lens: Tensor,
    max_length: int,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_options: Any,  # noqa: ANN401 (what a family adds)
) -> tuple[Tensor, None]:
    """Attend within windows that stand one after another in a batch of one."""
    from torch.nn.attention.varlen import varlen_attn  # a second of imports, which a CPU does not need

    query, key, value = (each[0].transpose(0, 1) for each in (query_BHSE, key_BHSE, value_BHSE))
    # transformers counts the token itself to each side of a sliding window, flash attention does not.
    window = (-1, -1) if sliding_window is None else (sliding_window - 1, sliding_window - 1)
    attended = varlen_attn(
        query, key, value, cu_seq_lens, cu_seq_lens, max_length, max_length, scale=scaling, window_size=window
    )
    assert isinstance(attended, Tensor)
    return attended[None], None
