"""The workers of a run: in this process, on Ray here, or on a cluster; how many, on what, and what to tell of it."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from search.cli.options import Options
from search.cli.output import tell
from search.errors import SettingsError
from search.run import Executor
from search.settings import SearchSettings

if TYPE_CHECKING:
    from workers.datasets import Dataset
    from workers.executors import WorkerPlan


def require_cores(options: Options) -> None:
    """Raise SettingsError for so many workers of this machine that they would hinder each other rather than train."""
    from workers.executors import MOST_WORKERS_A_CORE, cores

    most = MOST_WORKERS_A_CORE * cores()
    if options.ray_address is None and (options.workers or 0) > most:
        raise SettingsError(
            f"--workers {options.workers}: the most is {most}, for this machine has {_cores_here()}; leave it out for "
            "as many as are of use"
        )


def trainers_of(options: Options, settings: SearchSettings) -> int | str:
    """How many workers will train at once as fast as one does here alone; or why that cannot be told without Ray.

    Raises SettingsError as the run would, where there are fewer.
    """
    from workers.executors import cores, plan

    if options.workers == 0:
        return 1
    if options.ray_address is not None:
        if options.workers is None or settings.device != "cpu":
            return "--workers and --device say how many of the cluster's, and what they train on"
        return options.workers
    import torch

    available = {"CPU": float(options.workers or cores()), "GPU": float(torch.cuda.device_count())}
    planned = plan(available, settings.device or None, options.workers, options.gpus_per_worker)
    assert planned.workers is not None  # of this machine
    if 0 < planned.gpus_per_worker < 1:
        return "workers that share a GPU slow each other down"
    _tell_of_sharing(planned.workers)
    return min(planned.workers, cores())


def start_workers(
    options: Options, dataset: "Dataset", test: "Dataset | None", settings: SearchSettings, stack: ExitStack
) -> "tuple[Executor, SearchSettings]":
    """The executor, and the settings with the device that it trains on. Raises SettingsError, Stopped."""
    from workers.deferred import DeferredTrainer

    def trainer(device: str) -> DeferredTrainer:
        made = settings.space.rules, settings.recipe, settings.seed, device
        return DeferredTrainer(dataset, *made, test, settings.training_version)

    executor: Executor
    wanted = wants_gpu(options, settings)
    here = options.ray_address is None or options.workers == 0
    if wanted and here and not sees_gpu():
        raise SettingsError(f"{wanted}: {no_gpu()}; train with --device cpu, or give --ray-address")
    if options.workers == 0:
        from workers.executors import InProcessExecutor

        device = settings.device or ("cuda" if sees_gpu() else "cpu")
        executor = InProcessExecutor(trainer(device))
    else:
        from workers.executors import GROWTH_TIMEOUT_S, START_TIMEOUT_S, plan
        from workers.ray_cluster import connect, disconnect, resources
        from workers.ray_executor import RayExecutor

        is_ours = options.ray_address is None
        if is_ours and not wanted:  # what GPUs do is not shared out among cores
            _tell_of_sharing(options.workers or 0)
        tell("starting Ray" if is_ours else f"joining {options.ray_address}")
        connect(options.ray_address, options.workers)
        stack.callback(disconnect)
        timeout_s = options.worker_timeout or (START_TIMEOUT_S if is_ours else GROWTH_TIMEOUT_S)
        available = resources() if is_ours or wanted or settings.device else _something(timeout_s)
        asked = settings.device or None, options.workers, options.gpus_per_worker
        workers = plan(available, *asked, may_grow=not is_ours)
        device = workers.device
        if not is_ours and not settings.device:
            tell(f"the search trains on {'GPUs' if device == 'cuda' else 'CPUs'}, as this cluster has now")
        if device == "cuda" and not available.get("GPU"):
            tell("no node of the Ray cluster has a GPU yet: waiting for one; --device cpu trains on CPU cores")
        executor = RayExecutor(trainer(device), workers, timeout_s)
        _tell_of_missing(executor.workers, workers)
    stack.callback(executor.close)
    return executor, replace(settings, device=device)


def _something(timeout_s: float) -> dict[str, float]:
    """What a cluster has, once it has a core: so that it is not settled on a CPU before its GPUs are there."""
    from workers.ray_cluster import has_cores, resources, wait_for_cores

    available = resources()
    if has_cores(available):
        return available
    tell("the Ray cluster has no CPU core yet, so what this search trains on is open until it has; --device settles it")
    return wait_for_cores(timeout_s)


def _tell_of_missing(there: int, workers: "WorkerPlan") -> None:
    """Say at once that workers wait for a place, which may take long."""
    if workers.workers and there < workers.workers:
        tell(f"the Ray cluster has room for {there} of {workers.workers} workers; the others start when nodes join")


def _tell_of_sharing(workers: int) -> None:
    """Say that more workers of this machine than it has cores are of no use."""
    from workers.executors import cores

    if workers > cores():
        tell(f"{workers} workers share {_cores_here()}: they train no faster than {cores()}")


def _cores_here() -> str:
    """How many cores this process may use, in words."""
    from workers.executors import cores

    return f"{cores()} core{'s' if cores() > 1 else ''}"


def wants_gpu(options: Options, settings: SearchSettings) -> str | None:
    """The option that says so, if training needs a GPU."""
    if options.gpus_per_worker is not None:
        return f"--gpus-per-worker {options.gpus_per_worker:g}"
    return "--device cuda" if settings.device == "cuda" else None


def sees_gpu() -> bool:
    """Whether torch, which takes a second or two to import, sees a GPU in this process."""
    import torch

    return torch.cuda.is_available()


def no_gpu() -> str:
    """Why training on GPUs is refused here: the machine has none for torch, or torch was built without."""
    import torch

    is_built = torch.backends.cuda.is_built()  # type: ignore[no-untyped-call]
    return f"torch sees no GPU here{'' if is_built else f' ({torch.__version__} is built for CPUs)'}"


@contextmanager
def quiet_stdout() -> Iterator[None]:
    """Ray prints of lost workers on stdout; they are in the database, and stdout is for data."""
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        yield
