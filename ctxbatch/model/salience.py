"""Computes salience, the attention that words receive at one layer, for models that return no attentions.

Owns how attention is observed: transformers calls functions registered here with the queries, keys and mask
of every layer. Tensor names end in the letters of their shape: B windows, H heads, T tokens, N rows, M
wordpieces, D dimensions of a head.
"""

from typing import Any

import torch
from torch import Tensor, nn

_SEEN_BY = "ctxbatch_watch"
_NAME = "ctxbatch_watched"


class Watch:
    """Observes the attention of one layer during a forward pass.

    Args:
        head: The head to observe, from 1; the mean of all if not given.
    """

    def __init__(self, head: int | None) -> None:
        self._head = head
        self._received_BT: Tensor | None = None
        self._queries_BT: Tensor | None = None

    def look_at(self, layer: nn.Module) -> None:
        """Watch a layer of a model that was loaded with `watched_attention`."""
        for module in layer.modules():
            setattr(module, _SEEN_BY, self)

    def begin(self, mask_BT: Tensor) -> None:
        """Prepare for a forward pass; ``mask_BT`` is true for tokens, false for padding."""
        self._queries_BT = mask_BT.float()

    def see(self, query_BHTD: Tensor, key_BHTD: Tensor, mask: Tensor | None, scaling: float) -> None:
        """Sum up what each token receives, head by head, because all at once can take gigabytes."""
        assert self._queries_BT is not None
        n_heads = query_BHTD.shape[1]
        heads = range(n_heads) if self._head is None else (self._head - 1,)
        received_BT = torch.zeros_like(self._queries_BT)
        for head in heads:
            scores_BTT = query_BHTD[:, head].float() @ key_BHTD[:, head].float().transpose(1, 2) * scaling
            if mask is not None:
                mask_BTT = mask[:, head if mask.shape[1] > 1 else 0]
                if mask.dtype == torch.bool:
                    scores_BTT = scores_BTT.masked_fill(~mask_BTT, -torch.inf)
                else:
                    scores_BTT = scores_BTT + mask_BTT
            probabilities_BTT = scores_BTT.softmax(dim=2).nan_to_num(0.0)  # padding may attend to nothing
            received_BT = received_BT + (probabilities_BTT * self._queries_BT[:, :, None]).sum(dim=1)
        self._received_BT = received_BT / len(heads)

    def salience(self, positions_M: Tensor, first_N: Tensor) -> Tensor:
        """Return what rows received in the last forward pass, (N,), summed over their wordpieces.

        Args:
            positions_M: Wordpieces of the rows, row after row, as indices into the flattened (B * T).
            first_N: Where in ``positions_M`` each row begins.
        """
        assert self._received_BT is not None
        received = self._received_BT.flatten()[:, None]
        return nn.functional.embedding_bag(positions_M, received, first_N, mode="sum")[:, 0]


def watched_attention() -> str:
    """Register the variant of transformers' attention for padded batches; return its name there.

    A watch sees what it computes. For no batch does the host wait for a value on the device, as transformers
    does to find that nothing is padded: then the model is given no mask.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def watched(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        **options: Any,  # noqa: ANN401 (what a family adds)
    ) -> tuple[Tensor, None]:
        watch: Watch | None = getattr(module, _SEEN_BY, None)
        if watch is not None:
            watch.see(query, key, mask, _scaling(query, options))
        attended: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, mask, **options)
        return attended

    def mask(*args: Any, attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:  # noqa: ANN401 (as above)
        if attention_mask is not None:
            options["allow_is_bidirectional_skip"] = False
        made: Tensor | None = sdpa_mask(*args, attention_mask=attention_mask, **options)
        return made

    # Under a name of our own, and for good: a model looks its attention up by name in every pass.
    AttentionInterface.register(_NAME, watched)
    AttentionMaskInterface.register(_NAME, mask)
    return _NAME


def _scaling(query: Tensor, options: dict[str, Any]) -> float:
    scaling: float | None = options.get("scaling")
    return float(query.shape[-1] ** -0.5) if scaling is None else scaling
