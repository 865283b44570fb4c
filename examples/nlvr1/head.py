"""Is the sentence true of the three panels? UNITER's body under a head that asks each panel what the sentence says.

Legend: B sequences, R objects, N units, H hidden size, L words of a sentence, K parts of it, C what is counted of a
panel.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.nlvr1.panels import IMG_DIM, OBJECT_DIM, PANEL_DIM, PANELS
from model.attention import owners, segment_sum
from model.layers import full, rows
from model.uniter import UniterConfig, UniterModel

COUNT_QUERIES, FILTERS = 12, 4  # what a sentence asks of counts, and of objects
OBJECT_WIDTH, STEPS = 48, 7
JUDGE, VERDICTS, JOINT = 96, 16, 8
TYPE_STD, WORD_STD, POSITION_STD = 0.3, 1.0, 0.5  # of embeddings: words must stand out from the first step


class Filters(nn.Module):
    """Parts of the sentence, each picking objects and asking for a number of them: what "two black circles" does.

    How far each object is what a part asks for is a product with the object's feature; the sum over a panel, or over
    the picture, counts; steps of the count meet what the part says of numbers.
    The attribute `wanted` is a checkpoint key and keeps its name.
    """

    def __init__(self, width: int):
        super().__init__()
        self.wanted = nn.Linear(width, OBJECT_WIDTH + 1)
        self.object = nn.Linear(OBJECT_DIM, OBJECT_WIDTH)
        self.number = nn.Linear(width, 4 * STEPS)

    def forward(self, parts: Tensor, objects: Tensor, panel_index: Tensor) -> tuple[Tensor, Tensor]:
        """How well each part fits: for each panel (B, 3, K) and for the whole picture (B, K).

        `parts` (B, K, H), `objects` (R, OBJECT_DIM), `panel_index` (R,): the panel of each object, which is
        3 × sequence + panel.
        """
        sequences, owner = len(parts), panel_index // PANELS
        query, bias = self.wanted(parts).split([OBJECT_WIDTH, 1], -1)
        scores = torch.einsum("rd,rkd->rk", self.object(objects), rows(query, owner))
        match = torch.sigmoid(scores / OBJECT_WIDTH**0.5 * 3 + rows(bias, owner)[..., 0])
        match_and_rest = torch.stack([match, 1 - match], -1)
        counts = segment_sum(match_and_rest, panel_index, PANELS * sequences).view(sequences, PANELS, FILTERS, 2)
        number = self.number(parts).view(sequences, FILTERS, 2, 2 * STEPS)
        in_panel, in_all = number.split(STEPS, -1)
        panels = torch.einsum("bpkts,bkts->bpk", self.steps(counts), in_panel)
        return panels, torch.einsum("bkts,bkts->bk", self.steps(counts.sum(1)), in_all)

    def steps(self, counts: Tensor) -> Tensor:
        """How far each count is over one half, one and a half, …"""
        return torch.sigmoid(4 * (counts[..., None] - torch.arange(STEPS, device=counts.device) - 0.5))


class Counts(nn.Module):
    """Words of the sentence, each naming a class of what is counted and asking for a number of it.

    The attribute `named` is a checkpoint key and keeps its name.
    """

    def __init__(self, width: int):
        super().__init__()
        self.named = nn.Linear(width, PANEL_DIM)
        self.number = nn.Linear(width, 2 * STEPS)

    def forward(self, words: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Words (B, L, H), counts of panels (B, 3, C) -> what they say of panels (B, 3, L), of the picture (B, L)."""
        steps = torch.arange(STEPS, device=counts.device) + 0.5
        classes = torch.softmax(self.named(words), -1)  # (B, L, C)
        in_panel, in_all = self.number(words).chunk(2, -1)
        panel_steps = (counts[..., None] > steps).to(classes.dtype) - 0.5
        all_steps = (counts.sum(1)[..., None] > steps).to(classes.dtype) - 0.5
        of_panel = (torch.einsum("bkc,bpcs->bpks", classes, panel_steps) * in_panel[:, None]).sum(-1)
        return of_panel, (torch.einsum("bkc,bcs->bks", classes, all_steps) * in_all).sum(-1)


class PanelHead(nn.Module):
    """Words of the sentence × counts, and parts of it × objects, panel by panel; then the panels together.

    The attributes `heard`, `needed`, `together` and those that begin so are checkpoint keys and keep their names.
    """

    def __init__(self, width: int):
        super().__init__()
        self.attention = nn.Linear(width, FILTERS + 1)
        self.filters = Filters(width)
        self.counts = Counts(width)
        self.heard = nn.Linear(width, COUNT_QUERIES)
        self.needed = nn.Linear(width, JOINT)
        nn.init.constant_(self.needed.bias, -2.0)  # at first few words are needed
        self.gate = nn.Linear(2 * width, JUDGE)
        self.bias = nn.Linear(2 * width, JUDGE)
        self.judge = nn.Linear(COUNT_QUERIES + FILTERS, JUDGE)
        self.verdict = nn.Linear(JUDGE, VERDICTS)
        self.together = nn.Linear(4 * (VERDICTS + JOINT) + COUNT_QUERIES + FILTERS, JUDGE)
        self.together_gate = nn.Linear(2 * width, JUDGE)
        self.together_bias = nn.Linear(2 * width, JUDGE)
        self.linear = nn.Linear(JUDGE, 2)

    def forward(self, hidden: Tensor, batch: Any) -> Tensor:
        """(N, H) -> scores (B, 2)."""
        words, mask = self.pad_words(hidden, batch)
        sequences = len(words)
        weights = torch.softmax(self.attention(words).masked_fill(~mask, -1e4), 1)
        pooled = torch.einsum("blk,blh->bkh", weights, words)
        parts, sentence = pooled[:, :FILTERS], torch.cat([pooled[:, FILTERS], words[:, 0]], 1)
        # A panel's own region comes first among its regions, and is the only one as wide as the panel.
        whole = rows(batch.img_pos_feat, batch.img_row)[:, 4] > 0.9
        panel_index = PANELS * owners(batch.seqlens - batch.txt_lens, hidden.device) + batch.img_type_ids - 1
        features = batch.img_feat.to(words.dtype)
        objects = rows(features[:, :OBJECT_DIM], batch.img_row[~whole])
        counts = rows(features[:, OBJECT_DIM:], batch.img_row[whole]).view(sequences, PANELS, -1)
        counts_in_panel, counts_in_all, joint = self.compare_counts(words, mask, counts)
        objects_in_panel, objects_in_all = self.filters(parts, objects, panel_index[~whole])
        in_panel = torch.cat([objects_in_panel, counts_in_panel], -1)
        in_all = torch.cat([objects_in_all, counts_in_all], -1)
        x = F.gelu(self.judge(in_panel) * (1 + self.gate(sentence))[:, None] + self.bias(sentence)[:, None])
        verdicts = torch.cat([torch.sigmoid(self.verdict(x)), joint], -1)
        mean, best, worst = verdicts.mean(1), verdicts.amax(1), verdicts.amin(1)
        two_of_three = verdicts.sum(1).sub(1.5).mul(4).sigmoid()
        summary = torch.cat([mean, best, worst, two_of_three, in_all], 1)
        x = self.together(summary) * (1 + self.together_gate(sentence)) + self.together_bias(sentence)
        return self.linear(F.gelu(x))

    def compare_counts(self, words: Tensor, mask: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Words (B, L, H), mask (B, L, 1), counts (B, 3, C) -> how the counts fit the words.

        Of panels (B, 3, COUNT_QUERIES), of the picture (B, COUNT_QUERIES); and of panels, how far several words fit at
        once (B, 3, JOINT).
        """
        of_panel, of_all = self.counts(words, counts)
        attention = torch.softmax(self.heard(words).masked_fill(~mask, -1e4), 1)
        need = torch.sigmoid(self.needed(words)) * mask  # of which words a panel must show the number they ask for
        joint = torch.einsum("bpl,blj->bpj", F.logsigmoid(of_panel), need).exp()
        return torch.einsum("bpl,blk->bpk", of_panel, attention), torch.einsum("bl,blk->bk", of_all, attention), joint

    def pad_words(self, hidden: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        """Words (B, L, H), and the mask (B, L, 1) of those that are not padding."""
        lens = batch.txt_lens.to(hidden.device)
        position = torch.arange(int(lens.max()), device=hidden.device)
        mask = position < lens[:, None]
        index = torch.where(mask, (lens.cumsum(0) - lens)[:, None] + position, 0)
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
