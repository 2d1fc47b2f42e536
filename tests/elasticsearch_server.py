"""A stand-in for Elasticsearch on this machine: a small part of its documented HTTP API, which keeps what it is sent.

The real server is in no package registry. This one takes only what it knows, knows the mappings it was given, shows
documents only after a refresh, and answers with the header by which the official client knows its server.
"""

from __future__ import annotations

import base64
import fnmatch
import json
import re
import socket
import threading
import time
import unicodedata
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

USER, PASSWORD = "elastic", "p@ss/word"

_JSON = "application/vnd.elasticsearch+json; compatible-with=9"
_LINES = "application/vnd.elasticsearch+x-ndjson; compatible-with=9"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


class Refused(Exception):
    """What the server answers instead."""

    def __init__(self, status: int, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.kind = status, kind


def bad(reason: str) -> Refused:
    return Refused(400, "illegal_argument_exception", reason)


class Index:
    def __init__(self, settings: dict[str, Any], mappings: dict[str, Any]) -> None:
        self.settings, self.mappings = settings, mappings
        self.written: dict[str, dict[str, Any]] = {}
        self.searchable: dict[str, dict[str, Any]] = {}

    def take(self, number: str, document: dict[str, Any], *, create: bool) -> None:
        if create and number in self.written:
            raise Refused(409, "version_conflict_engine_exception", f"[{number}]: version conflict, document exists")
        properties = self.mappings.setdefault("properties", {})
        for name, value in document.items():
            if name not in properties and self.mappings.get("dynamic") is False:
                continue
            if name not in properties:
                if self.mappings.get("dynamic") == "strict":
                    raise Refused(400, "strict_dynamic_mapping_exception", f"introduction of [{name}] is not allowed")
                properties[name] = {"type": "text", "fields": {"keyword": {"type": "keyword", "ignore_above": 256}}}
                if isinstance(value, bool | int | float):
                    properties[name] = {"type": "boolean" if isinstance(value, bool) else "double"}
            fits = {"boolean": bool, "double": int | float, "long": int}.get(properties[name]["type"], str)
            if not isinstance(value, fits):
                raise Refused(400, "document_parsing_exception", f"failed to parse field [{name}]")
        self.written[number] = document
        if self.settings.get("refresh_interval") != "-1":
            self.refresh()

    def refresh(self) -> None:
        self.searchable = dict(self.written)

    def field(self, name: str) -> dict[str, Any]:
        top, _, below = name.partition(".")
        found: dict[str, Any] = self.mappings["properties"].get(top, {})
        found = found.get("fields", {}).get(below, {}) if below else found
        if not found or found.get("index") is False:
            raise bad(f"field [{name}] cannot be searched")
        return found

    def score(self, query: dict[str, Any], document: dict[str, Any]) -> float | None:
        """None: it does not fit."""
        ((kind, body),) = query.items()
        scorer = getattr(self, f"_{kind}", None)
        if scorer is None:
            raise bad(f"unknown query [{kind}]")
        found: float | None = scorer(body, document)
        return found

    def _bool(self, body: dict[str, Any], document: dict[str, Any]) -> float | None:
        if unknown := body.keys() - {"must", "should", "filter", "minimum_should_match"}:
            raise bad(f"[bool] query does not support {sorted(unknown)}")
        must = [self.score(one, document) for one in body.get("must", [])]
        kept = [self.score(one, document) for one in body.get("filter", [])]
        should = [found for one in body.get("should", []) if (found := self.score(one, document)) is not None]
        least = body.get("minimum_should_match", 0 if must or kept else 1)
        if None in must or None in kept or len(should) < (least if body.get("should") else 0):
            return None
        return sum(found for found in must if found is not None) + sum(should)

    def _constant_score(self, body: dict[str, Any], document: dict[str, Any]) -> float | None:
        assert body.keys() <= {"filter", "boost"}
        return None if self.score(body["filter"], document) is None else float(body.get("boost", 1.0))

    def _term(self, body: dict[str, Any], document: dict[str, Any]) -> float | None:
        ((name, wanted),) = body.items()
        assert self.field(name)["type"] in ("keyword", "boolean")
        return 1.0 if self._value(name, document) == wanted else None

    def _prefix(self, body: dict[str, Any], document: dict[str, Any]) -> float | None:
        ((name, wanted),) = body.items()
        assert self.field(name)["type"] == "keyword"
        value = self._value(name, document)
        return 1.0 if value is not None and value.startswith(wanted["value"]) else None

    def _range(self, body: dict[str, Any], document: dict[str, Any]) -> float | None:
        ((name, wanted),) = body.items()
        return 1.0 if document.get(name, float("-inf")) > wanted["gt"] else None

    def _match_phrase(self, body: dict[str, Any], document: dict[str, Any]) -> float | None:
        ((name, wanted),) = body.items()
        if self.field(name)["type"] == "keyword":
            return 1.0 if document.get(name) == wanted else None
        there = f" {' '.join(words(document.get(name) or ''))} "
        return 1.0 if f" {' '.join(words(wanted))} " in there else None

    def _match(self, body: dict[str, Any], document: dict[str, Any]) -> float | None:
        ((name, wanted),) = body.items()
        assert wanted.keys() == {"query", "operator", "fuzziness"}
        assert self.field(name)["type"] == "text"
        there = words(document.get(name) or "")
        asked = words(wanted["query"])
        fits = asked and all(any(_nearly(word, one) for one in there) for word in asked)
        return float(len(asked)) / (1 + len(there)) if fits else None

    def _match_bool_prefix(self, body: dict[str, Any], document: dict[str, Any]) -> float | None:
        ((name, wanted),) = body.items()
        assert wanted.keys() == {"query", "operator", "boost"}
        assert self.field(name)["type"] == "text"
        there, asked = words(document.get(name) or ""), words(wanted["query"])
        fits = asked and set(asked[:-1]) <= set(there) and any(one.startswith(asked[-1]) for one in there)
        return float(wanted["boost"]) * len(asked) / (1 + len(there)) if fits else None

    def _value(self, name: str, document: dict[str, Any]) -> Any:
        value = document.get(name.partition(".")[0])
        field = self.field(name)
        if isinstance(value, str) and len(value) > field.get("ignore_above", 10_000):
            return None
        return value.lower() if value is not None and field.get("normalizer") == "lowercase" else value


def words(text: str) -> list[str]:
    """As the standard tokenizer with lowercase and asciifolding, nearly."""
    plain = unicodedata.normalize("NFKD", text.lower())
    return re.findall(r"\w+", "".join(one for one in plain if not unicodedata.combining(one)))


def _nearly(asked: str, there: str) -> bool:
    """Fuzziness AUTO: 0, 1 or 2 edits for up to 2, 5 or more letters."""
    most = 0 if len(asked) < 3 else 1 if len(asked) < 6 else 2
    row = list(range(len(there) + 1))
    for place, letter in enumerate(asked, 1):
        row, before = [place], row
        for other, here in enumerate(there, 1):
            row.append(min(before[other] + 1, row[other - 1] + 1, before[other - 1] + (letter != here)))
    return row[-1] <= most


def _sorted_by(by: str, hit: dict[str, Any]) -> Any:
    return hit["_score"] if by == "_score" else hit["_source"][by]


class ElasticsearchServer:
    """Runs inside a `with` block.

    Attributes:
        url: With user and password.
        alias_changes: What aliases were after each change of them.
        requests: Method and path of each request.
        delay: Seconds before every answer.
        broken: Status that every request is answered with, if not 0.
        lossy: Documents that are accepted and lost.
    """

    def __init__(self) -> None:
        self.indices: dict[str, Index] = {}
        self.aliases: dict[str, set[str]] = {}
        self.alias_changes: list[dict[str, set[str]]] = []
        self.requests: list[tuple[str, str]] = []
        self.delay, self.broken, self.lossy = 0.0, 0, 0
        self._lock = threading.RLock()
        self._port = 0
        self._connections: set[socket.socket] = set()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                """Silence."""

            def setup(self) -> None:
                super().setup()
                outer._connections.add(self.connection)

            def finish(self) -> None:
                super().finish()
                outer._connections.discard(self.connection)

            def handle_one(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, answer = outer.answer(self.command, self.path, dict(self.headers), body)
                content = b"" if self.command == "HEAD" else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("X-Elastic-Product", "Elasticsearch")
                self.send_header("Content-Type", _JSON.replace("; ", ";"))
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_one

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        return f"http://{USER}:p%40ss%2Fword@{self.place}"

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        with self._lock:
            self.requests.append((method, path))
        time.sleep(self.delay)
        try:
            if self.broken:
                raise Refused(self.broken, "unavailable_shards_exception", "not today")
            expected = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            if headers.get("Authorization", headers.get("authorization")) != f"Basic {expected}":
                raise Refused(401, "security_exception", "missing authentication credentials")
            with self._lock:
                return 200, self._route(method, path, {name.lower(): text for name, text in headers.items()}, body)
        except Refused as error:
            cause = {"type": error.kind, "reason": str(error)}
            return error.status, {"error": {"root_cause": [cause], **cause}, "status": error.status}
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            cause = {"type": "parsing_exception", "reason": f"not understood: {error!r}"}
            return 400, {"error": {"root_cause": [cause], **cause}, "status": 400}

    def _route(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Any:  # noqa: C901
        split = urlsplit(path)
        given = parse_qs(split.query, strict_parsing=bool(split.query))
        parts = [unquote(part) for part in split.path.strip("/").split("/") if part]
        if body:
            bulk = parts[-1] == "_bulk"
            assert headers["content-type"].replace(";c", "; c") == (_LINES if bulk else _JSON), headers["content-type"]
        if parts and parts[-1] == "_bulk":
            return self._bulk(body, parts[0] if len(parts) == 2 else None)
        told = json.loads(body) if body else {}
        assert not given.keys() - {"_source_includes", "_source"}, given
        match method, parts:
            case ("GET" | "HEAD", []):
                return {"version": {"number": "9.0.0", "build_flavor": "default"}, "tagline": "You Know, for Search"}
            case ("PUT", [name]):
                return self._create(name, told)
            case ("GET", [pattern]):
                return {name: {"aliases": {}} for name in self.indices if fnmatch.fnmatch(name, pattern)}
            case ("DELETE", [names]):
                return self._delete(names)
            case ("PUT", [name, "_settings"]):
                self._index(name).settings.update(told)
                return {"acknowledged": True}
            case ("POST", [name, "_refresh"]):
                self._index(name).refresh()
                return {"_shards": {"total": 1, "successful": 1, "failed": 0}}
            case ("POST" | "GET", [name, "_count"]):
                found = sum(len(index.searchable) for index in self._indices(name))
                return {"count": found, "_shards": {"total": 1, "successful": 1, "skipped": 0, "failed": 0}}
            case ("GET", ["_alias", name]):
                if not self.aliases.get(name):
                    raise Refused(404, "aliases_not_found_exception", f"alias [{name}] missing")
                return {index: {"aliases": {name: {}}} for index in self.aliases[name]}
            case ("POST", ["_aliases"]):
                return self._change_aliases(told["actions"])
            case ("POST", [name, "_search"]):
                return self._search(name, told)
        raise bad(f"no handler found for uri [{path}] and method [{method}]")

    def _index(self, name: str) -> Index:
        if name not in self.indices:
            raise Refused(404, "index_not_found_exception", f"no such index [{name}]")
        return self.indices[name]

    def _indices(self, name: str) -> list[Index]:
        names = self.aliases.get(name) or {one for one in self.indices if fnmatch.fnmatch(one, name)}
        if not names:
            raise Refused(404, "index_not_found_exception", f"no such index [{name}]")
        return [self.indices[one] for one in names]

    def _create(self, name: str, told: dict[str, Any]) -> dict[str, Any]:
        if not _NAME.fullmatch(name):
            raise Refused(400, "invalid_index_name_exception", f"Invalid index name [{name}], must be lowercase")
        if name in self.indices or self.aliases.get(name):
            raise Refused(400, "resource_already_exists_exception", f"index [{name}] already exists")
        assert told.keys() <= {"settings", "mappings"}
        self.indices[name] = Index(told.get("settings", {}), told.get("mappings", {}))
        return {"acknowledged": True, "shards_acknowledged": True, "index": name}

    def _delete(self, names: str) -> dict[str, Any]:
        for name in names.split(","):
            if "*" in name:
                raise bad("Wildcard expressions or all indices are not allowed")
            if self.aliases.get(name):
                raise bad(f"The provided expression [{name}] matches an alias, specify the corresponding indices")
            self._index(name)
        for name in names.split(","):
            del self.indices[name]
            for alias in self.aliases.values():
                alias.discard(name)
        return {"acknowledged": True}

    def _change_aliases(self, actions: list[dict[str, Any]]) -> dict[str, Any]:
        changed = {name: set(indices) for name, indices in self.aliases.items()}
        for action in actions:
            ((kind, told),) = action.items()
            assert kind in ("add", "remove"), kind
            assert told.keys() == {"index", "alias"}, told
            self._index(told["index"])
            if told["alias"] in self.indices:
                raise Refused(400, "invalid_alias_name_exception", "an index exists with the same name as the alias")
            indices = changed.setdefault(told["alias"], set())
            if kind == "remove" and told["index"] not in indices:
                raise Refused(404, "aliases_not_found_exception", f"aliases [{told['alias']}] missing")
            (indices.add if kind == "add" else indices.remove)(told["index"])
        self.aliases = changed
        self.alias_changes.append({name: set(indices) for name, indices in changed.items()})
        return {"acknowledged": True, "errors": False}

    def _bulk(self, body: bytes, default: str | None) -> dict[str, Any]:
        assert body.endswith(b"\n")
        lines = [json.loads(line) for line in body.splitlines()]
        results = []
        for head, document in zip(lines[::2], lines[1::2], strict=True):
            ((kind, told),) = head.items()
            assert kind in ("create", "index"), kind
            name = told.get("_index", default)
            # As the real server: an index that is not there is made, without any mapping.
            index = self.indices.setdefault(name, Index({}, {}))
            number = told.get("_id") or f"generated-{len(index.written)}"
            try:
                if len(number.encode()) > 512:
                    raise bad(f"id [{number}] is too long, must be no longer than 512 bytes")
                if self.lossy:
                    self.lossy -= 1
                else:
                    index.take(number, document, create=kind == "create")
                results.append({kind: {"_index": name, "_id": number, "status": 201}})
            except Refused as error:
                told = {"type": error.kind, "reason": str(error)}
                results.append({kind: {"_index": name, "_id": number, "status": error.status, "error": told}})
        errors = any("error" in result for one in results for result in one.values())
        return {"took": 1, "errors": errors, "items": results}

    def _search(self, name: str, told: dict[str, Any]) -> dict[str, Any]:
        assert told.keys() <= {"query", "sort", "size", "from", "_source"}, told.keys()
        found: list[dict[str, Any]] = []
        for index in self._indices(name):
            for number, document in index.searchable.items():
                score = index.score(told["query"], document)
                if score is not None:
                    found.append({"_index": name, "_id": number, "_score": score, "_source": document})
        for key in reversed(told.get("sort", ["_score"])):
            by = key if isinstance(key, str) else next(iter(key))
            found.sort(key=partial(_sorted_by, by), reverse=by == "_score")
        first = told.get("from", 0)
        hits = found[first : first + told.get("size", 10)]
        if fields := told.get("_source"):
            assert fields.keys() == {"includes"}
            for hit in hits:
                hit["_source"] = {key: text for key, text in hit["_source"].items() if key in fields["includes"]}
        return {
            "took": 1,
            "timed_out": False,
            "_shards": {"total": 1, "successful": 1, "skipped": 0, "failed": 0},
            "hits": {"total": {"value": len(found), "relation": "eq"}, "max_score": None, "hits": hits},
        }
