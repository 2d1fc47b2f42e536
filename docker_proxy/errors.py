"""What the proxy says no to, and why."""

from __future__ import annotations


class ProxyError(Exception):
    """Base of every error that the proxy raises on purpose."""


class ProxySettingsError(ProxyError):
    """`config/containers.toml` or the environment has an unknown key or a bad value."""


class EngineError(ProxyError):
    """The engine does not answer, or not with HTTP."""


class RefusedError(ProxyError):
    """A request that is not let through.

    Attributes:
        status: Of the HTTP answer.
    """

    def __init__(self, sentence: str, status: int = 403) -> None:
        super().__init__(sentence)
        self.status = status
