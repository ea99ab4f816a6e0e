"""A shop on SQLAlchemy: rows that are claimed, a lock in a transaction, and a lock around many.

usage: python app.py fill | work | transfer | report
"""

from __future__ import annotations

import os
import sys

from sqlalchemy import create_engine, func, make_url, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from advlock import Locks
from advlock.sqlalchemy import claim, xact_lock

engine = create_engine(make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+psycopg"))


class Base(DeclarativeBase):
    """The tables of the shop."""


class Parcel(Base):
    """What is to be sent."""

    __tablename__ = "parcel"
    id: Mapped[int] = mapped_column(primary_key=True)
    sent: Mapped[bool] = mapped_column(default=False)


class Account(Base):
    """Who has how much."""

    __tablename__ = "account"
    name: Mapped[str] = mapped_column(primary_key=True)
    amount: Mapped[int]


def fill() -> None:
    """Make the tables, with what is in them."""
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add_all(Parcel() for _ in range(6))
        session.add_all([Account(name="ada", amount=100), Account(name="alan", amount=0)])


def work() -> None:
    """Send parcels until all are sent, or in somebody's hands."""
    waiting = select(Parcel).where(~Parcel.sent).order_by(Parcel.id)
    while True:
        with Session(engine) as session, session.begin():
            parcels = claim(session, waiting, limit=1)
            for parcel in parcels:
                print(f"parcel {parcel.id}", flush=True)
                parcel.sent = True  # in the transaction that has claimed it
        if not parcels:
            return


def transfer() -> None:
    """Move money, as nobody else does at the same time: lock first, then load."""
    for _ in range(10):
        with Session(engine) as session, session.begin():
            xact_lock(session, "accounts", wait="10s")
            ada, alan = session.get_one(Account, "ada"), session.get_one(Account, "alan")
            ada.amount -= 1
            alan.amount += 1


def report() -> None:
    """Do something long, with as many transactions as it takes: the lock is not on a session."""
    with Locks.from_engine(engine) as locks, locks.attempt("report") as held:
        if held is None:
            return
        with Session(engine) as session:
            sent = session.scalar(select(func.count()).where(Parcel.sent))
            session.commit()
            held.check()  # still ours: a commit has nothing to do with it
            amounts = {each.name: each.amount for each in session.scalars(select(Account))}
            print(f"{sent} parcels sent, {amounts}")


if __name__ == "__main__":
    {"fill": fill, "work": work, "transfer": transfer, "report": report}[sys.argv[1]]()
