"""The metric registry: every metric that Tokenstone measures, named once.

Names follow Prometheus' rules (base units, `_total` for counters, `_ratio` for 0..1) and are neutral to the
vendor. `docs/metrics.md`, the agent's `/metrics`, the service's checks and the dashboards derive from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tokenstone.errors import UnknownName


class Kind(StrEnum):
    """How a metric moves: a gauge goes up and down, a counter only up (until it is reset)."""

    GAUGE = "gauge"
    COUNTER = "counter"


class Resource(StrEnum):
    """The part of a cluster that somebody pays for."""

    ACCELERATOR = "accelerator"
    ACCELERATOR_MEMORY = "accelerator_memory"
    ACCELERATOR_LINK = "accelerator_link"
    NETWORK = "network"
    STORAGE = "storage"
    HOST_CPU = "host_cpu"
    HOST_MEMORY = "host_memory"
    POWER = "power"
    AGENT = "agent"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `unit` is a base unit; `labels` are the label names beside node and device."""

    name: str
    kind: Kind
    unit: str
    resource: Resource
    help: str
    labels: tuple[str, ...] = ()


G, C, R = Kind.GAUGE, Kind.COUNTER, Resource

REGISTRY: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        # Accelerators, whoever made them. "Busy" is what vendors call utilization: a kernel was resident.
        Metric("accel_info", G, "ratio", R.ACCELERATOR,
               "Always 1; the labels are what the driver calls the device.", ("vendor", "model", "index")),
        Metric("accel_busy_ratio", G, "ratio", R.ACCELERATOR,
               "Share of time in which at least one kernel was resident. Not a measure of efficiency."),
        Metric("accel_sm_active_ratio", G, "ratio", R.ACCELERATOR,
               "Share of cycles in which a compute unit had work, mean over the compute units."),
        Metric("accel_sm_occupancy_ratio", G, "ratio", R.ACCELERATOR,
               "Resident warps or waves against the most that fit."),
        Metric("accel_tensor_active_ratio", G, "ratio", R.ACCELERATOR,
               "Share of cycles in which the matrix units were active, whatever the data type."),
        Metric("accel_memory_bandwidth_ratio", G, "ratio", R.ACCELERATOR_MEMORY,
               "Device memory traffic against the peak bandwidth."),
        Metric("accel_memory_used_bytes", G, "bytes", R.ACCELERATOR_MEMORY, "Device memory in use."),
        Metric("accel_memory_total_bytes", G, "bytes", R.ACCELERATOR_MEMORY, "Device memory there is."),
        Metric("accel_link_bytes_total", C, "bytes", R.ACCELERATOR_LINK,
               "Bytes over a device's links, one direction, all links of a kind together.", ("link", "direction")),
        Metric("accel_link_bytes_per_second", G, "bytes/second", R.ACCELERATOR_LINK,
               "Rate over a device's links as the driver reports it, one direction.", ("link", "direction")),
        Metric("accel_power_watts", G, "watts", R.POWER, "Power drawn by the device, as the driver averages it."),
        Metric("accel_power_instant_watts", G, "watts", R.POWER, "Power drawn by the device at this moment."),
        Metric("accel_power_limit_watts", G, "watts", R.POWER, "Power limit in force on the device."),
        Metric("accel_energy_joules_total", C, "joules", R.POWER, "Energy used by the device since the driver loaded."),
        Metric("accel_temperature_celsius", G, "celsius", R.ACCELERATOR, "Temperature of the device."),
        Metric("accel_memory_temperature_celsius", G, "celsius", R.ACCELERATOR_MEMORY, "Temperature of the device's memory."),
        Metric("accel_clock_hertz", G, "hertz", R.ACCELERATOR, "Present clock.", ("domain",)),
        Metric("accel_throttled_ratio", G, "ratio", R.ACCELERATOR,
               "1 while a clock limit with this reason is in force, else 0.", ("reason",)),
        Metric("accel_throttled_seconds_total", C, "seconds", R.ACCELERATOR,
               "Time in which a clock limit with this reason was in force.", ("reason",)),
        Metric("accel_errors_total", C, "errors", R.ACCELERATOR, "Errors reported by the device.", ("type",)),
        Metric("accel_xid_errors_total", C, "errors", R.ACCELERATOR,
               "NVIDIA's XID events since the agent started, by number.", ("xid",)),
        Metric("accel_xid_last_timestamp_seconds", G, "seconds", R.ACCELERATOR,
               "When the XID was last seen, seconds since 1970.", ("xid",)),
        Metric("accel_remapped_rows_total", C, "rows", R.ACCELERATOR_MEMORY,
               "Rows of memory replaced by spare ones, by the kind of error that was the cause.", ("cause",)),
        Metric("accel_remap_pending_ratio", G, "ratio", R.ACCELERATOR_MEMORY,
               "1 while a row is to be replaced at the next reset, else 0."),
        Metric("accel_remap_failed_ratio", G, "ratio", R.ACCELERATOR_MEMORY,
               "1 if a row could not be replaced, else 0."),
        Metric("accel_recovery_action_ratio", G, "ratio", R.ACCELERATOR,
               "1 for the action that the driver asks for to recover the device, else 0.", ("action",)),
        Metric("accel_processes", G, "processes", R.ACCELERATOR, "Processes that compute on the device."),
        Metric("accel_process_memory_bytes", G, "bytes", R.ACCELERATOR_MEMORY,
               "Device memory that a process holds.", ("pid",)),
        Metric("accel_healthy_ratio", G, "ratio", R.ACCELERATOR, "1 while the driver calls the device healthy, else 0."),
        Metric("accel_allocated_ratio", G, "ratio", R.ACCELERATOR,
               "1 while a job holds the device, else 0; only where a job manager tells."),
        Metric("accel_allocated_idle_ratio", G, "ratio", R.ACCELERATOR,
               "1 while a job holds the device and no kernel was resident, 0 while it holds it and one was."),
        # Jobs. They join to any metric of a device by the device. (`job` is the label of Prometheus' own scrape jobs.)
        Metric("tokenstone_job_device_info", G, "ratio", R.ACCELERATOR,
               "Always 1; the labels say which job holds the device.", ("manager", "job_id", "user", "account")),
        Metric("tokenstone_rank_device_info", G, "ratio", R.ACCELERATOR,
               "Always 1; the labels say which rank of a distributed program uses the device.",
               ("job_id", "launcher", "rank", "world_size")),
        Metric("job_cpu_seconds_total", C, "seconds", R.HOST_CPU, "Processor time the job has used.", ("manager", "job_id")),
        Metric("job_memory_bytes", G, "bytes", R.HOST_MEMORY, "Memory the job holds, page cache included.", ("manager", "job_id")),
        Metric("job_memory_kills_total", C, "processes", R.HOST_MEMORY,
               "Processes of the job killed because it had no memory left.", ("manager", "job_id")),
        Metric("job_disk_read_bytes_total", C, "bytes", R.STORAGE, "Bytes the job read from local disks.", ("manager", "job_id")),
        Metric("job_disk_written_bytes_total", C, "bytes", R.STORAGE,
               "Bytes the job wrote to local disks.", ("manager", "job_id")),
        # The host.
        Metric("host_cpu_seconds_total", C, "seconds", R.HOST_CPU,
               "Processor time by mode, all logical processors together.", ("mode",)),
        Metric("host_cpu_logical_processors", G, "processors", R.HOST_CPU, "Logical processors that are on line."),
        Metric("host_load_average", G, "tasks", R.HOST_CPU, "Runnable tasks, averaged over one minute."),
        Metric("host_memory_total_bytes", G, "bytes", R.HOST_MEMORY, "Memory of the host."),
        Metric("host_memory_available_bytes", G, "bytes", R.HOST_MEMORY,
               "Memory that programs could take without swapping, as the kernel estimates it."),
        Metric("host_numa_memory_total_bytes", G, "bytes", R.HOST_MEMORY, "Memory of a NUMA node.", ("numa",)),
        Metric("host_numa_memory_free_bytes", G, "bytes", R.HOST_MEMORY, "Memory of a NUMA node that nobody uses.", ("numa",)),
        Metric("host_numa_pages_total", C, "pages", R.HOST_MEMORY,
               "Pages allocated on a NUMA node: for a process near it, for one far from it, or wanted here and sent away.",
               ("numa", "event")),
        Metric("host_memory_traffic_bytes_total", C, "bytes", R.HOST_MEMORY,
               "Bytes that processors moved from and to memory since the agent started, by cache domain.", ("domain",)),
        Metric("host_pressure_waiting_seconds_total", C, "seconds", R.HOST_CPU,
               "Time in which at least one task waited for the resource (pressure stall, some).", ("resource",)),
        Metric("host_pressure_stalled_seconds_total", C, "seconds", R.HOST_CPU,
               "Time in which all tasks waited for the resource (pressure stall, full).", ("resource",)),
        # Network interfaces.
        Metric("network_receive_bytes_total", C, "bytes", R.NETWORK, "Bytes received.", ("interface",)),
        Metric("network_transmit_bytes_total", C, "bytes", R.NETWORK, "Bytes sent.", ("interface",)),
        Metric("network_receive_packets_total", C, "packets", R.NETWORK, "Packets received.", ("interface",)),
        Metric("network_transmit_packets_total", C, "packets", R.NETWORK, "Packets sent.", ("interface",)),
        Metric("network_receive_errors_total", C, "errors", R.NETWORK, "Bad packets received.", ("interface",)),
        Metric("network_transmit_errors_total", C, "errors", R.NETWORK, "Packets that could not be sent.", ("interface",)),
        Metric("network_receive_drops_total", C, "packets", R.NETWORK, "Packets received and dropped.", ("interface",)),
        Metric("network_transmit_drops_total", C, "packets", R.NETWORK, "Packets dropped before sending.", ("interface",)),
        Metric("network_speed_bytes_per_second", G, "bytes/second", R.NETWORK,
               "Line rate, one direction.", ("interface",)),
        Metric("network_up_ratio", G, "ratio", R.NETWORK, "1 while the link is up, else 0.", ("interface",)),
        Metric("network_pause_frames_total", C, "frames", R.NETWORK,
               "Pause frames: the receiver of a link made its sender wait.", ("interface", "direction", "priority")),
        Metric("network_pause_seconds_total", C, "seconds", R.NETWORK,
               "Time a link stood still for pause frames.", ("interface", "direction", "priority")),
        # InfiniBand and RoCE ports, named as `rdma link` names them: mlx5_0/1.
        Metric("rdma_port_info", G, "ratio", R.NETWORK,
               "Always 1; the labels say what the port runs over.", ("port", "link_layer", "interface")),
        Metric("rdma_receive_bytes_total", C, "bytes", R.NETWORK, "Bytes received.", ("port",)),
        Metric("rdma_transmit_bytes_total", C, "bytes", R.NETWORK, "Bytes sent.", ("port",)),
        Metric("rdma_receive_packets_total", C, "packets", R.NETWORK, "Packets received.", ("port",)),
        Metric("rdma_transmit_packets_total", C, "packets", R.NETWORK, "Packets sent.", ("port",)),
        Metric("rdma_speed_bytes_per_second", G, "bytes/second", R.NETWORK, "Line rate, one direction.", ("port",)),
        Metric("rdma_up_ratio", G, "ratio", R.NETWORK, "1 while the port is active, else 0.", ("port",)),
        Metric("rdma_transmit_wait_ticks_total", C, "ticks", R.NETWORK,
               "Ticks of the port's own clock in which there was something to send and no credit to send it.", ("port",)),
        Metric("rdma_congestion_packets_total", C, "packets", R.NETWORK,
               "Packets that tell of congestion: marked on the way (ECN), or notifications (CNP).", ("port", "event")),
        Metric("rdma_transport_events_total", C, "events", R.NETWORK,
               "Events of the reliable transport that cost throughput.", ("port", "event")),
        Metric("rdma_errors_total", C, "errors", R.NETWORK, "Errors of the port and its link.", ("port", "type")),
        # Disks.
        Metric("disk_read_bytes_total", C, "bytes", R.STORAGE, "Bytes read.", ("disk",)),
        Metric("disk_written_bytes_total", C, "bytes", R.STORAGE, "Bytes written.", ("disk",)),
        Metric("disk_reads_completed_total", C, "operations", R.STORAGE, "Reads completed.", ("disk",)),
        Metric("disk_writes_completed_total", C, "operations", R.STORAGE, "Writes completed.", ("disk",)),
        Metric("disk_io_seconds_total", C, "seconds", R.STORAGE,
               "Time in which at least one operation was in flight.", ("disk",)),
        Metric("filesystem_size_bytes", G, "bytes", R.STORAGE, "Size of a file system.", ("mountpoint",)),
        Metric("filesystem_available_bytes", G, "bytes", R.STORAGE,
               "Space that an ordinary user can still take.", ("mountpoint",)),
        # File servers, whatever the protocol. Operations are read, write and metadata.
        Metric("remote_storage_read_bytes_total", C, "bytes", R.STORAGE,
               "Bytes read from a file server.", ("filesystem", "protocol")),
        Metric("remote_storage_written_bytes_total", C, "bytes", R.STORAGE,
               "Bytes written to a file server.", ("filesystem", "protocol")),
        Metric("remote_storage_operations_total", C, "operations", R.STORAGE,
               "Operations asked of a file server.", ("filesystem", "protocol", "operation")),
        Metric("remote_storage_operation_seconds_total", C, "seconds", R.STORAGE,
               "Time those operations took, queue included.", ("filesystem", "protocol", "operation")),
        Metric("remote_storage_retransmissions_total", C, "operations", R.STORAGE,
               "Requests sent again because the file server did not answer.", ("filesystem", "protocol")),
        # The agent itself.
        Metric("tokenstone_source_up", G, "ratio", R.AGENT, "1 if the source's last reading succeeded, else 0.", ("source",)),
        Metric("tokenstone_source_duration_seconds", G, "seconds", R.AGENT, "How long the last reading took.", ("source",)),
        Metric("tokenstone_source_last_success_timestamp_seconds", G, "seconds", R.AGENT,
               "When the source was last read with success, seconds since 1970.", ("source",)),
        Metric("tokenstone_metric_absent", G, "ratio", R.AGENT,
               "1 for a metric that this node cannot give; the label says why.", ("source", "metric", "reason")),
        Metric("tokenstone_driver_calls_total", C, "calls", R.AGENT,
               "Calls that the agent made into a vendor's library.", ("source", "call")),
        Metric("tokenstone_driver_call_seconds_total", C, "seconds", R.AGENT,
               "Time that those calls took.", ("source", "call")),
        Metric("tokenstone_clock_offset_seconds", G, "seconds", R.AGENT,
               "The service's clock less the agent's, to half of a round trip."),
        Metric("tokenstone_agent_cpu_seconds_total", C, "seconds", R.AGENT, "Processor time the agent itself has used."),
        Metric("tokenstone_agent_memory_bytes", G, "bytes", R.AGENT, "Memory the agent itself holds."),
        Metric("tokenstone_push_batches_total", C, "batches", R.AGENT, "Batches handed to the service.", ("outcome",)),
        Metric("tokenstone_spool_bytes", G, "bytes", R.AGENT, "Batches on disk that the service has not taken yet."),
        Metric("tokenstone_spool_dropped_batches_total", C, "batches", R.AGENT,
               "Batches dropped, oldest first, because the spool was full."),
    )
}  # fmt: skip


def lookup(name: str) -> Metric:
    """Return the metric of that name; raises UnknownName."""
    try:
        return REGISTRY[name]
    except KeyError:
        raise UnknownName("metric", name, REGISTRY, hint="`tokenstone metrics` lists them") from None
