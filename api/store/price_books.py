"""Price books by name and version. A version is never overwritten."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.store.paging import decode_cursor, make_page
from api.store.statements import insert_new
from api.store.tables import PriceBookRow
from tokenstone.cost import PriceBook
from tokenstone.errors import Conflict, UnknownName
from tokenstone.wire import Page


def add_price_book(session: Session, book: PriceBook, *, now: float) -> bool:
    """Keep a version of a price book; return whether it is new. Raises Conflict where that version says otherwise."""
    present = find_price_book(session, book.name, book.version)
    if present is None:
        row = {"name": book.name, "version": book.version, "created_unix_seconds": now, "body": book.model_dump_json()}
        insert_new(session, PriceBookRow, [row])
        return True
    if present != book:
        raise Conflict(
            f"price book {book.name} {book.version} is there and says otherwise",
            where="version",
            hint="a version never changes: add a new one",
        )
    return False


def page_of_price_books(
    session: Session, *, name: str | None = None, cursor: str | None, limit: int
) -> Page[PriceBook]:
    """All versions of all books, or of one, the newest first."""
    query = select(PriceBookRow).order_by(PriceBookRow.id.desc()).limit(limit + 1)
    if name is not None:
        query = query.where(PriceBookRow.name == name)
    if cursor is not None:
        query = query.where(PriceBookRow.id < decode_cursor(cursor, int)[0])
    rows = session.scalars(query).all()
    return make_page(rows, limit, item=lambda row: PriceBook.model_validate_json(row.body), key=lambda row: (row.id,))


def get_price_book(session: Session, reference: str) -> PriceBook:
    """Find NAME (its latest version) or NAME@VERSION; raises UnknownName."""
    name, _, version = reference.partition("@")
    book = find_price_book(session, name, version or None)
    if book is None:
        known = session.execute(select(PriceBookRow.name, PriceBookRow.version)).all()
        names = {name for name, _ in known} | {f"{name}@{version}" for name, version in known}
        raise UnknownName("price book", reference, names, where="price_book")
    return book


def find_price_book(session: Session, name: str, version: str | None) -> PriceBook | None:
    """That version of a book, or its latest for None; None where there is none."""
    query = select(PriceBookRow.body).where(PriceBookRow.name == name).order_by(PriceBookRow.id.desc()).limit(1)
    if version is not None:
        query = query.where(PriceBookRow.version == version)
    body = session.scalar(query)
    return None if body is None else PriceBook.model_validate_json(body)
