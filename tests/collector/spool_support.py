"""Windows that tests can recognise, and a spool emptied as the service would see it."""

import gzip

from tokenstone.sample import SeriesKey
from tokenstone.window import Window
from tokenstone.wire import WindowBatch

POWER = SeriesKey("accel_power_watts", "GPU-1")
ENERGY = SeriesKey("accel_energy_joules_total", "GPU-1")


def interval(number, *, noise=0):
    windows = [
        Window(POWER, 10.0 * number, 10.0, 10, float(number), float(number), float(number)),
        Window(ENERGY, 10.0 * number, 10.0, 10, delta=number if number else None),
    ]
    generator = noise * 7919 + number
    for place in range(noise):  # what does not compress
        generator = (generator * 6364136223846793005 + 1442695040888963407) % 2**64
        key = SeriesKey("disk_read_bytes_total", "host", (("disk", f"sd{place}"),))
        windows.append(Window(key, 10.0 * number, 10.0, 1, delta=generator))
    return windows


def numbers_of(batch):
    index = [place for place, series in enumerate(batch.series) if series.metric == POWER.metric]
    return [int(mean) for place, mean in zip(batch.series_index, batch.mean, strict=True) if place in index]


def take(spool):
    """Take the oldest batch, as the wire's own model reads it."""
    name = spool.oldest()
    data = None if name is None else spool.read(name)
    if data is None:
        return None
    spool.remove(name)
    return WindowBatch.model_validate_json(gzip.decompress(data))


def drain(spool):
    taken = []
    while (batch := take(spool)) is not None:
        taken.append(batch)
    return taken
