"""How a model is served: the options of `heedful serve`."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Literal

from heedful.config import Config, option, require
from heedful.errors import ConfigError

__all__ = ["ServeConfig", "is_loopback"]


@dataclass(frozen=True, kw_only=True)
class ServeConfig(Config):
    """How a model is served."""

    host: str = option("127.0.0.1", "address to listen on; any but a loopback address needs --keys")
    port: int = option(8000, "port to listen on; 0: any free one")
    database: str = option("heedful.sqlite", "SQLite file or PostgreSQL URL for events, impressions and clicks")
    state: str | None = option(
        None, "folder for what the server has to remember, such as added items; default: DATABASE.state, or heedful.state"
    )
    slots: str | None = option(None, "TOML file that declares the content slots; made when the page saves the first slot")
    keys: str | None = option(None, "file of API keys, as `heedful key` writes it; none: open to whoever reaches the port")
    live_popularity: bool = option(True, "count the events that arrive, each minute, and rank by what is popular now")
    workers: int = option(1, "processes that answer requests; they share the memory-mapped table")
    threads: int = option(0, "requests that a worker computes at once; 0: the machine's cores divided by the workers")
    max_body: int = option(4 * 2**20, "bytes of a request's body")
    max_history: int = option(1000, "actions of a user that are looked at, the latest; a request may not bring more")
    max_candidates: int = option(5000, "candidates in a request")
    max_items: int = option(1000, "items in an answer")
    max_events: int = option(10_000, "events in a request")
    rate: float = option(200.0, "requests a second from one API key or address to one worker; 0: no limit")
    burst: int = option(400, "requests that may come at once before --rate holds")
    body_seconds: float = option(10.0, "for a client to send a request")
    request_seconds: float = option(30.0, "for a request altogether, reading the answer included")
    idle_seconds: int = option(30, "until a connection that asks for nothing is closed")
    start_seconds: float = option(300.0, "for a worker to start; one that takes longer is started again")
    drain_seconds: int = option(20, "for requests under way when the server is told to stop")
    connections: int = option(1000, "connections to a worker; those beyond are answered 503")
    log_level: Literal["debug", "info", "warning", "error"] = option(
        "info", "what is logged; info: a line for each request, warning: only what went wrong"
    )

    def __post_init__(self) -> None:
        """Check every option."""
        require(0 <= self.port <= 65_535, "port", got=self.port, expected="0 to 65535")
        for name in ("workers", "max_body", "max_history", "max_candidates", "max_items", "max_events",
                     "burst", "idle_seconds", "drain_seconds", "connections"):  # fmt: skip
            require(getattr(self, name) >= 1, name, got=getattr(self, name), expected="1 or more")
        for name in ("threads", "rate"):
            require(getattr(self, name) >= 0, name, got=getattr(self, name), expected="0 or more")
        for name in ("body_seconds", "request_seconds", "start_seconds"):
            require(getattr(self, name) > 0, name, got=getattr(self, name), expected="more than 0")
        if self.keys is None and not is_loopback(self.host):
            raise ConfigError(
                "without API keys the server listens on this machine alone",
                got=f"host {self.host}",
                expected="127.0.0.1, ::1 or localhost",
                fix="make a key with `heedful key NAME --keys FILE` and serve with --keys FILE",
            )


def is_loopback(host: str) -> bool:
    """Whether an address or name can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
