"""Pages are shared by prefix, kept while there is room, and never lost."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from workloads.inference.pages import PageAllocator, page_key


def test_a_key_tells_the_whole_prefix() -> None:
    one, other = page_key(b"", [1, 2]), page_key(b"", [2, 1])
    assert one != other
    assert page_key(one, [3, 4]) != page_key(other, [3, 4])
    assert page_key(one, [3, 4]) == page_key(page_key(b"", [1, 2]), [3, 4])


def test_the_least_recently_used_prefix_is_forgotten_first_and_its_end_before_its_beginning() -> None:
    pages = PageAllocator(4)
    first = [pages.take(), pages.take()]
    second = [pages.take(), pages.take()]
    for page, key in zip([*first, *second], (b"a1", b"a2", b"b1", b"b2"), strict=True):
        assert page is not None
        pages.publish(page, key)
    pages.give_back([page for page in first if page is not None])
    pages.give_back([page for page in second if page is not None])
    found = pages.find(b"a1")
    assert found is not None
    pages.hold(found)  # used again: now the youngest
    pages.give_back([found])
    taken = [pages.take() for _ in range(3)]
    assert taken == [first[1], second[1], second[0]]
    assert pages.find(b"a1") == first[0]


class Allocator(RuleBasedStateMachine):
    """Random requests against a model: a list of who holds what."""

    def __init__(self) -> None:
        super().__init__()
        self.pages = PageAllocator(6)
        self.held: list[list[int]] = []
        self.content: dict[int, bytes] = {}
        self.count = 0

    @rule(share=st.booleans(), size=st.integers(1, 3))
    def begin(self, share: bool, size: int) -> None:
        mine: list[int] = []
        for key, page in [(key, page) for page, key in self.content.items()] if share else []:
            if self.pages.find(key) == page and len(mine) < 2:
                self.pages.hold(page)
                mine.append(page)
        for _ in range(size):
            page = self.pages.take()
            if page is None:
                assert len({page for pages in self.held for page in pages} | set(mine)) == 6
                break
            assert all(page not in pages for pages in self.held)
            assert page not in mine
            self.content.pop(page, None)
            mine.append(page)
        self.held.append(mine)

    @rule()
    def publish(self) -> None:
        for page in self.held[-1] if self.held else []:
            if page not in self.content:
                self.count += 1
                self.content[page] = page_key(b"", [self.count])
                self.pages.publish(page, self.content[page])

    @rule(which=st.integers(0, 5))
    def end(self, which: int) -> None:
        if self.held:
            self.pages.give_back(self.held.pop(which % len(self.held)))

    @invariant()
    def every_page_is_held_or_available(self) -> None:
        assert self.pages.used == len({page for pages in self.held for page in pages})
        assert self.pages.used + self.pages.available == 6

    @invariant()
    def what_is_found_is_what_was_put_there(self) -> None:
        for page, key in self.content.items():
            assert self.pages.find(key) in {page, None}


TestAllocator = Allocator.TestCase
TestAllocator.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
