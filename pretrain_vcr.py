"""VCR's second stage under the release's name: `pretrain.py` where every dataset is VCR's.

python pretrain_vcr.py --config config/pretrain-vcr-base-4gpu.json
"""

from dataclasses import dataclass

from optim.run import run_training
from pretrain import PretrainConfig, Pretraining
from utils.distributed import launch


@dataclass(kw_only=True)
class VcrPretrainConfig(PretrainConfig):
    """Options of pre-training; every dataset is VCR's."""

    vcr: bool = True


def main(argv: list[str] | None = None) -> dict[str, float]:
    return run_training(Pretraining, VcrPretrainConfig, argv)


if __name__ == "__main__":
    launch(main)
