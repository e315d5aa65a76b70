"""The network ports of Huawei Ascend devices, by `hccn_tool`: they are on the device and the host's kernel does not
know them.

Names of the counters as in Huawei's reference of hccn_tool (hiascend.com, "-stat -g") and of its DCMI library
(dcmi_get_netdev_pkt_stats_info). The tool may not run twice at a time, so devices are asked one after another.
"""

from __future__ import annotations

import re

from collector.sources.base import Parts, Source, SourceUnavailable
from collector.sources.tool import DEADLINE_SECONDS, Commands
from tokenstone.sample import HOST, Absence, Reading, labels

_TOOL = "hccn_tool"
_MOST_DEVICES = 16
_COUNTERS = {
    "mac_rx_total_oct_num": ("rdma_receive_bytes_total", {}),
    "mac_tx_total_oct_num": ("rdma_transmit_bytes_total", {}),
    "mac_rx_total_pkt_num": ("rdma_receive_packets_total", {}),
    "mac_tx_total_pkt_num": ("rdma_transmit_packets_total", {}),
    "roce_rx_cnp_pkt_num": ("rdma_congestion_packets_total", {"event": "cnp_received"}),
    "roce_tx_cnp_pkt_num": ("rdma_congestion_packets_total", {"event": "cnp_sent"}),
    "roce_new_pkt_rty_num": ("rdma_transport_events_total", {"event": "retransmit"}),
    "roce_out_of_order_num": ("rdma_transport_events_total", {"event": "out_of_sequence"}),
    "mac_rx_fcs_err_pkt_num": ("rdma_errors_total", {"type": "checksum"}),
    "mac_tx_err_pkt_num": ("rdma_errors_total", {"type": "transmit"}),
    "roce_rx_err_pkt_num": ("rdma_errors_total", {"type": "receive"}),
}
_PAUSE = "network_pause_frames_total"
_FRAMES = re.compile(r"mac_(rx|tx)_(?:mac_(pause)|pfc_pri(\d))_(?:pkt_)?num")
_SPEED = "rdma_speed_bytes_per_second"
_UP = "rdma_up_ratio"


def parse_statistics(text: str) -> dict[str, int]:
    """Parse `hccn_tool -i N -stat -g` to counters by the tool's names; lines of another form are left out.

    >>> parse_statistics("packet statistics:\\nmac_tx_total_oct_num:4096\\n")
    {'mac_tx_total_oct_num': 4096}
    """
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): int(value) for name, _, value in pairs if value.strip().isdigit()}


def parse_speed(text: str) -> float | None:
    """Parse `hccn_tool -i N -speed -g` to bytes per second; None where it tells none.

    >>> parse_speed("Speed: 200000 Mb/s\\n")
    25000000000.0
    """
    match = re.search(r"(\d+)\s*Mb/s", text)
    return int(match[1]) * 125_000.0 if match and int(match[1]) else None


def parse_link(text: str) -> float | None:
    """Parse `hccn_tool -i N -link -g` to 1 where the link is up, 0 where it is down, None where neither is said.

    >>> parse_link("link status: UP\\n")
    1.0
    """
    match = re.search(r"link status:\s*(UP|DOWN)", text)
    return float(match[1] == "UP") if match else None


class HccnSource(Source):
    """The network port of each Ascend device, named hccn/0 to hccn/15 by the number of the device."""

    name = "hccn"
    metrics = (*dict.fromkeys(metric for metric, _ in _COUNTERS.values()), _PAUSE, _SPEED, _UP)
    measures = True
    every_seconds = 30.0
    deadline_seconds = 6 * DEADLINE_SECONDS

    def __init__(self, commands: Commands) -> None:
        self._run = commands
        self._seen, self._count = 0, _MOST_DEVICES

    def read(self) -> Parts:
        """Ask device by device; one that fails amid the others is absent. SourceUnavailable where none answers."""
        readings: list[Reading] = []
        absences: list[Absence] = []
        failed: dict[int, str] = {}
        last = -1
        for device in range(self._count):
            try:
                counters = parse_statistics(self._run(_TOOL, ["-i", str(device), "-stat", "-g"]))
            except SourceUnavailable as error:
                failed[device] = str(error)
                continue
            last = device
            port = f"hccn/{device}"
            of_port = [*_traffic(port, counters), *self._link(port, str(device))]
            given = {reading.metric for reading in of_port}
            readings += of_port
            absences += [
                Absence(metric, f"{port}: {_TOOL} does not tell it") for metric in self.metrics if metric not in given
            ]
        if last < 0:
            raise SourceUnavailable(failed[0])
        # Nothing tells how many devices there are: those after the last that ever answered are not there.
        self._seen = max(self._seen, last + 1)
        self._count = self._seen
        for device, reason in failed.items():
            if device < self._seen:
                absences += [Absence(metric, f"hccn/{device}: {reason}") for metric in self.metrics]
        return Parts(tuple(readings), tuple(absences))

    def close(self) -> None:
        """Look for all devices again at the next reading."""
        self._count = _MOST_DEVICES

    def _link(self, port: str, device: str) -> list[Reading]:
        readings: list[Reading] = []
        for metric, question, parse in ((_SPEED, "-speed", parse_speed), (_UP, "-link", parse_link)):
            try:
                value = parse(self._run(_TOOL, ["-i", device, question, "-g"]))
            except SourceUnavailable:
                continue
            if value is not None:
                readings.append(Reading(metric, value, HOST, labels(port=port)))
        return readings


def _traffic(port: str, counters: dict[str, int]) -> list[Reading]:
    readings: list[Reading] = []
    for name, value in counters.items():
        frames = _FRAMES.fullmatch(name)
        if name in _COUNTERS:
            metric, by = _COUNTERS[name]
            readings.append(Reading(metric, value, HOST, labels(by, port=port)))
        elif frames:
            direction = frames[1]
            by_frame = labels(interface=port, direction=direction, priority=frames[3] or "all")
            readings.append(Reading(_PAUSE, value, HOST, by_frame))
    return readings
