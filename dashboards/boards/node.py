"""Node and accelerator: what devices really do, what they draw, what holds them down, and what is not measured."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from dashboards.frame import board, choice, cluster, job
from dashboards.panels import states, stats, tables, timeseries
from dashboards.queries import AGENT, DEVICE, now, over_time, rate

IDLE = 'mode=~"idle|iowait"'
ERRORS = "accel_errors_total"
BY = "cluster, node, device"
INDEX = f"max by ({BY}, index, model) (accel_info{{{DEVICE}}})"
LEGEND = "{{node}} #{{index}}"


def _each(expression: str) -> str:
    """An expression by device, with the number that people know the device by."""
    return f"max by ({BY}) ({expression}) * on ({BY}) group_left (index, model) {INDEX}"


def _gauge(metric: str) -> str:
    return f"{metric}{{{DEVICE}}}"


def _mean(metric: str) -> str:
    return f"avg({_gauge(metric)})"


def _errors(expression: str) -> str:
    return f"sum by ({BY}, type) ({expression}) * on ({BY}) group_left (index) {INDEX}"


def make() -> Dashboard:
    """Build the board."""
    activity = [
        timeseries(
            "What devices really do, beside “utilization”",
            "Means over the chosen devices. “Utilization” is the share of time in which any kernel was resident: it can be "
            "100 % while almost nothing is computed. SM: share of cycles in which compute units had work. Tensor: in which "
            "matrix units were active. Bandwidth: device memory traffic against its peak.",
            "percentunit",
            over_time(_mean("accel_busy_ratio"), "“utilization” (a kernel resident)"),
            over_time(_mean("accel_sm_active_ratio"), "SM active"),
            over_time(_mean("accel_sm_occupancy_ratio"), "SM occupancy"),
            over_time(_mean("accel_tensor_active_ratio"), "tensor active"),
            over_time(_mean("accel_memory_bandwidth_ratio"), "memory bandwidth"),
            most=1.0, size=(12, 9), colors={"“utilization” (a kernel resident)": "#808080"},
        ),
        tables(
            "Devices now",
            "Blank is not measured: see the table of reasons at the end. Memory is that in use of that there is.",
            now(_each(_gauge("accel_busy_ratio"))), now(_each(_gauge("accel_sm_active_ratio"))),
            now(_each(_gauge("accel_tensor_active_ratio"))), now(_each(_gauge("accel_memory_bandwidth_ratio"))),
            now(_each(f"{_gauge('accel_memory_used_bytes')} / {_gauge('accel_memory_total_bytes')}")),
            now(_each(_gauge("accel_power_watts"))), now(_each(_gauge("accel_temperature_celsius"))),
            columns={
                "node": ("Node", "none"), "index": ("#", "none"), "model": ("Model", "none"),
                "Value #A": ("“Utilization”", "percentunit"), "Value #B": ("SM", "percentunit"),
                "Value #C": ("Tensor", "percentunit"), "Value #D": ("Bandwidth", "percentunit"),
                "Value #E": ("Memory", "percentunit"), "Value #F": ("Power", "watt"), "Value #G": ("Temp.", "celsius"),
            },
            size=(12, 9),
        ),
        timeseries("SM active, by device", "Share of cycles in which compute units had work, mean over the units.",
                   "percentunit", over_time(_each(_gauge("accel_sm_active_ratio")), LEGEND), most=1.0, size=(8, 7)),
        timeseries("Device memory in use", "Of what the device has.", "percentunit",
                   over_time(_each(f"{_gauge('accel_memory_used_bytes')} / {_gauge('accel_memory_total_bytes')}"), LEGEND),
                   most=1.0, size=(8, 7)),
        timeseries("Clock", "Present clock of the compute units. A clock below the usual one under load is a clock held "
                   "down: see throttling.", "hertz",
                   over_time(_each(f'accel_clock_hertz{{{DEVICE},domain="compute"}}'), LEGEND), size=(8, 7)),
    ]  # fmt: skip
    power = [
        timeseries("Power", "Drawn by each device, as the driver averages it, and the lowest limit in force.", "watt",
                   over_time(_each(_gauge("accel_power_watts")), LEGEND),
                   over_time(f"min({_gauge('accel_power_limit_watts')})", "lowest limit"), size=(8, 8)),
        timeseries("Power by the energy counter", "Rate of the devices' energy counters: the mean over the interval, which "
                   "sees peaks that the gauge misses.", "watt",
                   over_time(_each(rate("accel_energy_joules_total")), LEGEND), size=(8, 8)),
        stats("Energy in this range", "By the devices' own counters, all chosen devices that have one.", "joule",
              now(f"sum(increase({_gauge('accel_energy_joules_total')}[$__range]))"), size=(4, 8), decimals=1),
        stats("Hottest", "Hottest device, and hottest memory of a device.", "celsius",
              now(f"max({_gauge('accel_temperature_celsius')})", "device"),
              now(f"max({_gauge('accel_memory_temperature_celsius')})", "memory"), size=(4, 8), shows="value_and_name",
              steps=((None, "green"), (85, "orange"), (95, "red"))),
        states("Clock limits in force", "By reason, on any of the chosen devices. A software power cap under load is usual; "
               "hardware and thermal reasons are not.",
               over_time(f"max by (node, reason) ({_gauge('accel_throttled_ratio')})", "{{node}} {{reason}}"),
               names={"0": ("free", "green"), "1": ("in force", "orange")}, size=(12, 9)),
        timeseries("Time throttled", "Share of time in which a clock limit was in force, by reason, mean over the chosen "
                   "devices whose driver counts it.", "percentunit",
                   over_time(f"avg by (reason) ({rate('accel_throttled_seconds_total')})", "{{reason}}"), most=1.0,
                   size=(12, 9)),
    ]  # fmt: skip
    links = [
        timeseries("Links between devices", "Rates over links of a kind, all chosen devices together, one direction.", "Bps",
                   over_time(f"sum by (link, direction) ({_gauge('accel_link_bytes_per_second')})",
                             "{{link}} {{direction}}")),
        timeseries("Links, by counted bytes", "The same from byte counters, where the driver has them.", "Bps",
                   over_time(f"sum by (link, direction) ({rate('accel_link_bytes_total')})", "{{link}} {{direction}}")),
    ]  # fmt: skip
    network = [
        timeseries("RDMA ports", "InfiniBand and RoCE: what collectives run over. Other interfaces do not see this traffic.",
                   "Bps", over_time(f"sum by (node) ({rate('rdma_receive_bytes_total', AGENT)})", "{{node}} received"),
                   over_time(f"sum by (node) ({rate('rdma_transmit_bytes_total', AGENT)})", "{{node}} sent"), size=(8, 8)),
        timeseries("Interfaces", "Network interfaces of the kernel.", "Bps",
                   over_time(f"sum by (node) ({rate('network_receive_bytes_total', AGENT)})", "{{node}} received"),
                   over_time(f"sum by (node) ({rate('network_transmit_bytes_total', AGENT)})", "{{node}} sent"), size=(8, 8)),
        timeseries("Busiest port against its line rate", "Busier direction of each RDMA port / its line rate; the largest "
                   "of each node.", "percentunit",
                   over_time(
                       f"max by (node) (({rate('rdma_receive_bytes_total', AGENT)} > "
                       f"{rate('rdma_transmit_bytes_total', AGENT)} or {rate('rdma_transmit_bytes_total', AGENT)}) "
                       f"/ rdma_speed_bytes_per_second{{{AGENT}}})", "{{node}}"), most=1.0, size=(8, 8)),
        timeseries("Congestion: packets marked", "RoCE: packets marked on the way (ECN) and congestion notifications (CNP); "
                   "events of the transport that cost throughput.", "pps",
                   over_time(f"sum by (node, event) ({rate('rdma_congestion_packets_total', AGENT)})", "{{node}} {{event}}"),
                   over_time(f"sum by (node) ({rate('rdma_transport_events_total', AGENT)})", "{{node}} transport events"),
                   size=(8, 8)),
        timeseries("Congestion: waiting for credit", "InfiniBand: ticks of a port's own clock, each second, in which it had "
                   "something to send and no credit to send it. Ports count by clocks of their own: compare one with "
                   "itself, not with others.", "none",
                   over_time(f"sum by (node) ({rate('rdma_transmit_wait_ticks_total', AGENT)})", "{{node}} ticks/s"),
                   size=(8, 8)),
        timeseries("Congestion: paused links", "Share of time in which an interface stood still for pause frames.",
                   "percentunit",
                   over_time(f"max by (node, interface, direction) ({rate('network_pause_seconds_total', AGENT)})",
                             "{{node}} {{interface}} {{direction}}"), size=(8, 8)),
    ]  # fmt: skip
    host = [
        timeseries("Local disks", "Bytes read and written.", "Bps",
                   over_time(f"sum by (node) ({rate('disk_read_bytes_total', AGENT)})", "{{node}} read"),
                   over_time(f"sum by (node) ({rate('disk_written_bytes_total', AGENT)})", "{{node}} written"), size=(8, 8)),
        timeseries("File servers", "Bytes over NFS, Lustre and the like.", "Bps",
                   over_time(f"sum by (filesystem) ({rate('remote_storage_read_bytes_total', AGENT)})",
                             "{{filesystem}} read"),
                   over_time(f"sum by (filesystem) ({rate('remote_storage_written_bytes_total', AGENT)})",
                             "{{filesystem}} written"), size=(8, 8)),
        timeseries("Fullest file system", "Share in use of the fullest one of each node.", "percentunit",
                   over_time(f"max by (node) (1 - filesystem_available_bytes{{{AGENT}}} / filesystem_size_bytes{{{AGENT}}})",
                             "{{node}}"), most=1.0, size=(8, 8)),
        timeseries("Pressure", "Share of time in which at least one task waited for the resource (waiting), or all did "
                   "(stalled).", "percentunit",
                   over_time(f"max by (node, resource) ({rate('host_pressure_waiting_seconds_total', AGENT)})",
                             "{{node}} {{resource}} waiting"),
                   over_time(f"max by (node, resource) ({rate('host_pressure_stalled_seconds_total', AGENT)})",
                             "{{node}} {{resource}} stalled"), most=1.0, size=(8, 8)),
        timeseries("Processors busy", "Time not idle and not waiting for disks / all processor time.", "percentunit",
                   over_time(
                       f"1 - sum by (node) (rate(host_cpu_seconds_total{{{AGENT},{IDLE}}}[$__rate_interval]))"
                       f" / sum by (node) ({rate('host_cpu_seconds_total', AGENT)})", "{{node}}"), most=1.0, size=(8, 8)),
        timeseries("Host memory in use", "Memory that programs could not take without swapping / memory of the host.",
                   "percentunit",
                   over_time(f"max by (node) (1 - host_memory_available_bytes{{{AGENT}}} / host_memory_total_bytes{{{AGENT}}})",
                             "{{node}}"), most=1.0, size=(8, 8)),
    ]  # fmt: skip
    errors = [
        tables("Errors of devices", "Since each counter began, and in this time range. XIDs count since the agent started.",
               now(_errors(_gauge(ERRORS)) + " > 0"),
               now(f"{_errors(f'increase({_gauge(ERRORS)}[$__range])')} and on ({BY}, type) {_gauge(ERRORS)} > 0"),
               columns={"node": ("Node", "none"), "index": ("#", "none"), "type": ("Error", "none"),
                        "Value #A": ("Ever", "none"), "Value #B": ("In this range", "none")},
               sort="In this range", size=(8, 9)),
        tables("Errors of ports and interfaces", "Since each counter began, and in this time range.",
               now(f"sum by (node, port, type) (rdma_errors_total{{{AGENT}}}) > 0"),
               now(f"sum by (node, port, type) (increase(rdma_errors_total{{{AGENT}}}[$__range])) and on (node, port, type) "
                   f"rdma_errors_total{{{AGENT}}} > 0"),
               columns={"node": ("Node", "none"), "port": ("Port", "none"), "type": ("Error", "none"),
                        "Value #A": ("Ever", "none"), "Value #B": ("In this range", "none")},
               sort="In this range", size=(8, 9)),
        tables("Jobs on these devices", "Which job holds which device, where a job manager tells.",
               now(f"max by (node, device, manager, job_id, user) (tokenstone_job_device_info{{{DEVICE}}})"),
               columns={"node": ("Node", "none"), "device": ("Device", "none"), "job_id": ("Job", "none"),
                        "user": ("User", "none"), "manager": ("By", "none")}, size=(8, 9)),
    ]  # fmt: skip
    agent = [
        tables("Why metrics are absent", "What these nodes cannot give, and why. Absent is never zero.",
               now(f"count by (node, source, metric, reason) (tokenstone_metric_absent{{{AGENT}}})"),
               columns={"node": ("Node", "none"), "source": ("Source", "none"), "metric": ("Metric", "none"),
                        "reason": ("Reason", "none")}, size=(14, 10)),
        tables("Sources", "Whether the agent could read each source (1) or not (0), how long ago it last could, and how long "
               "that took. The software of a maker whose devices are not there is down, rightly.",
               now(f"min by (node, source) (tokenstone_source_up{{{AGENT}}})"),
               now(f"max by (node, source) (time() - tokenstone_source_last_success_timestamp_seconds{{{AGENT}}})"),
               now(f"max by (node, source) (tokenstone_source_duration_seconds{{{AGENT}}})"),
               columns={"node": ("Node", "none"), "source": ("Source", "none"), "Value #A": ("Up", "none"),
                        "Value #B": ("Read ago", "s"), "Value #C": ("Took", "s")},
               sort="Took", size=(10, 10), steps={"Up": ((None, "red"), (1, "green"))}),
        timeseries("Age of the last reading", "Of the source that was read with success longest ago.", "s",
                   over_time(f"max by (node) (time() - tokenstone_source_last_success_timestamp_seconds{{{AGENT}}})",
                             "{{node}}"), size=(8, 7)),
        timeseries("Spool", "Batches on disk that the service has not taken yet. It falls back to 0 when it has.", "bytes",
                   over_time(f"max by (node) (tokenstone_spool_bytes{{{AGENT}}})", "{{node}}"), size=(8, 7)),
        timeseries("The agent itself", "Processor time of the agent, as a share of one processor.", "percentunit",
                   over_time(f"max by (node) ({rate('tokenstone_agent_cpu_seconds_total', AGENT)})", "{{node}}"),
                   size=(8, 7)),
    ]  # fmt: skip
    variables = [
        job(), cluster(),
        choice("node", "Node", 'label_values(tokenstone_source_up{job=~"$job",cluster=~"$cluster"}, node)',
               meaning="Name of a node."),
        choice("device", "Device", f"label_values(accel_info{{{AGENT}}}, device)",
               meaning="As its driver names it: a UUID where there is one."),
    ]  # fmt: skip
    return board(
        "node", "Node and accelerator",
        "What devices really do, what they draw, what holds them down, and what is not measured.",
        variables,
        [("Activity", activity), ("Power, energy, throttling", power), ("Links", links),
         ("Network and congestion", network), ("Storage and host", host), ("Errors and jobs", errors),
         ("What is not measured, and the agent", agent)],
        since="now-1h",
    )  # fmt: skip
