"""Connect to a cluster of ray or start one on this machine, and share out its CPUs."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence

from sra_fast.tools.argument_error import ArgumentError
from sra_fast.tools.missing_extra import needed

_HERE = "local"
_CONNECT_SECONDS = 10.0
_GRAIN = 10_000  # ray deals in parts of a CPU no smaller than this fraction


class ClusterError(ArgumentError):
    """Raised when a cluster cannot be reached, or cannot hold the workers."""


def connect(address: str | None) -> bool:
    """Connect this process to a cluster, unless it is connected already.

    Args:
        address: the cluster, as ``ray.init`` takes it; None for that which the environment variable
            RAY_ADDRESS names, or else for one of this machine alone, which is started.

    Returns:
        Whether this call connected it, so that whoever called ends it.

    Raises:
        ClusterError: the cluster cannot be reached.
    """
    with needed("ray", "ray"):
        import ray

    if ray.is_initialized():
        return False
    place = address or os.environ.get("RAY_ADDRESS") or _HERE
    _check_reachable(place)
    # Nothing that this library starts tells others of it.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    here = {"include_dashboard": False} if place == _HERE else {}
    try:
        ray.init(address=place, logging_level="ERROR", log_to_driver=False, **here)
    except (Exception, SystemExit) as error:  # ray ends the process when a cluster does not answer
        raise _unreachable(place, error) from error
    return True


def check_gpus(workers: int) -> None:
    """Check that the cluster has a GPU for each worker.

    Raises:
        ClusterError: there are too few.
    """
    with needed("ray", "ray"):
        import ray

    gpus = int(ray.cluster_resources().get("GPU", 0))
    if gpus < workers:
        raise ClusterError(
            f"the cluster has {gpus} GPUs, and {workers} workers take one each; take fewer "
            "workers, or the device 'cpu'",
            "workers",
            "device",
        )


def node_cpus(*, with_gpu: bool) -> list[float]:
    """Return the number of CPUs of each machine of the cluster.

    Args:
        with_gpu: whether only machines with a GPU count.
    """
    with needed("ray", "ray"):
        import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [node.get("CPU", 0.0) for node in nodes if node.get("GPU") or not with_gpu]


def cpus_of_worker(nodes: Sequence[float], workers: int) -> float:
    """Return how many CPUs each worker takes, such that one CPU of the cluster stays free.

    With all of them taken, whatever else the cluster has to do waits for ever.

    Args:
        nodes: the number of CPUs of each machine.
        workers: the number of workers.

    Returns:
        A whole number, or a fraction below 1 where there are more workers than CPUs to give.
    """
    room = sum(nodes) - 1
    for share in range(int(max(nodes, default=0)), 0, -1):
        places = sum(int(node // share) for node in nodes)
        if share * workers <= room and workers <= places:
            return float(share)
    return int(max(room, 0.5) / workers * _GRAIN) / _GRAIN


def _check_reachable(place: str) -> None:
    """Try the address of a cluster: ray itself waits ten minutes for one that is not there."""
    found = re.fullmatch(r"(?:ray://)?(?P<host>[^:/\s]+|\[[^\]\s]+\]):(?P<port>\d+)", place)
    if found is None:
        if place in (_HERE, "auto"):
            return
        raise ClusterError(
            f"{place!r} is no address of a cluster; give HOST:PORT, ray://HOST:PORT or auto",
            "address",
        )
    try:
        host, port = found["host"].strip("[]"), int(found["port"])
        socket.create_connection((host, port), _CONNECT_SECONDS).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise _unreachable(place, error) from error


def _unreachable(place: str, error: BaseException) -> ClusterError:
    text = " ".join(str(error).split())
    what = "ray could not be started here" if place == _HERE else f"cluster {place!r}: unreachable"
    return ClusterError(f"{what} ({type(error).__name__}: {text})", "address")
