"""A stage whose inputs and outs travel by DVC's remote, in a process without Prefect.

    python transfer.py run ORDER CLONE TREE    a worker does what an `Order` says, in a tree
    python transfer.py push STAGE ...          a flow pushes the outs of stages
    python transfer.py take RESULT STAGE       and takes those that a `Result` names

All run under the supervisor. Downloads are compared with their hashes, which DVC by itself does
not do for every kind of remote.
"""

from __future__ import annotations

import atexit
import gc

if __name__ == "__main__":
    gc.disable()  # imports make objects by the hundred thousand, and hardly any garbage
    atexit.register(gc.freeze)  # nor is there any for the interpreter's end to look for

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dvc.config import ConfigError
from dvc.exceptions import ReproductionError
from dvc.fs import generic
from dvc.repo import Repo, lock_repo
from dvc.stage.cache import RunCacheNotFoundError, _can_hash, _get_stage_hash
from dvc.stage.exceptions import StageCmdFailedError
from ruamel.yaml import YAML

from fer_pipeline.errors import FerError, FlowError, TransientFlowError, one_line
from fer_pipeline.events import exit_status
from fer_pipeline.files import whole_file
from fer_pipeline.paths import DVC_LOCK
from flows.graph import hashes
from flows.orders import Order, Result
from flows.process import patience
from flows.trees import prepare_tree

log = logging.getLogger("dvc.transfer")

if TYPE_CHECKING:
    from dvc.stage import Stage


def run(order: Order, clone: Path, tree: Path) -> None:
    """Bring a stage up to date in a tree, and push what came of it.

    Raises:
        FlowError: the tree can't be had, or what the stage depends on is not what the flow has.
        TransientFlowError: the remote does not take or give something now.
        ReproductionError: the stage's command failed, and has said why.
    """
    prepare_tree(clone, tree, order.commit, order.files)
    os.chdir(tree)
    with _repo() as repo:
        stage: Stage = repo.stage.load_one(name=order.stage)
        _require_installed(stage)
        with _remote("what the stage reads can't be had"):
            if outs := _outs_that_it_reads(repo, stage):
                repo.pull(outs, force=True)
        _require_same(stage, order)
        if not order.force:
            _fetch_known(repo, stage)
        try:
            repo.reproduce(order.stage, single_item=True, force=order.force)
        except ReproductionError as error:
            if isinstance(error.__cause__, StageCmdFailedError):
                raise
            raise FlowError(f"{order.stage}: {one_line(error.__cause__ or error)}") from error
        _push_in_the_end(repo, order.stage)


def push(stages: list[str]) -> None:
    """Push the outs of stages.

    Raises:
        TransientFlowError: the remote does not take them now.
    """
    with _repo() as repo, _remote(f"the outs of {', '.join(stages)} can't be pushed"):
        repo.push(stages)


def take(result: Result, name: str) -> None:
    """Record what a worker did in `dvc.lock`, and fetch the outs that this names.

    So nothing can run a second time here, as it could if DVC's run-cache were asked.

    Raises:
        TransientFlowError: the remote does not give them now.
    """
    with _repo() as repo, lock_repo(repo):
        yaml = YAML()
        yaml.width = 4096
        file = Path(DVC_LOCK)
        text = file.read_text(encoding="utf-8") if file.exists() else "schema: '2.0'\n"
        lock: dict[str, Any] = yaml.load(text)
        lock.setdefault("stages", {})[name] = result.entry
        with whole_file(file) as partial:
            yaml.dump(lock, partial)
        with _remote("the outs can't be had"):
            repo.pull(name, force=True)


def _push_in_the_end(repo: Repo, stage: str) -> None:
    """Push, and again if the remote is away: to try the whole order again could run it again.

    Raises:
        FlowError: the remote has been away for longer than is waited for.
    """
    for delay in patience():
        try:
            with _remote(f"the outs of {stage} can't be pushed"):
                repo.push(stage)
                _copy_run_cache(repo, repo.stage.load_one(name=stage), to_remote=True)
            return
        except TransientFlowError as error:
            log.warning("waiting to try again: %s", error)
        time.sleep(delay)
    raise FlowError(
        f"the outs of {stage} lie in {Path.cwd()}, and DVC's remote does not take them: run the "
        f"pipeline again when it does"
    )


@contextmanager
def _repo() -> Iterator[Repo]:
    with Repo() as plain:
        remote = plain.config["core"].get("remote")
    if not remote:
        raise FlowError(
            "this clone has no default DVC remote: 'dvc remote add --default', and commit "
            ".dvc/config"
        )
    with Repo(config={"remote": {remote: {"verify": True}}}, _wait_for_lock=True) as repo:
        yield repo


@contextmanager
def _remote(what: str) -> Iterator[None]:
    """Say that an error of a remote may pass; one of the stage's command, or of ours, goes on."""
    try:
        yield
    except (FerError, ConfigError):
        raise
    except Exception as error:  # of whatever library speaks to this kind of remote
        raise TransientFlowError(f"{what}: {one_line(error)}") from error


def _fetch_known(repo: Repo, stage: Stage) -> None:
    """Bring here what the run-cache on the remote knows of a stage, so that it does not run again.

    `dvc repro --pull` would run it where the outs can't be had for a moment.
    """
    with _remote("the run-cache can't be had"), lock_repo(repo):
        _copy_run_cache(repo, stage, to_remote=False)
        try:
            repo.stage_cache.restore(stage, pull=True)
        except RunCacheNotFoundError:
            if repo.stage_cache._load(stage):
                raise TransientFlowError(
                    f"the remote knows the outs of {stage.addressing}, and does not give them"
                ) from None


def _copy_run_cache(repo: Repo, stage: Stage, *, to_remote: bool) -> None:
    """Copy the entries of one stage with these deps; DVC itself would copy those of all runs."""
    stage.save_deps()
    if not _can_hash(stage):  # without deps, say: it has no entries
        return
    key = _get_stage_hash(stage)
    here = repo.cache.legacy
    remote = repo.cloud.get_remote_odb(None, "run-cache", hash_name="md5-dos2unix")
    source, target = (here, remote) if to_remote else (remote, here)
    folder = source.fs.join(source.path, "runs", key[:2], key)
    for file in source.fs.find(folder) if source.fs.exists(folder) else []:
        copy = target.fs.join(target.path, "runs", key[:2], key, source.fs.name(file))
        if not target.fs.exists(copy):
            generic.copy(source.fs, file, target.fs, copy)


def _outs_that_it_reads(repo: Repo, stage: Stage) -> list[str]:
    """Paths of the other stages' outs that are, hold or lie in one of its deps."""
    deps = [Path(dep.fs_path) for dep in stage.deps]
    outs = [Path(out.fs_path) for other in repo.index.graph.successors(stage) for out in other.outs]
    return [
        str(out)
        for out in outs
        if any(out.is_relative_to(dep) or dep.is_relative_to(out) for dep in deps)
    ]


def _require_installed(stage: Stage) -> None:
    """
    Raises:
        FlowError: a library here is not at the version of the lists that the stage depends on.
    """
    for path in (Path(dep.fs_path) for dep in stage.deps):
        if path.parent.name != "locks" or not path.is_file():
            continue
        wanted: dict[str, set[str]] = {}  # each has a version for some versions of Python
        for name, _, number in (line.partition("==") for line in path.read_text().split()):
            wanted.setdefault(name, set()).add(number)
        for name, numbers in wanted.items():
            if (here := version(name)) not in numbers:
                raise FlowError(
                    f"{name} is {here} on this worker, and the commit wants "
                    f"{' or '.join(sorted(numbers))}: update its clone, and 'make setup' there"
                )


def _require_same(stage: Stage, order: Order) -> None:
    """
    Raises:
        FlowError: a dep has another hash than where the flow runs.
    """
    here = hashes(stage)
    wrong = [path for path, value in order.inputs.items() if here.get(path) != value]
    if wrong:
        raise FlowError(
            f"{', '.join(wrong)} of {order.stage} differ here from where the flow runs, at the "
            f"same commit: look there for files that git does not know, and for line endings"
        )


def _main(verb: str, *rest: str) -> None:
    logging.getLogger("dvc").setLevel(logging.INFO)
    if verb == "push":
        push(list(rest))
        return
    text = Path(rest[0]).read_text(encoding="utf-8")
    if verb == "run":
        run(Order.model_validate_json(text), *map(Path, rest[1:]))
    else:
        take(Result.model_validate_json(text), *rest[1:])


if __name__ == "__main__":
    try:
        sys.exit(exit_status(lambda: _main(*sys.argv[1:])))
    except ReproductionError as error:
        sys.exit(str(error))
