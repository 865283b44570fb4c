"""Is the sentence true of the three panels? UNITER's body under a head that multiplies the sentence with each panel.

Legend: B sequences, R regions, N units, H hidden size.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.nlvr1.panels import IMG_DIM, PANELS
from model.attention import owners, segment_softmax, segment_sum
from model.layers import full, rows
from model.uniter import UniterConfig, UniterModel

TYPE_STD, WORD_STD, POSITION_STD = 0.3, 1.0, 0.5  # of embeddings: words must stand out from the first step


class PanelHead(nn.Module):
    """Sentence × panel, panel by panel; then the mean, the best and the worst of the panels.

    The product is what "black" and what a panel shows need to meet in: without it, learning stalls for many epochs.
    """

    def __init__(self, width: int):
        super().__init__()
        self.attention = nn.Linear(width, 1)
        self.sentence = nn.Linear(2 * width, 3 * width)
        self.panel = nn.Linear(width, width)
        self.one = nn.Linear(width, width)  # of each object; their sum over a panel counts
        self.several = nn.Linear(width, width)
        self.judge = nn.Sequential(nn.Linear(3 * width, width), nn.GELU(), nn.Linear(width, width))
        self.linear = nn.Linear(3 * width, 2)
        self.deep = nn.Sequential(nn.Linear(4 * width, width), nn.GELU(), nn.Linear(width, 2))

    def forward(self, hidden: Tensor, batch: Any) -> Tensor:
        """(N, H) -> scores (B, 2)."""
        sequences = len(batch.seqlens)
        words, regions = rows(hidden, batch.txt_index), rows(hidden, batch.img_index)
        owner = owners(batch.txt_lens, hidden.device)
        weights = segment_softmax(self.attention(words)[:, 0], owner, sequences)
        pooled = segment_sum(weights[:, None] * full(words), owner, sequences)
        cls = rows(hidden, batch.cu_seqlens[:-1].long())
        said, wanted, gate = self.sentence(torch.cat([pooled, cls], 1)).chunk(3, dim=1)
        # A panel's own region comes first among its regions, and is the only one as wide as the panel.
        whole = rows(batch.img_pos_feat, batch.img_row)[:, 4] > 0.9
        place = PANELS * owners(batch.seqlens - batch.txt_lens, hidden.device) + batch.img_type_ids - 1
        each = F.relu(self.one(regions)) * ~whole[:, None] / 2
        shown = self.panel(regions[whole]) + self.several(segment_sum(each, place, PANELS * sequences))
        said, wanted, gate = (x.repeat_interleave(PANELS, 0) for x in (said, wanted, gate))
        product = said * shown
        judged = product + self.judge(torch.cat([product, shown, wanted], 1)) * torch.tanh(gate)
        panels = judged.view(sequences, PANELS, -1)
        together = torch.cat([panels.mean(1), panels.amax(1), panels.amin(1)], 1)
        return self.linear(together) + self.deep(torch.cat([together, wanted[::PANELS]], 1))


class UniterForNlvr1(nn.Module):
    """The body with four token types, text and three panels, under the head."""

    def __init__(self, config: UniterConfig, img_dim: int = IMG_DIM):
        super().__init__()
        self.uniter = UniterModel(config, img_dim)
        self.nlvr1_output = PanelHead(config.hidden_size)
        text = self.uniter.embeddings
        nn.init.normal_(text.word_embeddings.weight, 0.0, WORD_STD)
        nn.init.normal_(text.position_embeddings.weight, 0.0, POSITION_STD)
        nn.init.normal_(text.token_type_embeddings.weight, 0.0, TYPE_STD)
        for layer in self.uniter.encoder["layer"]:  # type: ignore[attr-defined]
            for end in (layer.attention["output"], layer.output):  # at first a layer leaves its input alone
                nn.init.zeros_(end.dense.weight)

    def forward(self, batch: Any) -> Tensor:
        """Scores (B, 2), 1 = true."""
        return self.nlvr1_output(self.uniter(batch), batch)

    def losses(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Scores (B, 2) and cross-entropy (B,)."""
        scores = self(batch)
        return scores, F.cross_entropy(full(scores), batch.targets["labels"], reduction="none")
