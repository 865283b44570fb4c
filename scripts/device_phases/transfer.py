"""Batches on their way to the device, and sums over ranks."""

import os
from collections.abc import Generator, Iterable

import numpy as np
import torch
import torch.distributed as dist

from data.batch import Example, Image, PackedBatch, Seq, collate
from data.rng import generator
from data.sampler import BatchPlan
from optim.prefetch import to_device
from scripts.device_phases.setting import Results, Setting, require
from utils.distributed import World


def synthetic_batch(seed: int, units: int, *, vocab_size: int = 28996, masked: float = 0.15) -> PackedBatch:
    """A batch for masked language modelling of about `units` units, with the lengths of COCO captions and regions."""
    rng = generator(seed, "device check")
    examples: list[Example] = []
    while units > 0:
        n_words, n_regions = int(rng.integers(8, 20)), int(rng.integers(20, 54))
        features = rng.standard_normal((n_regions, 2048), dtype=np.float32).astype(np.float16)
        image = Image(key=len(examples), feat=features, pos=rng.random((n_regions, 7), dtype=np.float32))
        index = 1 + rng.permutation(n_words - 2)[: max(1, round(masked * n_words))]
        targets = rng.integers(1, vocab_size, len(index))
        ids = rng.integers(1, vocab_size, n_words)
        seq = Seq(
            input_ids=ids, images=[image], targets={"mlm_labels": targets}, unit_targets={"mlm_index": np.sort(index)}
        )
        examples.append(Example(str(len(examples)), [seq]))
        units -= n_words + n_regions
    return collate("mlm", examples, 2048)


def with_plan(batches: Iterable[PackedBatch]) -> Generator[tuple[BatchPlan, PackedBatch]]:
    """The batches as `to_device` takes them: with a plan, which it hands on without reading it."""
    plan = BatchPlan.__new__(BatchPlan)
    for batch in batches:
        yield plan, batch


def prefetch(setting: Setting) -> Results:
    """Copy batches while the device computes and reuses memory; every batch must arrive as it was sent."""
    count, largest = (120, 6000) if setting.on_gpu else (4, 300)
    sizes = generator(0, "sizes").integers(100, largest, count).tolist()
    host = [synthetic_batch(k, size) for k, size in enumerate(sizes[: count // 4])]
    sent = (host[k % len(host)] for k in range(count))
    batches = (batch.pin_memory() if setting.on_gpu and k % 2 else batch for k, batch in enumerate(sent))
    problems: list[str] = []
    work = torch.randn(2048, 2048, device=setting.device)
    for k, (_, batch) in enumerate(to_device(with_plan(batches), setting.device)):
        for _ in range(8 if setting.on_gpu else 1):
            work = torch.tanh(work @ work * 0.01)  # the device is busy, so the copy of the next batch overlaps
        scratch = batch.img_feat.float() * 2  # memory that is freed at once, to be used again by the next copy
        expected = host[k % len(host)]
        pairs = zip(batch.tensors(), expected.tensors(), strict=True)
        if not all(torch.equal(a.cpu(), b) for a, b in pairs) or not torch.equal(
            scratch.cpu(), expected.img_feat.float() * 2
        ):
            problems.append(f"batch {k} arrived changed")
        del batch, scratch
    return require(problems[:3], {"batches": count, "summary": f"{count} batches arrived as they were sent"})


def sums_over_ranks(setting: Setting) -> Results:
    """Join a process group of one rank, NCCL on a GPU, and go through everything that ranks exchange."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    backend = "cpu:gloo,cuda:nccl" if setting.on_gpu else "gloo"
    dist.init_process_group(backend, rank=0, world_size=1)
    world = World(rank=0, size=2, device=setting.device)  # a size above 1, so that nothing is left out
    parameters = [torch.zeros(n, 3, device=setting.device, requires_grad=True) for n in (5, 400_000, 7, 3_000_000)]
    for k, parameter in enumerate(parameters):
        parameter.grad = torch.full_like(parameter, float(k + 1))
    idle = torch.zeros(4, device=setting.device, requires_grad=True)
    world.average_gradients([*parameters, idle], 2.0)
    problems = [] if idle.grad is None else ["a parameter without a gradient has one now"]
    for k, parameter in enumerate(parameters):
        if parameter.grad is None or not bool((parameter.grad == (k + 1) / 2).all()):
            problems.append(f"the gradient of parameter {k} is wrong")
    total = world.sum_(torch.arange(4.0, device=setting.device))
    if total.tolist() != [0.0, 1.0, 2.0, 3.0] or world.gather_objects({"a": 1})[0] != {"a": 1}:
        problems.append("a sum or an object came back changed")
    if world.broadcast_object([1, "b"]) != [1, "b"]:
        problems.append("a broadcast object came back changed")
    world.barrier()
    dist.destroy_process_group()
    return require(problems, {"backend": backend, "summary": f"{backend}, one rank: gradients, sums, objects, barrier"})
