"""Second-stage pre-training on VCR (paper A.2), under the release's script name: `pretrain.py` with the option vcr.

python pretrain_vcr.py --config config/pretrain-vcr-base-4gpu.json
"""

from dataclasses import dataclass

from optim.run import run_training
from pretrain import PretrainConfig, Pretraining
from utils.distributed import launch


@dataclass(kw_only=True)
class VcrPretrainConfig(PretrainConfig):
    """Options of second-stage pre-training on VCR (paper A.2). Datasets are given in the JSON file."""

    vcr: bool = True


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train with the options in `argv` (default: the command line); returns the last scores by name."""
    return run_training(Pretraining, VcrPretrainConfig, argv)


if __name__ == "__main__":
    launch(main)
