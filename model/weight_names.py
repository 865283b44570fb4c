"""Names of weights: from the names in a checkpoint to ours, and the part of the model that a name belongs to."""

import re
from collections.abc import Iterable, Mapping
from itertools import groupby

from torch import Tensor

from utils.errors import InputError

# Prefixes that wrappers of a model put before its names: DataParallel and DDP, a model in a model, torch.compile.
OUTER_PREFIXES = ("module.", "model.", "_orig_mod.")
BODY = ("embeddings.", "encoder.", "pooler.", "img_embeddings.")  # the parts of BERT and UNITER where they stand alone
BUFFERS = ("position_ids", "token_type_ids")  # constants that some versions of BERT save among the weights
LAYER = re.compile(r"uniter\.encoder\.layer\.(\d+)\.")


def our_names(state: Mapping[str, Tensor], model_names: Iterable[str], source: object) -> dict[str, Tensor]:
    """`state` under our names; `InputError` when two of its names become the same.

    `model_names`: the names of the model's weights, which stay as they are. `source`: where `state` is from.
    """
    renamed: dict[str, Tensor] = {}
    old_names: dict[str, str] = {}
    names = set(model_names)
    for key, value in state.items():
        name = key if key in names else our_name(key)
        if name.endswith(BUFFERS) and name not in names:
            continue
        if name in renamed:
            raise InputError(
                "two weights of the checkpoint have the same name in the model",
                file=source,
                key=name,
                found=f"{old_names[name]} and {key}",
                expected="one of them",
                remedy="save the weights of one model alone",
            )
        renamed[name], old_names[name] = value, key
    return renamed


def our_name(key: str) -> str:
    """Our name of a weight of UNITER or BERT: no prefixes of wrappers, `uniter.` instead of `bert.` or of nothing.

    BERT's norms have `gamma` and `beta` in old files, `weight` and `bias` here.
    """
    while key.startswith(OUTER_PREFIXES):
        key = key.split(".", 1)[1]
    if key.startswith("bert."):
        key = "uniter." + key.removeprefix("bert.")
    elif key.startswith(BODY):
        key = "uniter." + key
    for old, new in (("gamma", "weight"), ("beta", "bias")):
        if key.endswith(f"LayerNorm.{old}"):
            key = key.removesuffix(old) + new
    return key


def part_of(key: str) -> str:
    """The part of the model that a weight belongs to: `vqa_output`; inside of UNITER `uniter.encoder`."""
    first, *rest = key.split(".")
    return f"{first}.{rest[0]}" if first == "uniter" and rest else first


def layers(keys: Iterable[str]) -> str:
    """The layers of the encoder among these names, in words: "6 layers (0-5)"."""
    numbers = sorted({int(match[1]) for match in map(LAYER.match, keys) if match})
    runs = [[number for _, number in run] for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    text = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    return f"{len(numbers)} layer{'s' * (len(numbers) != 1)}" + (f" ({text})" if numbers else "")


def some(keys: list[str]) -> str:
    """How many names there are, and the first of them."""
    return f"{len(keys)} weight{'s' * (len(keys) != 1)}: " + ", ".join(keys[:4]) + (", …" if len(keys) > 4 else "")
