"""Rendering samples in processes of a Ray cluster, a chunk of users' samples at a time."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from palate.cluster.connection import DEATHS, connect, work_errors
from palate.config import EngineConfig
from palate.samples.export import Write
from palate.samples.lines import Part, Renderer


def rendered(
    engine: EngineConfig, render: Renderer, write: Write, chunks: Iterable[NDArray[np.int64]]
) -> Iterator[bytes]:
    """`write(render, chunk)` for each chunk, in their order.

    A chunk travels to the process with the timeline rows that its prompts show, and its bytes travel back, so that no
    node needs files of another. Each takes one CPU; `engine.workers` are in work at a time (None: as many as the
    cluster has CPUs). Ray renders a chunk again whose process or node ended. Raises `WorkError` after `DEATHS` ends of
    one chunk.
    """
    ray = connect(engine)
    room = engine.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
    task = ray.remote(_rendered).options(num_cpus=1, max_retries=DEATHS - 1)
    begun: deque[Any] = deque()
    with work_errors(ray, "one chunk of samples"):
        common = ray.put(render.with_part(render.part(np.empty(0, np.int64))))
        for chunk in chunks:
            oldest = begun.popleft() if len(begun) == room else None
            if oldest is not None:
                ray.wait([oldest], fetch_local=False)
            begun.append(task.remote(common, write, render.part(chunk)))
            if oldest is not None:
                yield ray.get(oldest)
        while begun:
            yield ray.get(begun.popleft())


def _rendered(common: Renderer, write: Write, part: Part) -> bytes:
    """In a process of the cluster: write the samples of a part."""
    return write(common.with_part(part), np.arange(part.target.size))
