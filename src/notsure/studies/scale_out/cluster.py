"""Ray: a cluster that is there, or one on this machine; what its nodes are and have."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from notsure.core.errors import ClusterError, ConfigurationError
from notsure.studies.learning import DEVICE
from notsure.studies.results import versions
from notsure.studies.scale_out.worker import Look, execute, forget, look

LOCAL = "local"
"""What stands for a cluster on this machine, which is started for the run."""

RETRIES = 5
"""How often a step is sent once more after the worker that had it died."""

LOOKS = 60.0
"""Seconds in which every node has to answer."""

_STORE = 512 << 20
"""Bytes of a local cluster's object store: little passes through it."""


def require_ray() -> Any:
    """The module.

    Raises:
        ConfigurationError: it is not installed.
    """
    # nothing is told to anybody about what runs here
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise ConfigurationError(
            "Ray is not installed: pip install 'notsure[ray]', or run without --ray."
        ) from error
    return ray


@contextmanager
def connected(address: str | None) -> Iterator[Cluster]:
    """A cluster inside; one that was started for it is stopped afterwards.

    Args:
        address: "auto" or HOST:PORT of one that is there; None for one on this machine, or for
            the one that this process is connected to already.

    Raises:
        ConfigurationError: Ray is not installed.
        ClusterError: there is no cluster at the address.
    """
    ray = require_ray()
    if ray.is_initialized():
        yield Cluster(ray, local=False)
        return
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address is None:
            ray.init(address="local", include_dashboard=False, object_store_memory=_STORE, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ClusterError(
            f"There is no Ray cluster at {address or 'this machine'!r} ({_line(error)}): start one "
            "by `ray start --head`, or leave the address out for one on this machine."
        ) from error
    try:
        yield Cluster(ray, local=address is None)
    finally:
        ray.shutdown()


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is connected to.

    Attributes:
        ray: the module.
        local: whether it is this machine alone.
    """

    ray: Any
    local: bool

    def places(self, threads: int) -> int:
        """How many steps fit at a time; at least 1."""
        found = self.ray.cluster_resources()
        if self.uses_gpus():
            return max(1, int(found["GPU"]))
        return max(1, int(found.get("CPU", 0)) // threads)

    def uses_gpus(self) -> bool:
        """Whether steps ask for a GPU: where there is any, unless NOTSURE_DEVICE says "cpu"."""
        if os.environ.get(DEVICE, "").startswith("cpu"):
            return False
        return int(self.ray.cluster_resources().get("GPU", 0)) >= 1

    def submit(self, name: str, threads: int, *arguments: Any) -> Any:
        """Sends an order, see `execute`; gives the reference of its reply.

        Args:
            name: what the cluster's pages call it.
            threads: processors that it takes.
            arguments: of `execute`.

        Returns:
            The reference.
        """
        function = self.ray.remote(execute).options(
            name=name,
            num_cpus=threads,
            num_gpus=1 if self.uses_gpus() else 0,
            max_retries=RETRIES,
            # work is spread over the nodes, not packed onto the first
            scheduling_strategy="SPREAD",
        )
        return function.remote(*arguments)

    def require_place(self, threads: int) -> None:
        """Raises ClusterError where no node has so many processors as a step asks for.

        Args:
            threads: of a step.

        Raises:
            ClusterError: the message has both numbers.
        """
        most = max((node["Resources"].get("CPU", 0) for node in self._nodes()), default=0)
        if most < threads:
            raise ClusterError(
                f"A step is to have {threads} processors, and the largest node of the cluster has "
                f"{most:.0f}: ask for fewer."
            )

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self.ray.nodes() if node["Alive"]]

    def check(self, root: str, mark: str) -> bool:
        """Asks every node that can work for its versions; tells whether all see the store.

        Args:
            root: the folder of the store.
            mark: a file in it that every node has to see.

        Returns:
            Whether all see it.

        Raises:
            ClusterError: a node has other versions, or does not answer.
        """
        if self.local:
            return True
        ours, found = versions(), self._on_every_node(look, root, mark)
        for one in found:
            apart = [name for name in ours if one.versions.get(name) != ours[name]]
            if apart:
                raise ClusterError(
                    f"A node of the cluster has {apart[0]} {one.versions.get(apart[0])}, and here "
                    f"it is {ours[apart[0]]}: install the same versions everywhere, or results "
                    "would differ by where they were made."
                )
        return all(one.sees for one in found)

    def forget(self, mark: str) -> None:
        """Has every node remove what the run brought there."""
        self._on_every_node(forget, mark)

    def _on_every_node(self, function: Any, *arguments: Any) -> list[Any]:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = [node["NodeID"] for node in self._nodes() if node["Resources"].get("CPU", 0) >= 1]
        remote = self.ray.remote(function)
        asked = [
            remote.options(
                num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
            ).remote(*arguments)
            for node in nodes
        ]
        try:
            found: list[Any] = self.ray.get(asked, timeout=LOOKS)
        except self.ray.exceptions.RayError as error:
            raise ClusterError(
                f"A node of the cluster cannot do anything for notsure ({_line(error)}): is it "
                "installed there?"
            ) from error
        return found


__all__ = ["RETRIES", "Cluster", "Look", "connected", "require_ray"]
