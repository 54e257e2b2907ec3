"""Client of a blueprint-runner gateway. Standard library only; Python 3.9 or newer.

    from blueprint_runner import Gateway

    gateway = Gateway("http://127.0.0.1:8080")
    gateway.deploy("hello", open("handler.zip", "rb").read(), runtime="nodejs24.x", handler="index.handler")
    print(gateway.invoke("hello", {"name": "Ada"}).output)
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import socket
import ssl
import struct
import time
import urllib.parse
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional

__all__ = ["Answer", "Channel", "Gateway", "GatewayError"]

_BASE = "/api/v1"
_RETRY_SECONDS_MAX = 5.0
_FAILURES_MAX = 10
# With these a call has provably not reached its function.
_NOT_BEGUN = {"RATE_LIMITED", "QUEUE_FULL", "QUEUE_TIMEOUT", "EXECUTOR_THROTTLED", "EXECUTOR_CLOSED"}


class GatewayError(Exception):
    """A refusal or a failure that the gateway told; `code` is one of ERRORS.md, or UNREACHABLE when no answer came."""

    def __init__(self, message: str, code: str, status: int = 0, details: Any = None, request_id: Optional[str] = None):
        super().__init__(message)
        self.code = code
        self.status = status
        self.details = details
        self.request_id = request_id


@dataclass(frozen=True)
class Answer:
    """What a function returned, and what it took."""

    output: Any
    request_id: str
    instance_id: str
    cold_start: bool
    run_ms: float
    executed_version: str


class Gateway:
    """Deploys, calls and watches functions. Reads are tried again; a call only when it was refused before it reached a function."""

    def __init__(
        self,
        url: str,
        key: Optional[str] = None,
        timeout: float = 900.0,
        retries: int = 2,
        ssl_context: Optional[ssl.SSLContext] = None,
    ):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise ValueError(f"{url!r} is not the URL of a gateway")
        self._parts = parts
        self._key = key
        self._timeout = timeout
        self._retries = retries
        self._ssl = ssl_context

    # Functions

    def deploy(self, name: str, package: bytes, environment: Optional[Mapping[str, str]] = None, **settings: Any) -> Dict[str, Any]:
        """Puts a zip under a name: new, or in place of the one that is there. Settings are those of the API, such as memory_mb."""
        path = f"/functions/{_quote(name)}"
        if environment is None:
            return self._json("PUT", path, query=settings, body=package, content_type="application/zip", safe=True)
        # Values of variables have no place in an address, and no call is to run the code without them.
        given = {setting: value for setting, value in settings.items() if value is not None}
        document = {"zip": base64.b64encode(package).decode(), "environment": dict(environment), **given}
        return self._json("PUT", path, body=_encode(document), safe=True)

    def create(self, name: str, package: Optional[bytes] = None, image: Optional[Mapping[str, Any]] = None, **settings: Any) -> Dict[str, Any]:
        """Fails with FUNCTION_EXISTS when there is one of that name."""
        code = {"zip": base64.b64encode(package).decode()} if package is not None else {"image": image}
        return self._json("POST", "/functions", document={"name": name, **code, **settings})

    def update(self, name: str, **changes: Any) -> Dict[str, Any]:
        return self._json("PATCH", f"/functions/{_quote(name)}", document=changes)

    def publish(self, name: str, description: Optional[str] = None) -> Dict[str, Any]:
        return self._json("POST", f"/functions/{_quote(name)}/versions", document={} if description is None else {"description": description})

    def remove(self, name: str, qualifier: Optional[str] = None) -> None:
        self._send("DELETE", f"/functions/{_quote(name)}", query={"qualifier": qualifier})

    def describe(self, name: str, qualifier: Optional[str] = None) -> Dict[str, Any]:
        return self._json("GET", f"/functions/{_quote(name)}", query={"qualifier": qualifier}, safe=True)

    def versions(self, name: str) -> List[Dict[str, Any]]:
        return self._json("GET", f"/functions/{_quote(name)}/versions", safe=True)["functions"]

    def code(self, name: str, qualifier: Optional[str] = None) -> bytes:
        """The package as it was uploaded."""
        return self._send("GET", f"/functions/{_quote(name)}/code", query={"qualifier": qualifier}, safe=True)[2]

    def functions(self) -> Iterator[Dict[str, Any]]:
        """All functions by name, page by page."""
        after: Optional[str] = None
        while True:
            page = self._json("GET", "/functions", query={"after": after, "limit": 100}, safe=True)
            yield from page["functions"]
            after = page.get("next")
            if after is None:
                return

    # Calls

    def invoke(self, name: str, event: Any = None, qualifier: Optional[str] = None, timeout_ms: Optional[int] = None) -> Answer:
        """Calls a function with JSON and waits for its JSON."""
        headers = {} if timeout_ms is None else {"x-timeout-ms": str(timeout_ms)}
        _, given, body = self._send(
            "POST", f"/functions/{_quote(name)}/invoke", query={"qualifier": qualifier}, document=event, headers=headers
        )
        return Answer(
            output=_json_of(body) if body else None,
            request_id=given.get("x-invocation-id", ""),
            instance_id=given.get("x-instance-id", ""),
            cold_start=given.get("x-cold-start") == "true",
            run_ms=float(given.get("x-run-ms", "0")),
            executed_version=given.get("x-executed-version", ""),
        )

    def stream(self, name: str, event: Any = None, qualifier: Optional[str] = None) -> Iterator[bytes]:
        """The answer while it is written. A function that breaks off raises."""
        headers = {"accept": "text/event-stream"}
        path = f"/functions/{_quote(name)}/stream"
        response = self._begin("POST", path, query={"qualifier": qualifier}, document=event, headers=headers, read=lambda answer: answer)
        try:
            for kind, data in _events(response):
                if kind == "chunk":
                    yield base64.b64decode(data)
                elif kind == "error":
                    raise _error(data.encode(), 200)
                elif kind == "end":
                    return
            raise GatewayError("the answer broke off", "UNREACHABLE")
        finally:
            response.close()

    def execute(self, payload: Any = None, package: Optional[bytes] = None, idempotency_key: Optional[str] = None, **options: Any) -> Dict[str, Any]:
        """Runs a deployed function (function="name"), or code that is sent along (package). mode: cached or ephemeral.
        The event is payload, or the bytes of payload_base64."""
        document = {**options}
        if payload is not None or "payload_base64" not in options:
            document["payload"] = payload
        if package is not None:
            document["zip"] = base64.b64encode(package).decode()
        if idempotency_key is not None:
            document["idempotency_key"] = idempotency_key
        return self._json("POST", "/execute", document=document, safe=idempotency_key is not None)

    # Logs and instances

    def logs(self, name: str, limit: Optional[int] = None, since: Optional[str] = None, instance: Optional[str] = None) -> List[Dict[str, Any]]:
        query = {"limit": limit, "since": since, "instance": instance}
        return self._json("GET", f"/functions/{_quote(name)}/logs", query=query, safe=True)["lines"]

    def instances(self, function: Optional[str] = None) -> List[Dict[str, Any]]:
        return self._json("GET", "/instances", query={"function": function}, safe=True)["instances"]

    def instance(self, instance_id: str) -> Dict[str, Any]:
        return self._json("GET", f"/instances/{_quote(instance_id)}", safe=True)

    def stop_instance(self, instance_id: str) -> None:
        self._send("DELETE", f"/instances/{_quote(instance_id)}")

    def warm(self, function: str, count: int = 1) -> List[Dict[str, Any]]:
        return self._json("POST", "/instances/warm", document={"function": function, "count": count}, safe=True)["instances"]

    def drain(self, function: str) -> int:
        """How many instances end, at once or after their call."""
        return self._json("POST", "/instances/drain", document={"function": function}, safe=True)["instances"]

    # The gateway

    def info(self) -> Dict[str, Any]:
        return self._json("GET", "/info", safe=True)

    def healthy(self) -> bool:
        return self._ok("/healthz")

    def ready(self) -> bool:
        return self._ok("/readyz")

    def metrics(self) -> str:
        return self._send("GET", "/metrics", base="", safe=True)[2].decode()

    def openapi(self) -> Dict[str, Any]:
        return self._json("GET", "/openapi.json", base="", safe=True)

    def connect(self) -> "Channel":
        """A WebSocket: live logs and events, streamed calls that survive a lost connection."""
        return Channel(self._parts, self._key, self._timeout, self._ssl)

    def _ok(self, path: str) -> bool:
        try:
            response = self._open("GET", path, {}, None, {}, base="")
            response.read()
            return response.status == 200
        except (OSError, http.client.HTTPException):
            return False

    def _json(self, method: str, path: str, **options: Any) -> Any:
        return _json_of(self._send(method, path, **options)[2])

    def _send(self, method: str, path: str, **options: Any) -> Any:
        def read(response: Any) -> Any:
            with response:
                return response.status, response.headers, response.read()

        return self._begin(method, path, read=read, **options)

    def _begin(
        self,
        method: str,
        path: str,
        *,
        read: Callable[[Any], Any],
        query: Optional[Mapping[str, Any]] = None,
        document: Any = None,
        body: Optional[bytes] = None,
        content_type: str = "application/json",
        headers: Optional[Mapping[str, str]] = None,
        base: str = _BASE,
        safe: bool = False,
    ) -> Any:
        data = body if body is not None else (_encode(document) if method in ("POST", "PATCH") else None)
        attempt = 0
        while True:
            attempt += 1
            wait = min(_RETRY_SECONDS_MAX, 0.1 * 2**attempt)
            try:
                response = self._open(method, path, query or {}, data, {"content-type": content_type, **(headers or {})}, base)
                if response.status < 300:
                    return read(response)
                with response:
                    error = _error(response.read(), response.status)
                after = response.headers.get("retry-after", "")
                if after.isdigit():
                    wait = min(_RETRY_SECONDS_MAX, float(after))
            except (OSError, http.client.HTTPException) as cause:
                error = self._unreachable(cause)
                error.__cause__ = cause
            again = error.status == 429 or error.code in _NOT_BEGUN or (safe and error.status in (0, 503))
            if not again or attempt > self._retries:
                raise error
            time.sleep(wait)

    def _unreachable(self, cause: Exception) -> GatewayError:
        return GatewayError(f"{self._parts.geturl()} does not answer: {cause}", "UNREACHABLE")

    def _open(self, method: str, path: str, query: Mapping[str, Any], body: Optional[bytes], headers: Mapping[str, str], base: str = _BASE) -> Any:
        pairs = {name: _text(value) for name, value in query.items() if value is not None}
        target = self._parts.path.rstrip("/") + base + path + (f"?{urllib.parse.urlencode(pairs)}" if pairs else "")
        connection: http.client.HTTPConnection
        if self._parts.scheme == "https":
            connection = http.client.HTTPSConnection(self._parts.hostname or "", self._parts.port, timeout=self._timeout, context=self._ssl)
        else:
            connection = http.client.HTTPConnection(self._parts.hostname or "", self._parts.port, timeout=self._timeout)
        key = {} if self._key is None else {"authorization": f"Bearer {self._key}"}
        # One connection for each request: nothing is sent on one that the gateway has just closed.
        connection.request(method, target, body=body, headers={**headers, **key, "connection": "close"})
        return connection.getresponse()


class Channel:
    """Messages over one WebSocket (RFC 6455), for one use at a time. A stream whose connection is lost goes on where it was; who ends its
    loop gives the call up."""

    def __init__(self, parts: Any, key: Optional[str], timeout: float, ssl_context: Optional[ssl.SSLContext]):
        self._parts = parts
        self._key = key
        self._timeout = timeout
        self._ssl = ssl_context
        self._socket: Optional[socket.socket] = None
        self._buffer = bytearray()
        self._parts_in: List[bytes] = []
        self._count = 0

    def __enter__(self) -> "Channel":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def logs(self, function: str, since: Optional[str] = None) -> Iterator[Dict[str, Any]]:
        """Lines as they are written, after `since` when that is given."""
        yield from self._subscribe({"topic": "logs", "function": function}, since)

    def events(self, topic: str, function: Optional[str] = None, since: Optional[str] = None) -> Iterator[Dict[str, Any]]:
        """What happens to instances, or to calls (topic "invocations": queued, started, finished with outcome and report)."""
        wanted = {"topic": topic} if function is None else {"topic": topic, "function": function}
        yield from self._subscribe(wanted, since)

    def stream(self, function: str, payload: Any = None, qualifier: Optional[str] = None) -> Iterator[bytes]:
        """As Gateway.stream; no chunk is lost or comes twice when the connection is lost."""
        call = self._new_id()
        message = {"type": "invoke", "id": call, "function": function, "payload": payload}
        stream: Optional[str] = None
        last = 0
        failures = 0
        self._look()
        try:
            self.send(message if qualifier is None else {**message, "qualifier": qualifier})
        except OSError as cause:
            self.close()
            raise GatewayError(f"the WebSocket cannot be used: {cause}", "UNREACHABLE") from cause
        over = False
        lost = False
        try:
            while True:
                try:
                    if lost:
                        self.send({"type": "resume", "id": call, "stream": stream, "after": last})
                        lost = False
                    answer = self.receive()
                except (OSError, EOFError) as cause:
                    failures += 1
                    if stream is None or failures > _FAILURES_MAX:
                        raise GatewayError("the WebSocket was lost", "UNREACHABLE") from cause
                    lost = True
                    self._pause(failures)
                    continue
                if answer.get("id") != call:
                    continue
                kind = answer["type"]
                over = kind in ("end", "error")
                if kind == "started":
                    stream = answer["stream"]
                elif kind == "chunk" and answer["seq"] == last + 1:
                    last = answer["seq"]
                    failures = 0
                    yield base64.b64decode(answer["data"])
                elif kind == "end":
                    return
                elif kind == "error":
                    raise _error(json.dumps(answer).encode(), 200)
        finally:
            if not over:
                self._tell({"type": "cancel", "id": call})

    def send(self, message: Mapping[str, Any]) -> None:
        self._connect()
        self._frame(1, json.dumps(message).encode())

    def receive(self) -> Dict[str, Any]:
        """The next message. Raises EOFError when the connection is closed."""
        self._connect()
        while True:
            message = self._read_frame()
            if message is not None:
                return message

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._buffer.clear()
        self._parts_in = []

    def _subscribe(self, wanted: Mapping[str, Any], since: Optional[str]) -> Iterator[Dict[str, Any]]:
        name = self._new_id()
        last = since
        failures = 0
        over = False
        self._look()
        try:
            while True:
                try:
                    self.send({"type": "subscribe", "id": name, **wanted, **({} if last is None else {"since": last})})
                    while True:
                        message = self.receive()
                        if message.get("id") != name:
                            continue
                        failures = 0
                        if message["type"] == "error":
                            over = True
                            raise _error(json.dumps(message).encode(), 200)
                        if message["type"] == "subscribed" and last is None:
                            last = message["event_id"]
                        if message["type"] == "event":
                            last = message["event_id"]
                            yield message["event"]
                except (OSError, EOFError) as cause:
                    failures += 1
                    if failures > _FAILURES_MAX:
                        raise GatewayError("the WebSocket was lost", "UNREACHABLE") from cause
                    self._pause(failures)
        finally:
            if not over:
                self._tell({"type": "unsubscribe", "id": name})

    def _pause(self, failures: int) -> None:
        self.close()
        time.sleep(min(_RETRY_SECONDS_MAX, 0.05 * 2**failures))

    def _tell(self, message: Mapping[str, Any]) -> None:
        """Only over a connection that there is."""
        if self._socket is None:
            return
        try:
            self.send(message)
        except OSError:
            self.close()

    def _look(self) -> None:
        """Takes what came while nobody asked: pings are answered, and a connection that is over is opened again with the next message."""
        try:
            while self._socket is not None and self._has_more(self._socket):
                self._read_frame()
        except (OSError, EOFError):
            self.close()

    def _has_more(self, own: socket.socket) -> bool:
        if self._buffer:
            return True
        own.settimeout(0)
        try:
            self._fill(own)
            return True
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        finally:
            own.settimeout(self._timeout)

    def _read_frame(self) -> Optional[Dict[str, Any]]:
        """The message that ends with the next frame."""
        first, second = self._exactly(2)
        length = second & 127
        if length == 126:
            (length,) = struct.unpack(">H", self._exactly(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", self._exactly(8))
        data = self._exactly(length)
        code = first & 15
        if code == 8:
            raise EOFError(f"the gateway closed the WebSocket: {data[2:].decode(errors='replace')}")
        if code == 9:
            self._frame(10, data)
        if code not in (0, 1):
            return None
        self._parts_in.append(data)
        if not first & 128:
            return None
        parts, self._parts_in = self._parts_in, []
        message: Dict[str, Any] = json.loads(b"".join(parts))
        return message

    def _new_id(self) -> str:
        self._count += 1
        return f"p{self._count}"

    def _connect(self) -> None:
        if self._socket is not None:
            return
        secure = self._parts.scheme == "https"
        host, port = self._parts.hostname, self._parts.port or (443 if secure else 80)
        plain = socket.create_connection((host, port), timeout=self._timeout)
        own = (self._ssl or ssl.create_default_context()).wrap_socket(plain, server_hostname=host) if secure else plain
        nonce = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET {self._parts.path.rstrip('/')}{_BASE}/ws HTTP/1.1",
            f"host: {self._parts.netloc}",
            "upgrade: websocket",
            "connection: Upgrade",
            f"sec-websocket-key: {nonce}",
            "sec-websocket-version: 13",
            *([] if self._key is None else [f"authorization: Bearer {self._key}"]),
        ]
        self._socket = own
        try:
            own.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
            while b"\r\n\r\n" not in self._buffer:
                self._fill(own)
            head = io.BytesIO(self._exactly(self._buffer.index(b"\r\n\r\n") + 4))
            status = head.readline().split(b" ")
            headers = http.client.parse_headers(head)
            if len(status) < 2 or status[1] != b"101":
                raise _error(self._exactly(int(headers.get("content-length", "0"))), int(status[1]) if len(status) > 1 else 0)
        except EOFError as cause:
            self.close()
            raise ConnectionResetError(str(cause)) from cause
        except Exception:
            self.close()
            raise

    def _fill(self, own: socket.socket) -> None:
        data = own.recv(65_536)
        if not data:
            raise EOFError("the WebSocket was lost")
        self._buffer += data

    def _exactly(self, length: int) -> bytes:
        while len(self._buffer) < length:
            if self._socket is None:
                raise EOFError("the WebSocket is closed")
            self._fill(self._socket)
        data = bytes(self._buffer[:length])
        del self._buffer[:length]
        return data

    def _frame(self, code: int, data: bytes) -> None:
        assert self._socket is not None
        head = bytes([128 | code])
        if len(data) < 126:
            head += bytes([128 | len(data)])
        elif len(data) < 65_536:
            head += bytes([128 | 126]) + struct.pack(">H", len(data))
        else:
            head += bytes([128 | 127]) + struct.pack(">Q", len(data))
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))
        self._socket.sendall(head + mask + masked)


def _encode(value: Any) -> bytes:
    return json.dumps(value).encode()


def _quote(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def _text(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _json_of(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as cause:
        raise GatewayError(f"the answer is not JSON: {body[:100].decode(errors='replace')}", "UNKNOWN", 200) from cause


def _error(body: bytes, status: int) -> GatewayError:
    try:
        error = json.loads(body)["error"]
        return GatewayError(error["message"], error["code"], status, error.get("details"), error.get("request_id"))
    except (ValueError, KeyError, TypeError):
        return GatewayError(f"the gateway answered {status}", "UNKNOWN", status)


def _events(response: Any) -> Iterator[Any]:
    kind, data = "", ""
    for raw in _lines(response):
        line = raw.decode().rstrip("\n")
        if line == "":
            if kind:
                yield kind, data
            kind, data = "", ""
        elif line.startswith("event: "):
            kind = line[7:]
        elif line.startswith("data: "):
            data = line[6:]


def _lines(response: Any) -> Iterator[bytes]:
    while True:
        try:
            line = response.readline()
        except (OSError, http.client.HTTPException) as cause:
            raise GatewayError(f"the answer broke off: {cause}", "UNREACHABLE") from cause
        if not line:
            return
        yield line
