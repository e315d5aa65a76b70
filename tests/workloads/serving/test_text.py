"""Text while it comes: the same text as at once, no character cut, nothing after a stop."""

from hypothesis import given
from hypothesis import strategies as st

from workloads.serving.text import TextStream, token_bytes

WORDS = [bytes([byte]) for byte in range(256)] + ["é".encode(), "€ ".encode(), b"end", b"\xe2\x82"]


def streamed(ids, stops, size):
    stream, text = TextStream(WORDS, stops), ""
    parts = [ids[i : i + size] for i in range(0, len(ids), size)] or [[]]
    for number, part in enumerate(parts, 1):
        text += stream.add(part, last=number == len(parts))
        if stream.ended:
            break
    return text, stream.ended


@given(ids=st.lists(st.integers(0, len(WORDS) - 1), max_size=40), size=st.integers(1, 5))
def test_pieces_are_the_whole(ids, size):
    assert streamed(ids, [], size) == (b"".join(WORDS[i] for i in ids).decode(errors="replace"), False)


@given(letters=st.text("abc", max_size=30), stops=st.lists(st.text("abc", min_size=1, max_size=3), max_size=3),
       size=st.integers(1, 4))  # fmt: skip
def test_nothing_comes_after_the_first_stop(letters, stops, size):
    text, ended = streamed([ord(letter) for letter in letters], stops, size)
    assert ended == any(stop in letters for stop in stops)
    assert letters.startswith(text)
    if size == 1 and ended:  # letter by letter, the stop that is complete first ends it
        assert any(letters.startswith(text + stop) for stop in stops)
    if not ended:
        assert text == letters


def test_the_bytes_of_tokens_are_what_the_tokenizer_decodes(tokenizer):
    words = token_bytes(tokenizer)
    ids = tokenizer.encode("def naïve():\n\treturn '€ 100'  # Ünïcode\n").ids
    assert b"".join(words[i] for i in ids).decode() == tokenizer.decode(ids)
