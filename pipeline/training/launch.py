"""How a training function is started: in this process, as a rank of torchrun, or by Ray Train."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from manifests.errors import EgodojoError, UsageError

from .device import best_device


def launch(fn: Callable[[], Any], num_workers: int = 1, *, use_gpu: bool | None = None) -> Any:
    """Run `fn` where training should happen.

    - Under torchrun (`RANK` and `WORLD_SIZE` set): join the process group, run `fn`, leave it.
    - `num_workers` 1: run `fn` here, without any process group.
    - More: Ray Train starts that many workers on this machine or on the cluster of `RAY_ADDRESS`;
      `fn` must then be picklable, and the run folder must be visible to all of them.

    Args:
        fn: Training function without arguments; in it, `fit` sees the ranks.
        num_workers: Training processes.
        use_gpu: One GPU per worker; null uses them when this machine has one.

    Returns:
        What `fn` returned; None from Ray Train workers.

    Raises:
        UsageError: `num_workers` is below 1.
        EgodojoError: A Ray Train worker failed.
    """
    if num_workers < 1:
        raise UsageError(f"The number of training workers is {num_workers}; it must be at least 1.")
    if use_gpu is None:
        use_gpu = best_device() == "cuda"
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return _as_torchrun_rank(fn, use_gpu=use_gpu)
    if num_workers == 1:
        return fn()
    _on_ray(fn, num_workers, use_gpu=use_gpu)
    return None


def is_lead() -> bool:
    """Whether this process is the one that speaks: alone, or the first that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def _as_torchrun_rank(fn: Callable[[], Any], *, use_gpu: bool) -> Any:
    # Imported once there is a group, as DDP does, its default arguments would keep that group.
    import torch.distributed.nn.functional

    if use_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if use_gpu else "gloo")
    try:
        return fn()
    finally:
        _leave_group(use_gpu=use_gpu)


def _leave_group(*, use_gpu: bool) -> None:
    """Leave the process group, its threads with it.

    A gloo thread that lets go of a tensor while the interpreter ends aborts the process. With its
    last reference the group ends its threads; caches of sharded tensors keep one, so that those
    threads are given the time to let go.
    """
    gc.collect()
    dist.destroy_process_group()
    if not use_gpu:
        time.sleep(0.2)


def _on_ray(fn: Callable[[], Any], num_workers: int, *, use_gpu: bool) -> None:
    import tempfile

    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    started = not ray.is_initialized()
    if started:
        ray.init(include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory(prefix="egodojo-train-") as scratch:
        trainer = TorchTrainer(
            lambda: _on_worker(fn, use_gpu=use_gpu),
            scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=use_gpu),
            run_config=RunConfig(storage_path=scratch),
        )
        try:
            trainer.fit()
        except Exception as error:  # Ray Train wraps whatever the worker raised
            raise EgodojoError(f"Training on {num_workers} workers failed: {error}") from error
        finally:
            if started:
                ray.shutdown()


def _on_worker(fn: Callable[[], Any], *, use_gpu: bool) -> None:
    """Run `fn` on a Ray Train worker; what it returns stays there."""
    if use_gpu:  # workers of one machine see all its GPUs
        from ray.train.torch import get_device

        torch.cuda.set_device(get_device())
    fn()
