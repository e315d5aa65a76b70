"""What each cluster's devices are priced by, dated. Rows are only added: the latest of a day counts."""

from __future__ import annotations

from datetime import date

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.store.price_books import get_price_book
from api.store.tables import ClusterPriceRow
from tokenstone.cost import Price, PriceBook, rental
from tokenstone.fleet import price_of_hardware, price_of_row
from tokenstone.wire import ClusterPrice, DatedPrice

NO_PRICE = "no price is set for the cluster on that day: PUT /v1/cluster-prices"


def add_cluster_price(session: Session, price: ClusterPrice, *, now: float) -> None:
    """Price a cluster from a day on. Raises UnknownName for a book or row that is not there."""
    if price.price_book is not None:
        book = get_price_book(session, price.price_book)
        if price.price_row is not None:
            book.resolve(price.price_row)
    session.add(
        ClusterPriceRow(
            cluster=price.cluster,
            effective_from=price.effective_from.isoformat(),
            created_unix_seconds=now,
            body=price.model_dump_json(),
        )
    )


def cluster_prices(session: Session, cluster: str | None) -> dict[str, list[ClusterPrice]]:
    """The prices of one cluster, or of all, by cluster and from the latest day on which they count."""
    query = select(ClusterPriceRow)
    if cluster is not None:
        query = query.where(ClusterPriceRow.cluster == cluster)
    found: dict[str, list[ClusterPrice]] = {}
    for row in session.scalars(query.order_by(ClusterPriceRow.effective_from.desc(), ClusterPriceRow.id.desc())):
        prices = found.setdefault(row.cluster, [])
        if not prices or prices[-1].effective_from.isoformat() != row.effective_from:
            prices.append(ClusterPrice.model_validate_json(row.body))
    return found


class Pricing:
    """Prices of clusters by hardware and day, as the store has them now; or one choice for all of them."""

    def __init__(self, session: Session, cluster: str | None, override: DatedPrice | None) -> None:
        self._session, self._override = session, override
        self._by_cluster = {} if override else cluster_prices(session, cluster)
        self._books: dict[str, PriceBook] = {}
        if override is not None and override.price_book is not None:
            book = self._book(override.price_book)
            if override.price_row is not None:
                book.resolve(override.price_row)

    def __call__(self, cluster: str, hardware: str | None, on: date) -> tuple[Price | None, str]:
        """The price of that hardware on that day, or None and why there is none."""
        chosen: DatedPrice | None = self._override or next(
            (price for price in self._by_cluster.get(cluster, ()) if price.effective_from <= on), None
        )
        if chosen is None:
            return None, NO_PRICE
        if chosen.usd_per_device_hour is not None:
            return rental(chosen.usd_per_device_hour), ""
        assert chosen.price_book is not None  # noqa: S101  one of the two is set (validated on the wire)
        book = self._book(chosen.price_book)
        return (
            price_of_hardware(book, hardware, on)
            if chosen.price_row is None
            else price_of_row(book, chosen.price_row, on)
        )

    def _book(self, reference: str) -> PriceBook:
        if reference not in self._books:
            self._books[reference] = get_price_book(self._session, reference)
        return self._books[reference]
