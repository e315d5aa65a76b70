"""DualPipeV that overlaps: the all-to-alls of one micro-batch hide behind the computation of another.

The schedule (arXiv 2412.19437, section 3.2.1; its V-shaped half-size form is github.com/deepseek-ai/DualPipe). The
model is folded: of 2P stages, pipeline rank r holds stage r (on the way down, "0") and stage 2P-1-r (on the way
up, "1"). Micro-batches thus run through the ranks in both directions at once, and each rank always has a forward
and a backward that do not depend on each other. With M >= 2P micro-batches, rank r works through

    1.  2(P-r-1) times     F0              fill the way down
    2.  r+1 times          F0 F1           both ways
    3.  P-r-1 times        I1 W1 F1        backward begins; its weight part is split off, so that the next rank's
                                           gradients leave early
    4.  M-2P+r+1 times     F0&B1  F1&B0    the steady state: everything in pairs
    5.  P-r-1 times        B1     F1&B0    no new forwards on the way down
    6.  r+1 times          B1 B0           the second half as I1 I0, weights kept for later
    7.  P-r-1 times        W I0            weight parts fill what would be bubbles
    8.  r+1 times          W               the rest of them

The bubble is (P - 1)(F&B + B - 3W) with the times of one stage, where F&B is the time of a pair, B of a full backward
and W of its weight part (DualPipe's table writes 2P as PP); 1F1B's is (P - 1)(F + B). torch's ScheduleDualPipeV
gives this order; but it executes a pair as F, then B.

What a pair does here. The main thread runs F, a second one runs B. Where one of them waits for an exchange or for
another stage, the interpreter and the processor belong to the other. A pair that waits for c_F and c_B and computes
for f and b takes about max(f + b, c_F + f, c_B + b) on one processor, rather than f + b + c_F + c_B.

Why two process groups. A collective is matched by its place in the order of calls on its group. The two threads of
one rank take turns as their waits end, the two of another rank take turns differently: on one group, the dispatch
of a forward on this rank meets the combine of a backward on that one. Shapes often fit, nothing complains, and the
gradients are wrong. So forward exchanges have a group of their own and backward exchanges another, each in the
order of the schedule, which is the same on all ranks of the group. The receives between stages are not touched by
this: the runtime posts them in the main thread, between the pairs.

Recomputation goes forward inside a backward pass, in the second thread: its exchanges count as backward ones (see
`expert_parallel.present_pass`).

On an accelerator both threads enqueue on the same stream, where one's wait holds up the other's kernels: what this
hides there has not been measured.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait

import torch

from tokenstone.errors import InvalidValue
from workloads.training.parallel.actions import Actions, split_pair
from workloads.training.parallel.communication import CommunicationLog
from workloads.training.parallel.layout import Groups
from workloads.training.parallel.torch_private import Action, PipelineContext, PipelineScheduleRuntime


class OverlappedActions(Actions):
    """The computing actions, with the pairs F&B executed at the same time. Close it to end its thread."""

    def __init__(self, schedule: PipelineScheduleRuntime, log: CommunicationLog, device: torch.device) -> None:
        super().__init__(schedule, log)
        self._backward_thread = ThreadPoolExecutor(1, "backward", _as_this_thread, (torch.get_num_threads(), device))

    def forward_and_backward(self, action: Action, ctx: PipelineContext) -> None:
        """F here, B in the other thread; return when both are done. An error of either is raised, F's first."""
        forward, backward = split_pair(action)
        other = self._backward_thread.submit(self.backward, backward, ctx)
        try:
            self.forward(forward, ctx)
        finally:
            wait([other])  # its exchanges have deadlines: this ends
        other.result()

    def close(self) -> None:
        """End the thread."""
        self._backward_thread.shutdown()


def _as_this_thread(threads: int, device: torch.device) -> None:
    """Threads per operation and the present device belong to a thread: give a new one those of the old."""
    torch.set_num_threads(threads)
    if device.type != "cpu":
        torch.accelerator.set_device_index(device.index)


def require_two_groups(groups: Groups) -> None:
    """Raise InvalidValue if both directions share a process group: their exchanges would get mixed up."""
    if groups.layout.experts > 1 and groups.experts_forward is groups.experts_backward:
        raise InvalidValue(
            "forward and backward exchanges share a process group", where="pipeline schedule DualPipeV",
            hint="make the groups with layout.make_groups, or switch overlap off",
        )  # fmt: skip
