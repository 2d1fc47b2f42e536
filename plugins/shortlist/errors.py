"""Named errors. Every message says what is wrong, where, and what to do about it."""

from __future__ import annotations


class ShortlistError(Exception):
    """Base of every error that this project raises on purpose."""


class SettingsError(ShortlistError):
    """A settings file has an unknown key, a bad value or does not parse."""


class InputError(ShortlistError):
    """An input file is missing, empty, unreadable, still growing or lacks a column."""


class NoInputError(InputError):
    """There is no input file at all."""


class RejectedRowsError(ShortlistError):
    """More rows were rejected than `[interactions].max_rejected_share` allows."""


class EmptyInteractionsError(ShortlistError):
    """There is nothing to train on, or nothing left on one side of the time split."""


class NothingToDoError(ShortlistError):
    """A normal day without work: the task is skipped with this reason, not failed."""


class ModelVersionError(ShortlistError):
    """A model version is missing, incomplete, corrupt or made from other data."""


class RankerError(ShortlistError):
    """The ranker cannot be trained or applied: one class, ungrouped rows, wrong features."""


class TuningError(ShortlistError):
    """There is nothing to tune on, or the settings in use cannot be tried."""


class AuditError(ShortlistError):
    """A loaded generation breaks a rule and was not published."""


class GateRefusedError(ShortlistError):
    """The challenger is worse than what it would replace; what is served stays."""


class PublishError(ShortlistError):
    """A generation cannot be loaded, published or rolled back in its present state."""


class DatabaseUnavailableError(ShortlistError):
    """PostgreSQL cannot be reached or refuses the login."""


class UserFileError(ShortlistError):
    """A file that may hold a forgotten user cannot be rewritten here: a person must do it."""


class FeatureStoreError(ShortlistError):
    """Redis cannot be reached, refuses, or lost what was being written; what was served stays."""


class FeatureMemoryError(ShortlistError):
    """The features would not fit into Redis and were not written."""


class MessageError(ShortlistError):
    """A notification could not be delivered. Never holds the bot token."""


class TrackingError(ShortlistError):
    """MLflow cannot be reached, is silent or refuses. Nothing that is served depends on it."""


class JobError(ShortlistError):
    """A container job failed, or the engine refused it. Its container is gone."""


class CrawlError(ShortlistError):
    """The catalogue's source is away, forbids it, or what it gave is no complete catalogue; the last one stays."""


class SearchIndexError(ShortlistError):
    """Elasticsearch cannot be reached, refuses or lost documents; what was searched stays."""


class ServiceError(ShortlistError):
    """The service cannot be reached or refuses."""


class ObjectStorageError(ShortlistError):
    """Object storage cannot be reached, is silent or refuses. Never holds a key."""


class DatasetError(ShortlistError):
    """A version of a data set cannot be made or read: the repository or what it names is away or refuses."""


class SetupError(ShortlistError):
    """The machine lacks something the embedded mode needs (Java, a port, disk, a Python version)."""
