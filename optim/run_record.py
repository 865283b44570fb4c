"""What decides the numbers of a run: recorded in its train states, and compared when the run resumes.

A resumed run goes on bit for bit only if it has the same options, batches, data and sizes. What differs is refused, by
name, unless the option `allow_changes` names it. Batches and precision are recorded as what the options come to, stores
by their contents.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Dataset, Draw
from data.sampler import Entry
from model.uniter import UniterConfig
from optim.task import MicroBatches
from utils.config import read_object
from utils.distributed import World
from utils.errors import InputError
from utils.options import field_metadata, is_read
from utils.run_config import RunConfig

BATCH, PRECISION, MODEL, DATA, LENGTH = "global_batch", "precision", "model", "data", "num_train_steps"
ALIASES = {  # options that are compared as what they come to
    **dict.fromkeys(("train_batch_size", "gradient_accumulation_steps", "accumulation"), BATCH),
    "fp16": PRECISION,
    "model_config": MODEL,
    "train_datasets": DATA,
}
OWN = ("data_root", "train_datasets", "val_datasets", "num_threads", "n_workers", "pin_mem")  # each rank its own
SAMPLE = 1000  # ids of a dataset that are compared
SHOWN = 12  # differences that an error shows


def run_record(
    config: RunConfig,
    *,
    micro_batches: MicroBatches,
    ranks: int,
    precision: str,
    model_config: UniterConfig,
    entries: Sequence[Entry],
) -> dict[str, Any]:
    """The record of a run, of plain values. The order of the data counts, because steps draw entries by number."""
    unit = entries[0].dataset.batch_unit if entries else "units"
    data = {entry.name: f"weight {entry.weight:g}, {fingerprint(entry.dataset)}" for entry in entries}
    return {
        "options": {name: value for name, value in _plain(asdict(config)).items() if name in compared_options(config)},
        BATCH: f"{ranks * micro_batches.per_step} micro-batches of {micro_batches.batch_size} {unit} in a step, "
        f"their gradients added and divided by {micro_batches.gradient_divisor(ranks)}",
        PRECISION: precision,
        # The option `dropout` replaces these probabilities.
        MODEL: {k: v for k, v in _plain(asdict(model_config)).items() if not k.endswith("dropout_prob")},
        DATA: data,
    }


def compared_options(config: RunConfig) -> set[str]:
    """The names of the options that decide the numbers of a run by themselves."""
    names = {
        name
        for name, metadata in field_metadata(type(config)).items()
        if name not in config.may_change and not metadata.get("path") and is_read(config, metadata)
    }
    return names if config.decay == "linear" else names - {LENGTH}


def fingerprint(dataset: Dataset) -> str:
    """The number of examples, and a hash of their lengths, by which batches are planned, and of some of their ids."""
    n = len(dataset)
    pairs = dataset.pairs(np.full((n, len(Draw)), 0.999))  # as if all pairs matched, for datasets with negatives
    lengths = dataset.units(pairs).astype(np.int64)  # `lens` may be undefined: only batching "release" calls it
    digest = hashlib.sha256(lengths.tobytes())
    for i in np.linspace(0, n - 1, min(n, SAMPLE)).astype(np.int64).tolist():
        digest.update(f"{dataset.id(i)}\n".encode())
    return f"{n} examples, hash {digest.hexdigest()[:12]}"


def record_of_hps(path: Path) -> dict[str, Any]:
    """What `log/hps.json` says of the run, for train states that have no record; {} where there is none."""
    return {"options": read_object(path)} if path.exists() else {}


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, str]]:
    """(name for `allow_changes`, old and new value) of everything that differs. What only one record has is skipped,
    except data: code of another date may record more or less."""
    before, now = old.get("options", {}), new["options"]
    lines = [(key, f"{before[key]!r} -> {now[key]!r}") for key in now if key in before and before[key] != now[key]]
    lines += [(key, f"{old[key]} -> {new[key]}") for key in (BATCH, PRECISION) if key in old and old[key] != new[key]]
    sizes, sizes_now = old.get(MODEL, {}), new[MODEL]
    changed = [key for key in sizes_now if key in sizes and sizes[key] != sizes_now[key]]
    lines += [(MODEL, f"{key}: {sizes[key]!r} -> {sizes_now[key]!r}") for key in changed]
    if DATA in old:
        data, data_now = old[DATA], new[DATA]
        for name in [*data, *(name for name in data_now if name not in data)]:
            if data.get(name) != data_now.get(name):
                lines.append((DATA, f"{name}: {data.get(name, 'absent')} -> {data_now.get(name, 'absent')}"))
        if data.keys() == data_now.keys() and list(data) != list(data_now):
            lines.append((DATA, f"order {', '.join(data)} -> {', '.join(data_now)}"))
    return lines


def check_differences(
    old: dict[str, Any], new: dict[str, Any], allowed: Sequence[str], file: Path
) -> list[tuple[str, str]]:
    """`InputError` if a run differs from the record in its train state `file` in more than `allowed` names.

    Returns the allowed differences, as `differences` does.
    """
    lines = differences(old, new)
    wanted_names = {ALIASES.get(name, name) for name in allowed}
    refused = [line for line in lines if line[0] not in wanted_names and not _is_longer(line[0], old, new)]
    if refused:
        more = [f"and {len(refused) - SHOWN} more"] if len(refused) > SHOWN else []
        names = " ".join(dict.fromkeys(name for name, _ in lines))
        raise InputError(
            "the run differs from the one to resume",
            file=file,
            key=", ".join(dict.fromkeys(name for name, _ in refused)),
            found="\n            ".join([*(f"{name}: {text}" for name, text in refused[:SHOWN]), *more]),
            expected="what the interrupted run had",
            remedy=f"set it back; or give --allow_changes {names} to go on with the new values, no longer the same run",
        )
    return lines


def _is_longer(name: str, old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether `name` is the number of steps and the run is made longer: a usual wish, of which the log warns."""
    return name == LENGTH and bool(new["options"][LENGTH] > old["options"][LENGTH])


def check_ranks(record: dict[str, Any], config: RunConfig, world: World) -> None:
    """`InputError` on every rank unless all ranks have the same record, and options but for paths and speed."""
    metadata = field_metadata(type(config))
    options = {k: v for k, v in _plain(asdict(config)).items() if k not in OWN and not metadata[k].get("path")}
    records = world.gather_objects(record | {"options": options})
    for rank, other in enumerate(records):
        lines = differences(records[0], other)
        if lines:
            raise InputError(
                "the ranks do not have the same options or data",
                key=", ".join(dict.fromkeys(name for name, _ in lines)),
                found="\n            ".join(f"{name}: {text}" for name, text in lines[:SHOWN]),
                expected=f"the same on all ranks; here rank 0 -> rank {rank}",
                remedy="give the same flags, config and stores to every machine",
            )


def check_names(config: RunConfig) -> None:
    """`InputError` if `allow_changes` has a name that is not compared."""
    known_names = {*field_metadata(type(config)), BATCH, PRECISION, MODEL, DATA}
    unknown = [name for name in config.allow_changes if name not in known_names]
    if unknown:
        raise InputError(
            "unknown name in allow_changes",
            key="allow_changes",
            found=unknown[0],
            expected=f"an option, {BATCH}, {PRECISION}, {MODEL} or {DATA}",
            remedy="use the names that the error about the differences gives",
        )


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """The values as JSON has them: tuples become lists."""
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain
