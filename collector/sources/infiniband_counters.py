"""What the drivers of InfiniBand and RoCE adapters call their counters, and what they mean.

`counters/` is the same for all (InfiniBand's performance management); `hw_counters/` is each driver's own: mlx5,
bnxt_re (Broadcom), irdma (Intel), ionic (AMD Pensando), efa (Amazon). Where several give one metric, the first wins.
Names are from the drivers in Linux and from NVIDIA's page "Understanding mlx5 Linux Counters and Status Parameters".
"""

from __future__ import annotations

from typing import NamedTuple


class Counter(NamedTuple):
    """One file of a port: the metric it is, the labels beside `port`, and the factor to the metric's unit."""

    file: str
    metric: str
    labels: dict[str, str]
    factor: float = 1
    adds: bool = False
    """It is another part of the sum that the file before it begins."""


_RECEIVED, _SENT = "rdma_receive_bytes_total", "rdma_transmit_bytes_total"
_PACKETS_RECEIVED, _PACKETS_SENT = "rdma_receive_packets_total", "rdma_transmit_packets_total"


def _traffic() -> tuple[Counter, ...]:
    return (
        # port_*_data counts lanes: octets divided by four.
        Counter("counters/port_rcv_data", _RECEIVED, {}, 4),
        Counter("hw_counters/rx_rdma_ucast_bytes", _RECEIVED, {}),
        Counter("hw_counters/rx_bytes", _RECEIVED, {}),
        Counter("hw_counters/ip4InOctets", _RECEIVED, {}),
        Counter("hw_counters/ip6InOctets", _RECEIVED, {}, adds=True),
        Counter("counters/port_xmit_data", _SENT, {}, 4),
        Counter("hw_counters/tx_rdma_ucast_bytes", _SENT, {}),
        Counter("hw_counters/tx_bytes", _SENT, {}),
        Counter("hw_counters/ip4OutOctets", _SENT, {}),
        Counter("hw_counters/ip6OutOctets", _SENT, {}, adds=True),
        Counter("counters/port_rcv_packets", _PACKETS_RECEIVED, {}),
        Counter("hw_counters/rx_rdma_ucast_pkts", _PACKETS_RECEIVED, {}),
        Counter("hw_counters/rx_pkts", _PACKETS_RECEIVED, {}),
        Counter("hw_counters/ip4InPkts", _PACKETS_RECEIVED, {}),
        Counter("hw_counters/ip6InPkts", _PACKETS_RECEIVED, {}, adds=True),
        Counter("counters/port_xmit_packets", _PACKETS_SENT, {}),
        Counter("hw_counters/tx_rdma_ucast_pkts", _PACKETS_SENT, {}),
        Counter("hw_counters/tx_pkts", _PACKETS_SENT, {}),
        Counter("hw_counters/ip4OutPkts", _PACKETS_SENT, {}),
        Counter("hw_counters/ip6OutPkts", _PACKETS_SENT, {}, adds=True),
        Counter("counters/port_xmit_wait", "rdma_transmit_wait_ticks_total", {}),
    )


def _events(metric: str, label: str, files: dict[str, str]) -> tuple[Counter, ...]:
    return tuple(Counter(file, metric, {label: word}) for file, word in files.items())


COUNTERS: tuple[Counter, ...] = (
    *_traffic(),
    *_events(
        "rdma_congestion_packets_total",
        "event",
        {
            "hw_counters/np_ecn_marked_roce_packets": "ecn_marked",
            "hw_counters/rx_ecn_marked_pkts": "ecn_marked",
            "hw_counters/rx_rdma_ecn_pkts": "ecn_marked",
            "hw_counters/RxECNMrkd": "ecn_marked",
            "hw_counters/np_cnp_sent": "cnp_sent",
            "hw_counters/tx_cnp_pkts": "cnp_sent",
            "hw_counters/tx_rdma_cnp_pkts": "cnp_sent",
            "hw_counters/cnpSent": "cnp_sent",
            "hw_counters/rp_cnp_handled": "cnp_handled",
            "hw_counters/cnpHandled": "cnp_handled",
            "hw_counters/rx_cnp_pkts": "cnp_received",
            "hw_counters/rx_rdma_cnp_pkts": "cnp_received",
            "hw_counters/rp_cnp_ignored": "cnp_ignored",
            "hw_counters/cnpIgnored": "cnp_ignored",
        },
    ),
    *_events(
        "rdma_transport_events_total",
        "event",
        {
            "hw_counters/out_of_sequence": "out_of_sequence",
            "hw_counters/oos_drop_count": "out_of_sequence",
            "hw_counters/packet_seq_err": "sequence_error",
            "hw_counters/seq_err_naks_rcvd": "sequence_error",
            "hw_counters/req_rx_pkt_seq_err": "sequence_error",
            "hw_counters/implied_nak_seq_err": "implied_nak",
            "hw_counters/local_ack_timeout_err": "timeout",
            "hw_counters/tx_rdma_ack_timeout": "timeout",
            "hw_counters/retrans_timeout_events": "timeout",
            "hw_counters/to_retransmits": "retransmit",
            "hw_counters/tx_rdma_retx_pkts": "retransmit",
            "hw_counters/retrans_pkts": "retransmit",
            "hw_counters/RetransSegs": "retransmit",
            "hw_counters/tcpRetransSegs": "retransmit",
            "hw_counters/roce_adp_retrans": "adaptive_retransmit",
            "hw_counters/roce_slow_restart": "slow_restart",
            "hw_counters/duplicate_request": "duplicate",
            "hw_counters/dup_req": "duplicate",
            "hw_counters/rnr_nak_retry_err": "receiver_not_ready_exceeded",
            "hw_counters/rnr_naks_rcvd": "receiver_not_ready",
            "hw_counters/out_of_buffer": "out_of_buffer",
            "hw_counters/max_retry_exceeded": "retries_exceeded",
            "hw_counters/req_tx_retry_excd_err": "retries_exceeded",
        },
    ),
    *_events(
        "rdma_errors_total",
        "type",
        {
            "counters/symbol_error": "symbol",
            "counters/link_error_recovery": "link_recovery",
            "counters/link_downed": "link_down",
            "counters/local_link_integrity_errors": "link_integrity",
            "counters/excessive_buffer_overrun_errors": "buffer_overrun",
            "counters/port_rcv_errors": "receive",
            "counters/port_rcv_remote_physical_errors": "receive_remote_physical",
            "counters/port_rcv_switch_relay_errors": "receive_switch_relay",
            "counters/port_rcv_constraint_errors": "receive_constraint",
            "counters/port_xmit_discards": "transmit_discard",
            "counters/port_xmit_constraint_errors": "transmit_constraint",
            "counters/VL15_dropped": "management_dropped",
            "hw_counters/rx_icrc_encapsulated": "checksum",
            "hw_counters/rx_roce_discards": "receive_discard",
            "hw_counters/rx_drops": "receive_discard",
            "hw_counters/tx_roce_discards": "transmit_discard",
        },
    ),
)
"""Every file that is read, the better of two first."""
