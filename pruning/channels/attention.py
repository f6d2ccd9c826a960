"""nn.MultiheadAttention without some of its heads, or of the features that it reads and makes."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class CutAttention(nn.MultiheadAttention):
    """What a cut makes of nn.MultiheadAttention, whose own code needs heads that share all features.

    `in_proj_weight` is (3 * num_heads * head_dim, embed_dim); heads keep their size, so that products keep their scale.
    """

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Attention of a batch without masks; weights are not returned. Further arguments are ignored."""
        bias = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        weights = zip((query, key, value), self.in_proj_weight.chunk(3), bias, strict=True)
        tokens = 1 if self.batch_first else 0
        q, k, v = (
            F.linear(*each).unflatten(-1, (self.num_heads, self.head_dim)).movedim(tokens, 2) for each in weights
        )
        heads = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        joined = heads.movedim(2, tokens).flatten(2)
        return F.linear(joined, self.out_proj.weight, self.out_proj.bias), None


ATTENTION = (nn.MultiheadAttention, CutAttention)
