"""Short runs of the real scripts on the demo's data, loss scaling, and a run that is killed and resumed."""

import math
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.pretrain import UniterForPretraining
from model.uniter import UniterConfig
from optim.precision import Precision
from optim.update import Updater
from scripts import kill_test
from scripts.demo_world import demo_tasks
from scripts.demo_world.runner import DemoRunner
from scripts.device_phases.setting import Results, Setting, require
from scripts.device_phases.transfer import synthetic_batch
from utils.config import load_hps
from utils.distributed import World
from utils.files import read_json, write_json
from utils.paths import CHECKOUT
from utils.run_config import RunConfig

# Script → its config, and the loss that must fall.
TASKS = {
    "pretrain": ("config/demo-pretrain.json", "loss/mlm_demo"),
    "train_vqa": ("config/demo-vqa.json", "loss/vqa"),
    "train_nlvr2": ("config/demo-nlvr2.json", "loss/nlvr2"),
}
FOLLOWS_CPU = 0.002  # the largest relative difference of a loss in fp32 between GPU and CPU
FOLLOWS_FP32 = 0.1  # the same of the last loss between half precision and fp32, with dropout


def demo_data(setting: Setting) -> Results:
    """Make the demo's images, features and stores for pre-training, VQA and NLVR2, at a small size."""
    with open(setting.folder / "demo_data.txt", "w") as log:
        runner = DemoRunner(setting.folder / "demo", ranks=1, log=log)
        runner.make_data(n_pictures={"train": 60, "val": 16, "test": 16})
        demo_tasks.make_image_stores(runner)
        demo_tasks.make_text_stores(runner)
    stores = sorted(path.name for path in (setting.folder / "demo" / "txt_db").iterdir())
    return {"text_stores": stores, "summary": f"{len(stores)} text stores"}


@dataclass(kw_only=True)
class ShortRun:
    """A run of a training script in a process of its own, with dropout unless it is compared with a CPU."""

    script: str
    precision: str
    device: str
    dropout: float = 0.1

    @property
    def name(self) -> str:
        """The name of its folder and of its results."""
        return f"{self.script}_{self.precision}_{self.device}" + ("" if self.dropout else "_no_dropout")

    def start(self, setting: Setting, steps: int) -> subprocess.Popen[bytes]:
        """Start the run; its output goes to a file beside its folder."""
        changes = {
            "num_train_steps": steps,
            "valid_steps": steps,
            "log_steps": max(1, steps // 20),
            "warmup_steps": 5,
            "dropout": self.dropout,
            "precision": self.precision,
            "checkpoint": None,
            "n_workers": 2 if setting.on_gpu else 0,
            "pin_mem": True,
        }
        config = write_config(setting, self.script, setting.folder / "runs" / self.name, **changes)
        # Without a visible GPU a script trains on the CPU.
        environment = os.environ | ({"CUDA_VISIBLE_DEVICES": ""} if self.device == "cpu" else {})
        with open(config.with_suffix(".txt"), "wb") as log:
            command = [sys.executable, f"{self.script}.py", "--config", str(config)]
            return subprocess.Popen(command, cwd=CHECKOUT, env=environment, stdout=log, stderr=log)

    def records(self, setting: Setting) -> list[dict[str, Any]]:
        """The log records of the run."""
        return kill_test.metrics(setting.folder / "runs" / self.name)

    def losses(self, setting: Setting) -> list[float]:
        """The loss of its main task in each log record that has it."""
        key = TASKS[self.script][1]
        return [record[key] for record in self.records(setting) if key in record]


def write_config(setting: Setting, script: str, output: Path, **changes: Any) -> Path:
    """Write the JSON of a run on the demo's data, beside its output folder; returns its path."""
    options = read_json(CHECKOUT / TASKS[script][0]) | changes
    options |= {"data_root": str(setting.folder / "demo"), "output_dir": str(output)}
    options["model_config"] = str(CHECKOUT / options["model_config"])
    path = output.with_name(f"{output.name}.json")
    write_json(path, options)
    return path


def short_runs(setting: Setting) -> Results:
    """Train pre-training, VQA and NLVR2 in every precision, and pre-training in fp32 as a CPU does it."""
    steps, at_once = (100, 8) if setting.on_gpu else (20, 2)
    runs = _runs(setting)
    results: Results = {}
    waiting, problems = list(runs), []
    active: list[tuple[ShortRun, subprocess.Popen[bytes]]] = []
    while waiting or active:
        while waiting and len(active) < at_once:
            run = waiting.pop()
            active.append((run, run.start(setting, steps)))
        run, process = next((pair for pair in active if pair[1].poll() is not None), active[0])
        if process.poll() is None:
            time.sleep(0.05)
            continue
        active.remove((run, process))
        problem = _judge(setting, run, process.returncode, results)
        problems += [f"{run.name}: {problem}"] if problem else []
    problems += _compare(setting, runs, results)
    results["summary"] = f"{len(runs)} runs of {steps} steps, {len(problems)} problems"
    return require(problems, results)


def _runs(setting: Setting) -> list[ShortRun]:
    """Every script in every precision, and pre-training on GPU and CPU; on a CPU alone finetuning in bf16 only."""
    device = setting.device.type
    if not setting.on_gpu:
        pairs = [("pretrain", "fp32"), *((script, "bf16") for script in TASKS)]
        return [ShortRun(script=script, precision=precision, device=device) for script, precision in pairs]
    runs = [ShortRun(script=script, precision=p, device=device) for script in TASKS for p in setting.precisions]
    return runs + [ShortRun(script="pretrain", precision="fp32", device=d, dropout=0.0) for d in ("cpu", device)]


def _judge(setting: Setting, run: ShortRun, status: int, results: Results) -> str | None:
    """What is wrong with a finished run, or None; its losses and skipped steps go to `results`."""
    if status:
        log = (setting.folder / "runs" / f"{run.name}.txt").read_text().strip().splitlines()
        return f"exit status {status}: {' | '.join(log[-6:])}"
    losses = run.losses(setting)
    skipped = max(record.get("skipped_steps", 0) for record in run.records(setting))
    results[run.name] = {"first_loss": losses[0], "last_loss": losses[-1], "skipped_steps": skipped}
    if not all(map(math.isfinite, losses)) or not min(losses[-3:]) < losses[0]:
        return f"the loss went from {losses[0]:.4g} to {losses[-1]:.4g}"
    return f"{skipped} steps were skipped" if skipped > 5 else None


def _compare(setting: Setting, runs: list[ShortRun], results: Results) -> list[str]:
    """Compare the losses of the half precisions with fp32, and those of the GPU with the CPU's; returns problems."""
    problems = []
    last = {name: result["last_loss"] for name, result in results.items()}
    for run in runs:
        reference = last.get(f"{run.script}_fp32_{run.device}")
        if run.name in last and reference and abs(last[run.name] / reference - 1) > FOLLOWS_FP32 and run.dropout:
            problems.append(f"{run.name}: the last loss is {last[run.name]:.4g}, in fp32 {reference:.4g}")
    pair = [run.losses(setting) for run in runs if not run.dropout and run.name in last]
    if len(pair) == 2:
        apart = max(abs(a / b - 1) for a, b in zip(*pair, strict=True))
        results["gpu_to_cpu"] = apart
        if apart > FOLLOWS_CPU:
            problems.append(f"fp32 without dropout: losses of GPU and CPU are up to {apart:.2e} apart")
    return problems


def loss_scaling(setting: Setting) -> Results:
    """Force an overflow: the step is skipped, the weights stay, fp16's scale halves, and training goes on."""
    results: Results = {}
    problems: list[str] = []
    batch = synthetic_batch(0, 400, vocab_size=1000).to(setting.device)
    sizes = load_hps(str(CHECKOUT / "config" / "demo-model.json"), UniterConfig)[0]
    for name in setting.precisions:
        torch.manual_seed(0)
        precision = Precision(name, False, setting.device)
        model: Any = precision.cast(UniterForPretraining(sizes))
        config = RunConfig(output_dir="", model_config="", optim="adamw", learning_rate=1e-3, warmup_steps=0)
        updater = Updater(
            model,
            config,
            precision=precision,
            world=World(device=setting.device),
            entries=["mlm"],
            head=None,
            gradient_divisor=1,
        )
        observed = []
        for step, factor in enumerate((1.0, math.inf, 1.0), 1):
            before = [p.detach().clone() for p in model.parameters()]
            with precision.autocast():
                loss = model.mlm(batch)[1].mean() * factor
            precision.backward(loss)
            updater.step(step, [loss.detach()])
            has_moved = any(not torch.equal(a, b) for a, b in zip(before, model.parameters()))
            is_finite = all(bool(p.isfinite().all()) for p in model.parameters())
            observed.append((has_moved, is_finite, updater.skipped.totals()["mlm"], precision.scaler.get_scale()))
        results[name] = observed
        moved, finite, skipped, scale = zip(*observed)
        halved = scale[1] == scale[0] / 2 if name == "fp16" else True
        if moved != (True, False, True) or not all(finite) or skipped != (0, 1, 1) or not halved:
            problems.append(f"{name}: moved, finite, skipped, scale of three steps: {observed}")
    results["summary"] = f"{', '.join(setting.precisions)}: an overflow is skipped, the next step is taken"
    return require(problems, results)


def kill_and_resume(setting: Setting) -> Results:
    """Pre-train twice, and a third time with a kill in between: all three must end with the same bits."""
    steps = 160 if setting.on_gpu else 12
    changes: dict[str, Any] = {
        "num_train_steps": steps,
        "valid_steps": steps // 8 or 1,
        "log_steps": 1,
        "warmup_steps": 5,
    }
    changes |= {"warmup_steps": 5, "dropout": 0.1, "precision": "bf16" if setting.on_gpu else "fp32"}
    output = {name: setting.folder / "resume" / name for name in ("whole", "again", "killed")}
    config = {name: write_config(setting, "pretrain", path, **changes) for name, path in output.items()}
    workers = 2 if setting.on_gpu else 0
    process = {name: kill_test.start("pretrain.py", config[name], output[name], workers) for name in output}
    alive = kill_test.kill(process["killed"], output["killed"], delay=1.0 if setting.on_gpu else 0.5)
    kill_test.finish("pretrain.py", config["killed"], output["killed"], workers, "--resume")
    for name in ("whole", "again"):
        kill_test.check_end(process[name], "pretrain.py", config[name], output[name])
    again, resumed = (kill_test.compare(output["whole"], output[name]) for name in ("again", "killed"))
    results: Results = {"killed_alive": alive, "again": again or "identical", "resumed": resumed or "identical"}
    results["summary"] = f"a second run: {results['again']}; killed and resumed: {results['resumed']}"
    problems = [f"a second run of the same config differs: {again}"] if again else []
    problems += [f"the resumed run differs: {resumed}"] if resumed else []
    problems += [] if alive else ["the run had ended before it was killed"]
    return require(problems, results)
