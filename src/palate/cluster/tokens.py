"""Writing a token dataset in processes of a Ray cluster, a shard at a time."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from palate.cluster.connection import DEATHS, Place, connect, on_node, work_errors
from palate.config import EngineConfig
from palate.errors import InputError
from palate.progress import Meter
from palate.store.artifacts import atomic_file
from palate.tokens.arrow import partial, shards_of, write_shard
from palate.tokens.dataset import TokenDataset


def write_shards(folder: Path, dataset: TokenDataset, engine: EngineConfig) -> list[str]:
    """Write the shards of a dataset to `folder` with their `partial` names; returns their fingerprints.

    Each takes one CPU; `engine.workers` are written at a time (None: as many as the cluster has CPUs). Ray starts
    a shard again whose process or node ended. Raises `InputError` for a node that does not see the folder or the cache,
    and `WorkError` after `DEATHS` ends of one shard.
    """
    ray = connect(engine)
    folder.mkdir(parents=True, exist_ok=True)
    shards = shards_of(dataset.lengths, dataset.batches())
    write = ray.remote(_written).options(num_cpus=1, max_retries=DEATHS - 1)
    make, arguments = dataset.__reduce__()
    task = Place(), functools.partial(make, *arguments)
    begun: list[Any] = []
    prints = []
    with work_errors(ray, "one shard"), Meter(f"writing {dataset.split}", len(dataset)) as meter:
        for n, batches in enumerate(shards):
            if engine.workers is not None and n >= engine.workers:
                ray.wait(begun, num_returns=n - engine.workers + 1, fetch_local=False)
            begun.append(write.remote(*task, batches, partial(folder, n)))
        for batches, shard in zip(shards, begun, strict=True):
            prints.append(ray.get(shard))
            meter.advance(sum(map(len, batches)))
    written = {partial(folder, n) for n in range(len(shards))}
    for left in set(folder.iterdir()) - written:  # by processes that ended
        left.unlink()
    return prints


def _written(place: Place, opened: Callable[[], TokenDataset], batches: Sequence[range], path: Path) -> str:
    """In a process of the cluster: write the shard of these samples."""
    import ray

    place.enter()
    try:
        path.parent.stat()
        dataset = opened()
    except OSError as error:
        why = f"cannot be read ({error.strerror}), expected a folder that all nodes see"
        raise on_node(ray, InputError(why, error.filename)) from None
    with atomic_file(path) as file:
        ragged = map(dataset.ragged, batches)
        return write_shard(file, ((ids, labels, np.diff(o).astype(np.int32)) for ids, labels, o in ragged))
