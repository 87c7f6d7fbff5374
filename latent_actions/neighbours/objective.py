"""The contrastive loss (InfoNCE): a view is to find its partner among all views of a step.

Shapes: V views, E width of an embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def contrast(
    embeddings_VE: Tensor, recordings_V: Tensor, *, temperature: float
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the cosines, and the share of views whose nearest other is the partner.

    The partner of view i is view i + V/2. Other views of the same recording, whose likeness is no
    mistake, do not count.
    """
    num_views = len(embeddings_VE)
    unit = F.normalize(embeddings_VE.float(), dim=1)
    cosine = unit @ unit.T
    partner = torch.arange(num_views, device=recordings_V.device).roll(num_views // 2)
    is_left_out = recordings_V[:, None] == recordings_V
    is_left_out.scatter_(1, partner[:, None], False)
    is_left_out.fill_diagonal_(True)
    logits = (cosine / temperature).masked_fill(is_left_out, -torch.inf)
    return F.cross_entropy(logits, partner), (logits.argmax(dim=1) == partner).float().mean()
