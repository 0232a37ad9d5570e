"""How tables of an older version become those of the next; docs/store.md tells when."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, Select, false, func, literal, select, text, tuple_, update
from sqlalchemy.sql.expression import and_, or_

from heedful.serving.bots import DEFAULT_BOT_RULES
from heedful.serving.click_counts import SIMULATED
from heedful.serving.counting import tireless
from heedful.serving.impressions import shown_by_user
from heedful.serving.tables import (
    click_counts,
    clicks,
    experiments,
    impressions,
    metadata,
    repeated_clicks,
    slot_versions,
    user_counts,
    visitors,
)

__all__ = ["UPGRADES", "count_all"]


def count_all(connection: Connection) -> None:
    """Fill the empty tables of the running sums from all impressions and clicks."""
    theirs = shown_by_user().subquery()
    user, simulated, experiment, treatment, _, *sums = theirs.c
    counted = select(user, simulated, experiment, treatment, *sums)
    connection.execute(user_counts.insert().from_select([column.name for column in user_counts.c], counted))
    everybody = select(*user_counts.c["user_id", "simulated"], false(), false()).distinct()
    connection.execute(visitors.insert().from_select([column.name for column in visitors.c], everybody))
    this = tuple_(visitors.c.user_id, visitors.c.simulated)
    connection.execute(update(visitors).where(this.in_(tireless())).values(tireless=True))
    connection.execute(update(visitors).where(or_(visitors.c.tireless, this.in_(_eager()))).values(bot=True))
    times = select(impressions.c.experiment, func.max(impressions.c.shown_time).label("latest"))
    latest = times.group_by(impressions.c.experiment).subquery()
    key = (*user_counts.c["experiment", "treatment"], visitors.c.bot, *user_counts.c["shown", "clicked"])
    of_all = (func.count(), func.sum(user_counts.c.further), func.sum(user_counts.c.repeated), func.max(latest.c.latest))
    same = and_(visitors.c.user_id == user_counts.c.user_id, visitors.c.simulated == user_counts.c.simulated)
    found = select(*key, *of_all).join(visitors, same).join(latest, latest.c.experiment == user_counts.c.experiment)
    names = [column.name for column in click_counts.c]
    connection.execute(click_counts.insert().from_select(names, found.group_by(*key)))


def _eager() -> Select[tuple[str, bool]]:
    shown, clicked = func.sum(user_counts.c.shown), func.sum(user_counts.c.clicked)
    rules = DEFAULT_BOT_RULES
    found = select(*user_counts.c["user_id", "simulated"]).group_by(*user_counts.c["user_id", "simulated"])
    return found.having(and_(shown >= rules.impressions, clicked > rules.click_share * shown))


def _to_2(connection: Connection) -> None:
    """Experiments, running sums, ids of repeated clicks, versions of the slots; what was clicked was shown."""
    added = [repeated_clicks, experiments, visitors, user_counts, click_counts, slot_versions]
    metadata.create_all(connection, tables=added)
    connection.execute(text("ALTER TABLE heedful_impressions ADD COLUMN experiment BIGINT NOT NULL DEFAULT 0"))
    connection.execute(text("DROP INDEX IF EXISTS ix_heedful_impressions_user_id"))
    next(index for index in impressions.indexes if index.name == "heedful_impressions_user").create(connection)
    first = select(func.min(clicks.c.time)).where(clicks.c.impression == impressions.c.id).scalar_subquery()
    unseen = and_(impressions.c.shown_time.is_(None), impressions.c.id.in_(select(clicks.c.impression)))
    connection.execute(update(impressions).where(unseen).values(shown_time=first))
    simulated = func.substr(impressions.c.model, 1, len(SIMULATED)) == SIMULATED
    key = (*impressions.c["slot", "salt"], simulated)
    known = (
        select(*key[:2], literal(""), simulated, func.min(impressions.c.time))
        .group_by(*key)
        .order_by(func.min(impressions.c.id))
    )
    names = ["slot", "salt", "shares", "simulated", "begun"]
    connection.execute(experiments.insert().from_select(names, known))
    same = and_(experiments.c.slot == key[0], experiments.c.salt == key[1], experiments.c.simulated == simulated)
    connection.execute(update(impressions).values(experiment=select(experiments.c.id).where(same).scalar_subquery()))
    count_all(connection)


UPGRADES: dict[int, tuple[str | Callable[[Connection], None], ...]] = {1: (_to_2,)}
"""Statements for both systems, or functions, that make tables of a version those of the next."""
