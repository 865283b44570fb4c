"""Whole training steps of UNITER-base and -large: speed, share of the matmul peak, memory, kernels, waits."""

import time
import warnings
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from data.batch import PackedBatch
from model.pretrain import UniterForPretraining
from model.uniter import UniterConfig, set_dropout
from optim.precision import Precision
from optim.prefetch import to_device
from optim.update import Updater
from scripts.device_phases.hardware import matmul_peak
from scripts.device_phases.setting import Results, Setting
from scripts.device_phases.transfer import synthetic_batch, with_plan
from utils.config import load_hps
from utils.distributed import World
from utils.formats import IMG_DIM
from utils.paths import CHECKOUT
from utils.run_config import RunConfig

UNITS = 10240  # of a micro-batch, as the release's pre-training on 16 GPUs
WARM_UP = 5  # steps before the clock starts
KERNELS = 20  # the number of kernels to list


class StepTimer:
    """Steps of masked language modelling on batches of changing lengths, through the trainer's own parts."""

    def __init__(self, setting: Setting, size: str, dropout: float):
        """`size`: base or large; a CPU gets the demo's model instead."""
        self.setting, name = setting, f"uniter-{size}" if setting.on_gpu else "demo-model"
        self.sizes = load_hps(str(CHECKOUT / "config" / f"{name}.json"), UniterConfig)[0]
        self.precision = Precision("bf16", False, setting.device)
        self.model: Any = self.precision.cast(UniterForPretraining(self.sizes)).train()
        set_dropout(self.model, dropout)
        config = RunConfig(output_dir="", model_config="", optim="adamw", learning_rate=1e-5)
        world = World(device=setting.device)
        self.updater = Updater(
            self.model, config, precision=self.precision, world=world, entries=["mlm"], head=None, gradient_divisor=1
        )
        units = UNITS if setting.on_gpu else 256
        made = (synthetic_batch(k, units, vocab_size=self.sizes.vocab_size) for k in range(12 if setting.on_gpu else 2))
        self.batches = [batch.pin_memory() if setting.on_gpu else batch for batch in made]

    def steps(self, count: int) -> list[PackedBatch]:
        """Take `count` optimiser steps; returns their batches."""
        batches = with_plan(self.batches[k % len(self.batches)] for k in range(count))
        done = []
        for step, (_, batch) in enumerate(to_device(batches, self.setting.device), 1):
            with self.precision.autocast():
                loss = self.model.mlm(batch)[1].mean()
            self.precision.backward(loss)
            self.updater.step(step, [loss.detach()])
            done.append(batch)
        return done

    def flops(self, batch: PackedBatch) -> float:
        """The multiplications and additions of one step's matrix products: forward, and twice that backward."""
        c, lens = self.sizes, batch.seqlens.double()
        linear = c.num_hidden_layers * (4 * c.hidden_size**2 + 2 * c.hidden_size * c.intermediate_size) * batch.units
        attention = c.num_hidden_layers * 2 * c.hidden_size * float((lens**2).sum())
        image = IMG_DIM * c.hidden_size * len(batch.img_feat)
        head = c.hidden_size * (c.hidden_size + c.vocab_size) * len(batch.targets["mlm_labels"])
        return 3 * 2 * (linear + attention + image + head)


def training_step(setting: Setting, size: str, dropout: float = 0.1) -> Results:
    """Speed, share of the peak, memory, launches, longest kernels and waits of one step's parts together."""
    peak = matmul_peak(setting)
    timer = StepTimer(setting, size, dropout)
    if setting.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    timer.steps(WARM_UP if setting.on_gpu else 1)
    setting.synchronize()
    start = time.perf_counter()
    batches = timer.steps(15 if setting.on_gpu else 1)
    setting.synchronize()
    seconds = time.perf_counter() - start
    units, flops = sum(batch.units for batch in batches), sum(map(timer.flops, batches))
    results: Results = {
        "dropout": dropout,
        "units_per_step": units / len(batches),
        "ms_per_step": 1e3 * seconds / len(batches),
        "units_per_s": units / seconds,
        "matmul_peak_tflops": peak / 1e12,
        "share_of_peak": flops / seconds / peak,
        "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30 if setting.on_gpu else None,
        **_kernels(setting, timer),
        "waits": _waits(timer) if setting.on_gpu else [],
    }
    memory = f", {results['peak_memory_gib']:.1f} GiB" if setting.on_gpu else ""
    results["summary"] = (
        f"{results['units_per_s']:,.0f} units/s, {100 * results['share_of_peak']:.1f}% of the peak{memory}, "
        f"{results['launches']} launches, {len(results['waits'])} waits"
    )
    return results


def _kernels(setting: Setting, timer: StepTimer) -> dict[str, Any]:
    """The longest kernels of one step (on a CPU: operators), with their total time in ms and number of calls."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * setting.on_gpu
    with profile(activities=activities) as profiler:
        timer.steps(1)
        setting.synchronize()
    name = "self_device_time_total" if setting.on_gpu else "self_cpu_time_total"
    rows = [event for event in profiler.key_averages() if event.device_type.name == setting.device.type.upper()]
    rows.sort(key=lambda event: getattr(event, name), reverse=True)
    return {
        "launches": sum(event.count for event in rows),
        "kernels": [[event.key[:100], getattr(event, name) / 1e3, event.count] for event in rows[:KERNELS]],
        "kernel_ms": sum(getattr(event, name) for event in rows) / 1e3,
    }


def _waits(timer: StepTimer) -> list[str]:
    """Where two steps wait for the GPU, by file and line."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            timer.steps(2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sorted({f"{w.filename.rsplit('/', 2)[-1]}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)})


def base(setting: Setting) -> Results:
    """A step of UNITER-base with dropout, as it is trained."""
    return training_step(setting, "base")


def base_without_dropout(setting: Setting) -> Results:
    """A step of UNITER-base without dropout, where attention takes its other kernel."""
    return training_step(setting, "base", dropout=0.0)


def large(setting: Setting) -> Results:
    """A step of UNITER-large with dropout."""
    return training_step(setting, "large")
