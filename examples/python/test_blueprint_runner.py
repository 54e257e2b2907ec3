"""Runs against a started gateway: GATEWAY_URL=http://127.0.0.1:8080 python3 -m unittest discover examples/python"""

import io
import os
import socket
import time
import unittest
import uuid
import zipfile

from blueprint_runner import Gateway, GatewayError

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
        self.assertEqual(first["output"] if "output" in first else None, None)
        self.assertEqual(self.gateway.execute(7, function=self.name, idempotency_key=key), first)
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


if __name__ == "__main__":
    unittest.main()
