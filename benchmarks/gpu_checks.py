"""What `benchmarks/gpu.py` checks: whether the engine computes on a device what it should."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from gpu_work import ON_GPU, kernel_by_kernel, make_job, start

from fer_pipeline.models.inference import compute_logits, full_float32
from fer_pipeline.params.schema import Params
from fer_pipeline.training.checkpoints import Checkpoints
from fer_pipeline.training.job import Job

CHECKED_STEPS = 8 if ON_GPU else 1
"""Steps of the epochs whose losses are compared."""


@dataclass(frozen=True)
class Check:
    """A figure that must stay below its limit."""

    name: str
    found: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.found <= self.limit


def check_engine(params: Params, name: str) -> list[Check]:
    """Whether the engine computes here what it should."""
    checks = [_check_halving(params, name)] if ON_GPU else []  # first: it needs a free GPU
    images = CHECKED_STEPS * params.backbones[name].finetune.batch_size
    same = {"dropout": 0.0}  # what it draws may depend on how its kernels are launched
    with kernel_by_kernel():
        eager = start(make_job(params, name, images, **same))
        losses = [eager.train(epoch)[0] for epoch in (1, 2)]
        slow = make_job(params, name, images, **same)
        fp32 = start(slow, "fp32").train(1)[0]
    gap = abs(losses[0] / fp32 - 1)
    checks.append(Check("bf16 against fp32: loss of an epoch, relative", gap, 0.05))
    if ON_GPU:
        captured = start(make_job(params, name, images, **same))
        gap = max(abs(captured.train(n)[0] / loss - 1) for n, loss in enumerate(losses, start=1))
        gap = gap if captured.captured else 1.0
        checks.append(Check("captured against eager: loss of an epoch, relative", gap, 1e-3))
    return [*checks, _check_resume(params, name, images), _check_logits(slow)]


def _check_resume(params: Params, name: str, images: int) -> Check:
    """A training taken up from its checkpoint against the same one that just goes on."""
    job = make_job(params, name, images)
    run = start(job)
    run.train(1)
    with TemporaryDirectory(dir=".") as folder:
        checkpoints = Checkpoints(Path(folder), "key")
        checkpoints.save(1, {"model": job.model.state_dict(), "run": run.state_dict()})
        loss = run.train(2)[0]
        found = checkpoints.load()
    assert found is not None
    again = make_job(params, name, images)
    again.model.load_state_dict(found["model"])
    taken_up = start(again)
    taken_up.load_state_dict(found["run"])
    gap = abs(taken_up.train(2)[0] / loss - 1)
    return Check("taken up from a checkpoint: loss of an epoch, relative", gap, 1e-3)


def _check_logits(job: Job) -> Check:
    """Logits in full float32 against the CPU's, in units of the largest."""
    own, pixels = job.params, job.val.pixels[:64]

    def logits(device: torch.device) -> torch.Tensor:
        with full_float32():
            return compute_logits(
                job.model.to(device), pixels.to(device), own.image_size, own.eval_resize, 64
            ).cpu()

    here, on_cpu = logits(job.fabric.device), logits(torch.device("cpu"))
    gap = float((here - on_cpu).abs().max() / on_cpu.abs().max())
    return Check("float32 logits against the CPU's, relative", gap, 1e-4)


def _check_halving(params: Params, name: str) -> Check:
    """Leave a GPU too little memory for a batch; the training has to go on with less at once."""
    own, device = params.backbones[name], torch.device("cuda")
    batch, at_once = own.finetune.batch_size, 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    with kernel_by_kernel():
        start(make_job(params, name, 2 * batch)).train(1)
        needed = torch.cuda.max_memory_reserved()
        torch.cuda.empty_cache()
        whole = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(0.7 * needed / whole)
        try:
            run = start(make_job(params, name, 2 * batch))
            run.train(1)
            at_once = run.micro_batch
        except torch.OutOfMemoryError:
            at_once = batch
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
    return Check("images at once with 70 % of the memory, of a batch", at_once / batch, 0.5)
