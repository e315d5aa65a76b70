"""Mark steps, phases and tokens in anyone's loop; out comes the ledger of a run, without torch.

from tokenstone.record import Job

with Job("my-training", api="http://service:8470", hardware="h100-sxm") as job:
    for batch in job.batches(loader):
        with job.step(tokens=batch.numel()):
            train(batch)
"""

from tokenstone.record.job import Job
from tokenstone.record.recorder import Recorder

__all__ = ["Job", "Recorder"]
