"""What has arrived is known exactly, in whatever order it comes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.store import sequences
from api.store.sequences import Arrivals
from tokenstone.errors import Conflict


@given(st.lists(st.integers(0, 40), unique=True, min_size=1))
def test_arrivals_are_the_set_of_what_arrived(order):
    arrivals = Arrivals()
    for position, sequence in enumerate(order):
        assert not arrivals.has(sequence)
        arrivals = arrivals.add(sequence)
        arrived = set(order[: position + 1])
        assert {n for n in range(50) if arrivals.has(n)} == arrived
        missing = {n for first, last in arrivals.missing for n in range(first, last + 1)}
        assert missing == set(range(max(arrived))) - arrived
        assert list(arrivals.missing) == sorted(arrivals.missing)


def test_an_agent_that_leaves_endless_gaps_is_refused(monkeypatch):
    monkeypatch.setattr(sequences, "MOST_RANGES", 3)
    arrivals = Arrivals()
    for sequence in (1, 3, 5):
        arrivals = arrivals.add(sequence)
    with pytest.raises(Conflict, match="more than 3 gaps"):
        arrivals.add(7)
    assert arrivals.add(0).missing == ((2, 2), (4, 4))
