"""Which treatment a user gets: a salted hash, so that users stay in theirs without anything being stored.

A user has one place in [0, 1) for each salt. The treatments take consecutive parts of that line in the order in which they
are declared, each as long as its share. Hence a change of shares moves only users near the borders: a treatment that is
appended and takes its share from the last one moves users of the last one alone. Another salt deals all users again,
independently of every other salt.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

from heedful.errors import ConfigError

__all__ = ["assign", "check_shares", "place"]

_TOLERANCE = 1e-6


def place(user_id: str, salt: str) -> float:
    """The user's place in [0, 1) under this salt: the first 53 bits of BLAKE2b, keyed by the salt's own hash."""
    key = hashlib.blake2b(salt.encode("utf-8", "surrogatepass"), digest_size=32).digest()
    digest = hashlib.blake2b(user_id.encode("utf-8", "surrogatepass"), digest_size=8, key=key).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def assign(user_id: str, salt: str, shares: Mapping[str, float]) -> str:
    """The treatment of a user.

    Args:
        user_id: the user.
        salt: names the experiment.
        shares: traffic share of each treatment, which sum to 1; see `check_shares`.
    """
    where, end = place(user_id, salt), 0.0
    for treatment, share in shares.items():
        end += share
        if where < end and share > 0:
            return treatment
    return [name for name, share in shares.items() if share > 0][-1]


def check_shares(shares: Mapping[str, float], *, owner: str) -> None:
    """Raise `ConfigError` unless the shares are numbers from 0 to 1 that sum to 1."""
    if not shares:
        raise ConfigError(f"{owner} has no treatments", expected="such as treatments = { model = 0.5, popularity = 0.5 }")
    for name, share in shares.items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise ConfigError(f"{owner}: the share of treatment {name!r} is out of range", got=share, expected="0 to 1")
    total = math.fsum(shares.values())
    if abs(total - 1) > _TOLERANCE:
        raise ConfigError(
            f"the shares of {owner} do not add up",
            got=f"{' + '.join(f'{share:g}' for share in shares.values())} = {total:g}",
            expected="1",
            fix="change one of them",
        )
