"""Runs against a started gateway: GATEWAY_URL=http://127.0.0.1:8080 python3 -m unittest discover examples/python"""

import base64
import io
import os
import socket
import threading
import time
import unittest
import uuid
import zipfile
from typing import Any, Dict, List, Mapping

from blueprint_runner import Channel, Gateway, GatewayError

CODE = """
export const handler = awslambda.streamifyResponse(async (event, stream) => {
  console.log('said', JSON.stringify(event));
  if (event?.fail) throw new TypeError('as asked');
  for (const part of event?.parts ?? []) stream.write(part);
  if (event?.endless) await new Promise((_, reject) => stream.on('close', () => reject(new Error('nobody reads'))).write('first'));
  stream.end(event?.parts ? '' : JSON.stringify({ got: event }));
});
"""


def package(code: str = CODE) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("index.mjs", code)
    return file.getvalue()


class GatewayTest(unittest.TestCase):
    def setUp(self) -> None:
        self.gateway = Gateway(os.environ["GATEWAY_URL"], key=os.environ.get("GATEWAY_KEY"))
        self.name = f"py-{uuid.uuid4().hex[:8]}"
        self.zip = package()
        self.gateway.deploy(self.name, self.zip, runtime="nodejs24.x", handler="index.handler", memory_mb=256)
        self.addCleanup(self._remove)

    def _remove(self) -> None:
        try:
            self.gateway.remove(self.name)
        except GatewayError as error:
            self.assertEqual(error.code, "FUNCTION_NOT_FOUND")

    def test_life_of_a_function(self) -> None:
        gateway, name = self.gateway, self.name
        self.assertEqual(gateway.describe(name)["memory_mb"], 256)
        self.assertEqual(gateway.update(name, environment={"STAGE": "test"})["environment"], {"STAGE": "test"})
        self.assertEqual(gateway.deploy(name, self.zip, environment={"STAGE": "live"}, description=None)["environment"], {"STAGE": "live"})
        self.assertEqual(gateway.publish(name, "first")["version"], "1")
        self.assertEqual([one["version"] for one in gateway.versions(name)], ["$LATEST", "1"])
        self.assertEqual(gateway.code(name), self.zip)
        self.assertIn(name, [one["name"] for one in gateway.functions()])
        with self.assertRaises(GatewayError) as raised:
            gateway.create(name, self.zip, runtime="nodejs24.x", handler="index.handler")
        self.assertEqual((raised.exception.code, raised.exception.status), ("FUNCTION_EXISTS", 409))
        gateway.remove(name)
        with self.assertRaises(GatewayError) as raised:
            gateway.describe(name)
        self.assertEqual(raised.exception.code, "FUNCTION_NOT_FOUND")

    def test_calls(self) -> None:
        answer = self.gateway.invoke(self.name, {"ü": [1, None]})
        self.assertEqual(answer.output, {"got": {"ü": [1, None]}})
        self.assertTrue(answer.cold_start)
        self.assertFalse(self.gateway.invoke(self.name, 1).cold_start)
        self.assertEqual(b"".join(self.gateway.stream(self.name, {"parts": ["one", "two"]})), b"onetwo")
        with self.assertRaises(GatewayError) as raised:
            self.gateway.invoke(self.name, {"fail": True})
        self.assertEqual(raised.exception.code, "FUNCTION_FAILED")
        key = uuid.uuid4().hex
        first = self.gateway.execute(7, function=self.name, idempotency_key=key)
        got = base64.b64encode(b'{"got":7}').decode()
        self.assertEqual(first["output_base64"], got)
        self.assertEqual(self.gateway.execute(7, function=self.name, idempotency_key=key), first)
        self.assertEqual(self.gateway.execute(payload_base64="Nw==", function=self.name)["output_base64"], got)
        self.assertEqual(self.gateway.execute(1, function=self.name, mode="ephemeral")["report"]["cold_start"], True)

    def test_instances_and_logs(self) -> None:
        ready = self.gateway.warm(self.name, 2)
        self.assertEqual(len(ready), 2)
        self.assertEqual(self.gateway.instance(ready[0]["id"])["function"], self.name)
        self.gateway.stop_instance(ready[0]["id"])
        self.assertEqual(len(self.gateway.instances(self.name)), 1)
        self.gateway.invoke(self.name, 5)
        self.assertIn("said 5", [line["text"] for line in self.gateway.logs(self.name, limit=10)])
        self.assertGreaterEqual(self.gateway.drain(self.name), 1)

    def test_websocket(self) -> None:
        with self.gateway.connect() as channel:
            self.assertEqual(b"".join(channel.stream(self.name, {"parts": ["a", "b" * 70_000]})), b"a" + b"b" * 70_000)
            with self.assertRaises(GatewayError) as raised:
                list(channel.stream("nobody-knows-it"))
            self.assertEqual(raised.exception.code, "FUNCTION_NOT_FOUND")
        with self.gateway.connect() as channel:
            events = channel.events("invocations", self.name, since="none-0")
            first = next(events)
            self.assertEqual((first["function"], first["state"]), (self.name, "queued"))
            finished = next(event for event in events if event["state"] == "finished")
            self.assertEqual(finished["report"]["request_id"], finished["request_id"])

    def test_websocket_is_used_again(self) -> None:
        self.gateway.update(self.name, timeout_ms=600_000)
        with self.gateway.connect() as channel:
            # Who ends the loop gives the call up.
            stream = channel.stream(self.name, {"endless": True})
            self.assertEqual(next(stream), b"first")
            self.assertEqual([one["state"] for one in self.gateway.instances(self.name)], ["busy"])
            stream.close()
            deadline = time.monotonic() + 60
            while any(one["state"] == "busy" for one in self.gateway.instances(self.name)):
                self.assertLess(time.monotonic(), deadline, "the call goes on")
                time.sleep(0.02)
            # So does who ends a subscription.
            lines = channel.logs(self.name, since="none-0")
            self.assertIn("endless", next(lines)["text"])
            lines.close()
            channel.send({"type": "unsubscribe", "id": "p2"})
            channel.send({"type": "ping"})
            answers = [message["type"] for message in iter(channel.receive, {"type": "pong"}) if message.get("id") == "p2"]
            self.assertEqual([kind for kind in answers if kind != "event"], ["unsubscribed", "error"])
            # A connection that was lost while nobody used it is opened again.
            channel._socket.shutdown(socket.SHUT_RDWR)
            self.assertEqual(b"".join(channel.stream(self.name, {"parts": ["a"]})), b"a")
            channel._socket.shutdown(socket.SHUT_RDWR)
            self.assertIn("endless", next(channel.logs(self.name, since="none-0"))["text"])
        with self.assertRaises(GatewayError) as raised:
            next(Gateway("http://127.0.0.1:9").connect().stream(self.name))
        self.assertEqual(raised.exception.code, "UNREACHABLE")

    def test_the_gateway(self) -> None:
        self.assertTrue(self.gateway.healthy() and self.gateway.ready())
        self.assertIn("process", [one["name"] for one in self.gateway.info()["backends"]])
        self.assertIn("blueprint_gateway_requests_total", self.gateway.metrics())
        self.assertIn("/api/v1/execute", self.gateway.openapi()["paths"])
        self.assertFalse(Gateway("http://127.0.0.1:9", retries=0).healthy())


class ScriptedGateway:
    """Answers each connection with the next text, and ends it."""

    def __init__(self, *answers: bytes):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.asked: List[str] = []
        self._thread = threading.Thread(target=self._serve, args=(answers,), daemon=True)
        self._thread.start()

    def _serve(self, answers: Any) -> None:
        for answer in answers:
            connection, _ = self._listener.accept()
            with connection:
                connection.settimeout(10)
                self.asked.append(connection.recv(65_536).split(b"\r\n")[0].decode())
                connection.sendall(answer)

    def close(self) -> None:
        self._listener.close()
        self._thread.join(10)


class ScriptedChannel(Channel):
    """A connection that is lost after the first chunk, and cannot be opened again at once."""

    def __init__(self) -> None:
        super().__init__(None, None, 1.0, None)
        self.sent: List[str] = []
        self._answers: List[Dict[str, Any]] = []

    def send(self, message: Mapping[str, Any]) -> None:
        self.sent.append(message["type"])
        if message["type"] == "invoke":
            self._answers = [{"type": "started", "stream": "s"}, {"type": "chunk", "seq": 1, "data": "YQ=="}]
        elif self.sent.count("resume") == 1:
            raise ConnectionRefusedError("not yet")
        else:
            self._answers = [{"type": "chunk", "seq": 2, "data": "Yg=="}, {"type": "end"}]

    def receive(self) -> Dict[str, Any]:
        if not self._answers:
            if self.sent == ["invoke", "resume"]:
                raise AssertionError("waits on a connection over which nothing was asked")
            raise EOFError("the WebSocket was lost")
        return {"id": "p1", **self._answers.pop(0)}


class BrokenConnectionTest(unittest.TestCase):
    def gateway(self, *answers: bytes) -> ScriptedGateway:
        scripted = ScriptedGateway(*answers)
        self.addCleanup(scripted.close)
        return scripted

    def assert_fails(self, code: str, call: Any) -> None:
        with self.assertRaises(GatewayError) as raised:
            call()
        self.assertEqual(raised.exception.code, code)

    def test_streams_fail_with_errors_of_the_client(self) -> None:
        self.assert_fails("UNREACHABLE", lambda: list(Gateway("http://127.0.0.1:9").stream("f")))
        head = b"HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        scripted = self.gateway(head + b"40\r\nevent: chunk\ndata: YQ==\n\nevent: ch")
        stream = Gateway(scripted.url).stream("f")
        self.assertEqual(next(stream), b"a")
        self.assert_fails("UNREACHABLE", lambda: next(stream))

    def test_a_stream_that_was_refused_is_asked_for_again(self) -> None:
        body = b'{"error":{"code":"QUEUE_FULL","message":"busy"}}'
        busy = b"HTTP/1.1 429 No\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
        events = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nevent: chunk\ndata: YQ==\n\nevent: end\ndata: {}\n\n"
        self.assertEqual(b"".join(Gateway(self.gateway(busy, events).url).stream("f")), b"a")
        self.assert_fails("QUEUE_FULL", lambda: list(Gateway(self.gateway(busy).url, retries=0).stream("f")))

    def test_below_a_path(self) -> None:
        scripted = self.gateway(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}", b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n")
        gateway = Gateway(f"{scripted.url}/below/")
        self.assertEqual(gateway.info(), {})
        self.assert_fails("UNKNOWN", lambda: next(gateway.connect().stream("f")))
        self.assertEqual(scripted.asked, ["GET /below/api/v1/info HTTP/1.1", "GET /below/api/v1/ws HTTP/1.1"])

    def test_answers_that_are_not_json(self) -> None:
        page = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 6\r\n\r\n<html>"
        gateway = Gateway(self.gateway(page, page).url)
        self.assert_fails("UNKNOWN", lambda: gateway.invoke("f"))
        self.assert_fails("UNKNOWN", gateway.info)

    def test_a_stream_is_resumed_on_every_new_connection(self) -> None:
        channel = ScriptedChannel()
        self.assertEqual(b"".join(channel.stream("f")), b"ab")
        self.assertEqual(channel.sent, ["invoke", "resume", "resume"])


if __name__ == "__main__":
    unittest.main()
