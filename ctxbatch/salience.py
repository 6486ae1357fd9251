"""Salience: the attention that each word receives at the highest layer that a store's model runs.

Owns how attention is seen without a model that returns any: transformers calls a function registered
here with the queries, keys and mask of every layer. Tensor names end in the letters of their shape: B
windows, H heads, T tokens, N rows, M wordpieces.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ctxbatch.batching import TokenBatch
from ctxbatch.config import ResolvedConfig
from ctxbatch.encoder import WordModel

_NAME = "ctxbatch_salience"
_SEEN_BY = "ctxbatch_watch"


class Salience:
    """Says how salient words are to a store's model, on a CPU.

    Salience is the attention probability that a word's wordpieces receive, averaged over heads, summed
    over all positions of the window, special tokens included and padding not.

    Args:
        config: The store's configuration, of a family that shows its attention.

    Raises:
        InputError: The model cannot be found.
        StoreError: Its files are not those of the configuration.
    """

    def __init__(self, config: ResolvedConfig) -> None:
        _register()
        self._model = WordModel(config, attention=_NAME)
        self._watch = _Watch()
        for module in self._model.highest_layer.modules():
            setattr(module, _SEEN_BY, self._watch)

    @torch.inference_mode()
    def of(self, batch: TokenBatch) -> npt.NDArray[np.float32]:
        """The salience of a batch's rows, (N,); that of a word of several rows is their sum."""
        longest = batch.input_ids_BT.shape[1]
        mask_BT = torch.from_numpy(np.arange(longest) < batch.lengths_B[:, None])
        self._watch.mask_BT = mask_BT
        positions_M = torch.from_numpy(batch.positions_M)
        first_N = torch.from_numpy(np.cumsum(batch.n_pieces_N) - batch.n_pieces_N)
        self._model(torch.from_numpy(batch.input_ids_BT), mask_BT, positions_M, first_N)
        received_BT = self._watch.received_BT.flatten()[:, None]
        summed = nn.functional.embedding_bag(positions_M, received_BT, first_N, mode="sum")
        salience_N: npt.NDArray[np.float32] = summed[:, 0].numpy()
        return salience_N


class _Watch:
    """What is seen of one layer's attention during a forward pass."""

    mask_BT: Tensor
    received_BT: Tensor

    def see(self, query_BHTD: Tensor, key_BHTD: Tensor, mask: Tensor | None, scaling: float) -> None:
        scores_BHTT = query_BHTD.float() @ key_BHTD.float().transpose(2, 3) * scaling
        if mask is not None:
            is_bool = mask.dtype == torch.bool
            scores_BHTT = scores_BHTT.masked_fill(~mask, -torch.inf) if is_bool else scores_BHTT + mask
        probabilities_BHTT = scores_BHTT.softmax(dim=3).nan_to_num(0.0)  # padding may attend to nothing
        self.received_BT = torch.einsum("bhqk,bq->bk", probabilities_BHTT, self.mask_BT.float())
        self.received_BT /= probabilities_BHTT.shape[1]


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        **options: Any,  # noqa: ANN401
    ) -> tuple[Tensor, None]:
        watch: _Watch | None = getattr(module, _SEEN_BY, None)
        if watch is not None:
            scaling = options.get("scaling")
            watch.see(query, key, mask, query.shape[-1] ** -0.5 if scaling is None else scaling)
        attended: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, mask, **options)
        return attended

    AttentionInterface.register(_NAME, attend)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
