"""How advice reads in a terminal."""

from cli.terminal import advice_line
from tokenstone.advice import advise


def test_it_says_what_to_do_what_it_saves_and_what_it_rests_on():
    seconds = {"ideal": 69.0, "exposed_communication": 31.0}
    [found] = advise(seconds, usd_per_million_tokens=0.80)
    line = advice_line(found).plain
    assert line.startswith("Against exposed communication: run communication behind computation (DualPipe")
    assert "Saves at most $0.22 per million tokens, 27.8% of the bill." in line
    assert line.endswith("exposes 3.2 % of its span.")
    [without] = advise(seconds)
    assert "Saves at most 27.8% of the bill." in advice_line(without).plain
