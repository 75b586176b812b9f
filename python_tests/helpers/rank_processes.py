"""Ranks of a run as forks of the test's process, connected as torchrun would connect them."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

SECONDS = 120.0
DIED = "died"


def on_ranks(count: int, work: Callable[[int], Any], folder: Path) -> list[Any]:
    """What `work` gives or raises in each of `count` ranks, by their number; `DIED` where one ends without.

    `folder` is where they meet: one that nothing met in before.
    """
    context = multiprocessing.get_context("fork")
    pipes, processes = [], []
    for rank in range(count):
        ours, theirs = context.Pipe(duplex=False)
        processes.append(
            context.Process(target=_serve, args=(rank, count, work, folder, theirs), daemon=True)
        )
        processes[-1].start()
        theirs.close()
        pipes.append(ours)
    results = []
    try:
        for pipe in pipes:
            assert pipe.poll(SECONDS), "a rank never came to an end"
            try:
                results.append(pickle.loads(pipe.recv_bytes()))
            except (EOFError, ConnectionResetError):
                results.append(DIED)
    finally:
        for process in processes:
            process.kill()
            process.join()
    return results


def _serve(rank: int, count: int, work: Callable[[int], Any], folder: Path, pipe: Any) -> None:
    torch.set_num_threads(1)  # the pool of threads did not come along
    signal.signal(signal.SIGINT, signal.default_int_handler)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=count)
    try:
        result = work(rank)
    except BaseException as error:
        result = error
    pipe.send_bytes(pickle.dumps(result))  # whole: by itself it would send where to fetch the tensors
    os._exit(0)
