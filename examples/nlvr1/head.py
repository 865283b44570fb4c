"""Is the sentence true of the three panels? UNITER's body under a head that asks each panel what the sentence says.

Legend: B sequences, R objects, N units, H hidden size, K parts of a sentence, C what is counted of a panel.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.nlvr1.panels import IMG_DIM, OBJECT_DIM, PANEL_DIM, PANELS
from model.attention import owners, segment_sum
from model.layers import full, rows
from model.uniter import UniterConfig, UniterModel

HEARD, FILTERS = 12, 4  # what a sentence asks of counts, and of objects
OBJECT_WIDTH, STEPS = 48, 7
JUDGE, VERDICTS, JOINT = 96, 16, 8
TYPE_STD, WORD_STD, POSITION_STD = 0.3, 1.0, 0.5  # of embeddings: words must stand out from the first step


class Filters(nn.Module):
    """Parts of the sentence, each picking objects and asking for a number of them: what "two black circles" does.

    How far each object is what a part asks for is a product with the object's feature; the sum over a panel, or over
    the picture, counts; steps of the count meet what the part says of numbers.
    """

    def __init__(self, width: int):
        super().__init__()
        self.wanted = nn.Linear(width, OBJECT_WIDTH + 1)
        self.object = nn.Linear(OBJECT_DIM, OBJECT_WIDTH)
        self.number = nn.Linear(width, 4 * STEPS)

    def forward(self, said: Tensor, looks: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """Parts (B, K, H), objects (R, OBJECT_DIM), their panels (R,) -> of panels (B, 3, K), of the picture (B, K)."""
        sequences = len(said)
        wanted, least = self.wanted(said).split([OBJECT_WIDTH, 1], -1)
        asked = torch.einsum("rd,rkd->rk", self.object(looks), rows(wanted, place // PANELS))
        fits = torch.sigmoid(asked / OBJECT_WIDTH**0.5 * 3 + rows(least, place // PANELS)[..., 0])
        both = torch.stack([fits, 1 - fits], -1)  # what is, and all else
        counts = segment_sum(both, place, PANELS * sequences).view(sequences, PANELS, FILTERS, 2)
        number = self.number(said).view(sequences, FILTERS, 2, 2 * STEPS)
        in_panel, in_all = number.split(STEPS, -1)
        panels = torch.einsum("bpkts,bkts->bpk", self.steps(counts), in_panel)
        return panels, torch.einsum("bkts,bkts->bk", self.steps(counts.sum(1)), in_all)

    def steps(self, counts: Tensor) -> Tensor:
        """How far each count is over one half, one and a half, …"""
        return torch.sigmoid(4 * (counts[..., None] - torch.arange(STEPS, device=counts.device) - 0.5))


class Counts(nn.Module):
    """Words of the sentence, each naming a class of what is counted and asking for a number of it."""

    def __init__(self, width: int):
        super().__init__()
        self.named = nn.Linear(width, PANEL_DIM)
        self.number = nn.Linear(width, 2 * STEPS)

    def forward(self, said: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Words (B, L, H), counts of panels (B, 3, C) -> what they say of panels (B, 3, L), of the picture (B, L)."""
        steps = torch.arange(STEPS, device=counts.device) + 0.5
        named = torch.softmax(self.named(said), -1)
        in_panel, in_all = self.number(said).chunk(2, -1)
        panels = (counts[..., None] > steps).to(named.dtype) - 0.5
        all_ = (counts.sum(1)[..., None] > steps).to(named.dtype) - 0.5
        found = torch.einsum("bkc,bpcs->bpks", named, panels)
        return (found * in_panel[:, None]).sum(-1), (torch.einsum("bkc,bcs->bks", named, all_) * in_all).sum(-1)


class PanelHead(nn.Module):
    """Words of the sentence × counts, and parts of it × objects, panel by panel; then the panels together."""

    def __init__(self, width: int):
        super().__init__()
        self.attention = nn.Linear(width, FILTERS + 1)
        self.filters = Filters(width)
        self.counts = Counts(width)
        self.heard = nn.Linear(width, HEARD)
        self.needed = nn.Linear(width, JOINT)
        nn.init.constant_(self.needed.bias, -2.0)  # at first few words are needed
        self.gate = nn.Linear(2 * width, JUDGE)
        self.bias = nn.Linear(2 * width, JUDGE)
        self.judge = nn.Linear(HEARD + FILTERS, JUDGE)
        self.verdict = nn.Linear(JUDGE, VERDICTS)
        self.together = nn.Linear(4 * (VERDICTS + JOINT) + HEARD + FILTERS, JUDGE)
        self.together_gate = nn.Linear(2 * width, JUDGE)
        self.together_bias = nn.Linear(2 * width, JUDGE)
        self.linear = nn.Linear(JUDGE, 2)

    def forward(self, hidden: Tensor, batch: Any) -> Tensor:
        """(N, H) -> scores (B, 2)."""
        words, mask = self.padded(hidden, batch)
        sequences = len(words)
        weights = torch.softmax(self.attention(words).masked_fill(~mask, -1e4), 1)
        pooled = torch.einsum("blk,blh->bkh", weights, words)
        parts, sentence = pooled[:, :FILTERS], torch.cat([pooled[:, FILTERS], words[:, 0]], 1)
        # A panel's own region comes first among its regions, and is the only one as wide as the panel.
        whole = rows(batch.img_pos_feat, batch.img_row)[:, 4] > 0.9
        place = PANELS * owners(batch.seqlens - batch.txt_lens, hidden.device) + batch.img_type_ids - 1
        seen = batch.img_feat.to(words.dtype)
        looks = rows(seen[:, :OBJECT_DIM], batch.img_row[~whole])
        counts = rows(seen[:, OBJECT_DIM:], batch.img_row[whole]).view(sequences, PANELS, -1)
        in_panel, in_all, joint = self.counted(words, mask, counts)
        told = zip(self.filters(parts, looks, place[~whole]), (in_panel, in_all))
        in_panel, in_all = (torch.cat(both, -1) for both in told)
        judged = F.gelu(self.judge(in_panel) * (1 + self.gate(sentence))[:, None] + self.bias(sentence)[:, None])
        verdicts = torch.cat([torch.sigmoid(self.verdict(judged)), joint], -1)
        all_ = [verdicts.mean(1), verdicts.amax(1), verdicts.amin(1), verdicts.sum(1).sub(1.5).mul(4).sigmoid(), in_all]
        x = self.together(torch.cat(all_, 1)) * (1 + self.together_gate(sentence)) + self.together_bias(sentence)
        return self.linear(F.gelu(x))

    def counted(self, words: Tensor, mask: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Words (B, L, H), counts (B, 3, C): what is heard of panels, of the picture, and what panels show at once."""
        of_panel, of_all = self.counts(words, counts)
        heard = torch.softmax(self.heard(words).masked_fill(~mask, -1e4), 1)
        needed = torch.sigmoid(self.needed(words)) * mask  # of which words a panel must show the number they ask for
        joint = torch.einsum("bpl,blj->bpj", F.logsigmoid(of_panel), needed).exp()
        return torch.einsum("bpl,blk->bpk", of_panel, heard), torch.einsum("bl,blk->bk", of_all, heard), joint

    def padded(self, hidden: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        """Words (B, L, H), and where there is one (B, L, 1)."""
        lens = batch.txt_lens.to(hidden.device)
        at = torch.arange(int(lens.max()), device=hidden.device)
        mask = at < lens[:, None]
        index = torch.where(mask, (lens.cumsum(0) - lens)[:, None] + at, 0)
        words = rows(full(rows(hidden, batch.txt_index)), index.flatten())
        return words.view(*index.shape, -1), mask[..., None]


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
