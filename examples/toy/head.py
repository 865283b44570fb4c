"""The model of the toy task (E examples, one sequence each; V tokens in the vocabulary)."""

from torch import Tensor, nn

from data.batch import PackedBatch
from model.layers import full, init_weights, rows, transform
from model.uniter import UniterConfig, UniterModel


class UniterForLastWord(nn.Module):
    """UNITER and a classifier over the vocabulary, on the state of [MASK]."""

    def __init__(self, config: UniterConfig, img_dim: int):
        super().__init__()
        self.uniter = UniterModel(config, img_dim)
        self.toy_output = transform(config.hidden_size, config.hidden_size, config.vocab_size)
        self.toy_output.apply(lambda module: init_weights(module, config.initializer_range))

    def forward(self, batch: PackedBatch) -> Tensor:
        """Scores (E, V), in fp32 at least."""
        return full(self.toy_output(rows(self.uniter(batch), batch.targets["mask_index"])))
