"""Which pod holds which device, by the kubelet's pod resources socket (gRPC).

The socket is for root alone; in a pod it is mounted from the host. gRPC is loaded only where the socket is there.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from collector.sources.base import SourceUnavailable
from collector.sources.job_files import Job

SOCKET = "var/lib/kubelet/pod-resources/kubelet.sock"
_METHOD = "/v1.PodResourcesLister/List"
_DEADLINE_SECONDS = 5.0

# Resources that are accelerators, by how their names end: nvidia.com/gpu, nvidia.com/mig-1g.10gb, amd.com/gpu,
# huawei.com/Ascend910, cambricon.com/mlu, iluvatar.ai/gpu, metax-tech.com/gpu, gpu.intel.com/xe, hygon.com/dcu.
_ACCELERATORS = ("gpu", "ascend", "mlu", "dcu", "xpu", "npu", "mig-", "i915", "/xe")


def is_accelerator(resource: str) -> bool:
    """Return whether a device plugin's resource is an accelerator.

    >>> is_accelerator("nvidia.com/gpu"), is_accelerator("rdma/hca_shared_devices_a")
    (True, False)
    """
    vendor, _, kind = resource.lower().partition("/")
    return vendor != "rdma" and any(word in f"/{kind}" for word in _ACCELERATORS)


def jobs_of(response: Any) -> list[Job]:
    """Return the pods of a List response that hold accelerators."""
    jobs: list[Job] = []
    for pod in response.pod_resources:
        devices = [
            device
            for container in pod.containers
            for held in container.devices
            if is_accelerator(held.resource_name)
            for device in held.device_ids
        ]
        if devices:
            # A shared device has a suffix for each of its users: GPU-...::3.
            held_by = tuple(dict.fromkeys(device.partition("::")[0] for device in devices))
            jobs.append(Job("kubernetes", f"{pod.namespace}/{pod.name}", account=pod.namespace, devices=held_by))
    return jobs


class PodResources:
    """A channel to the kubelet, kept open."""

    def __init__(self, root: Path) -> None:
        self._path = root / SOCKET
        self._channel: Any = None
        self._list: Callable[..., Any] | None = None

    def is_there(self) -> bool:
        """Return whether this node has a kubelet."""
        return self._path.exists()

    def read(self) -> list[Job]:
        """Ask which pods hold accelerators; raises SourceUnavailable."""
        try:
            # 20 MB that only Kubernetes' nodes need; generated messages have no types to check.
            grpc: Any = importlib.import_module("grpc")
            messages: Any = importlib.import_module("collector.sources.podresources.podresources_pb2")
        except ImportError:
            raise SourceUnavailable("kubelet: gRPC is not installed: pip install 'tokenstone[kubernetes]'") from None
        if self._list is None:
            self._channel = grpc.insecure_channel(f"unix://{self._path.absolute()}")
            self._list = self._channel.unary_unary(
                _METHOD,
                request_serializer=messages.ListPodResourcesRequest.SerializeToString,
                response_deserializer=messages.ListPodResourcesResponse.FromString,
            )
        try:
            return jobs_of(self._list(messages.ListPodResourcesRequest(), timeout=_DEADLINE_SECONDS))
        except grpc.RpcError as error:
            self.close()
            raise SourceUnavailable(f"kubelet: {error.code().name.lower().replace('_', ' ')}") from None

    def close(self) -> None:
        """Close the channel."""
        if self._channel is not None:
            self._channel.close()
        self._channel = self._list = None
