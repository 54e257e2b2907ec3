import { join } from 'node:path';
import { build } from 'esbuild';
import { describe, expect, test } from 'vitest';
import { GatewayClient } from '../../src/gateway/client.ts';

describe('the client of the gateway', () => {
  test('is for browsers too: no Node, nothing but itself, small', async () => {
    const { outputFiles, metafile } = await build({
      entryPoints: [join(import.meta.dirname, '../../src/gateway/client.ts')],
      bundle: true,
      write: false,
      metafile: true,
      minify: true,
      platform: 'browser',
      format: 'esm',
    });
    expect(Object.keys(metafile.inputs).toSorted((left, right) => left.localeCompare(right))).toEqual([
      'src/gateway/client-channel.ts',
      'src/gateway/client-wire.ts',
      'src/gateway/client.ts',
    ]);
    expect(outputFiles[0]?.contents.length).toBeLessThan(12_000);
  });

  interface Scripted {
    readonly client: GatewayClient;
    readonly asked: string[];
    readonly waits: number[];
  }

  function scripted(...answers: readonly (Response | Error)[]): Scripted {
    const left = [...answers];
    const asked: string[] = [];
    const waits: number[] = [];
    const fetch = async (url: unknown, init?: RequestInit): Promise<Response> => {
      asked.push(`${init?.method} ${String(url)}`);
      const next = left.shift();
      if (next === undefined || next instanceof Error) throw next ?? new Error('no more answers');
      return next;
    };
    const sleep = async (ms: number): Promise<void> => void waits.push(ms);
    return { client: new GatewayClient({ url: 'http://gateway/', fetch, sleep }), asked, waits };
  }
  const refusal = (status: number, code: string, headers: Record<string, string> = {}): Response =>
    Response.json({ error: { code, message: code, details: {}, request_id: 'r' } }, { status, headers });

  test('what was refused before it reached a function is asked again, when the gateway says', async () => {
    const { client, asked, waits } = scripted(
      refusal(429, 'QUEUE_FULL', { 'retry-after': '2' }),
      refusal(503, 'EXECUTOR_CLOSED'),
      Response.json(7),
    );
    expect((await client.invoke('f', 1)).output).toBe(7);
    expect(asked).toEqual(Array.from({ length: 3 }, () => 'POST http://gateway/api/v1/functions/f/invoke'));
    expect(waits).toEqual([2_000, 400]);
  });

  test.each([
    ['a lost connection', new Error('reset'), 'UNREACHABLE'],
    ['a failed function', refusal(502, 'FUNCTION_FAILED'), 'FUNCTION_FAILED'],
    ['a timeout', refusal(504, 'EXECUTOR_TIMEOUT'), 'EXECUTOR_TIMEOUT'],
    ['a start that failed', refusal(503, 'INSTANCE_START_FAILED'), 'INSTANCE_START_FAILED'],
  ])('a call is made once: %s', async (_, answer, code) => {
    const { client, asked } = scripted(answer, Response.json(1));
    await expect(client.invoke('f', 1)).rejects.toMatchObject({ code });
    expect(asked).toHaveLength(1);
  });

  test('reads, and calls with an idempotency key, are asked again after a lost connection', async () => {
    const read = scripted(new Error('reset'), Response.json({ lines: [] }));
    expect(await read.client.logs('f')).toEqual([]);
    const keyed = scripted(new Error('reset'), Response.json({ output: 1 }));
    expect(await keyed.client.execute(1, { function: 'f', idempotencyKey: 'k' })).toEqual({ output: 1 });
    const bare = scripted(new Error('reset'));
    await expect(bare.client.execute(1, { function: 'f' })).rejects.toMatchObject({ code: 'UNREACHABLE' });
    expect([read.asked.length, keyed.asked.length, bare.asked.length]).toEqual([2, 2, 1]);
  });

  function brokenOff(text: string): Response {
    const parts = [new TextEncoder().encode(text)];
    const pull = (controller: ReadableStreamDefaultController<Uint8Array<ArrayBuffer>>): void => {
      const part = parts.shift();
      if (part) controller.enqueue(part);
      else controller.error(new TypeError('terminated'));
    };
    return new Response(new ReadableStream({ pull }), { headers: { 'content-type': 'application/json' } });
  }

  test('an answer that breaks off is as good as none: reads are asked again, a call is not', async () => {
    const read = scripted(brokenOff('{"lin'), Response.json({ lines: [] }));
    expect(await read.client.logs('f')).toEqual([]);
    const call = scripted(brokenOff('{"a"'), Response.json(1));
    await expect(call.client.invoke('f', 1)).rejects.toMatchObject({ name: 'GatewayError', code: 'UNREACHABLE', status: 0 });
    const code = scripted(brokenOff('PK'), new Response('PK2'));
    expect(Buffer.from(await code.client.code('f')).toString()).toBe('PK2');
    expect([read.asked.length, call.asked.length, code.asked.length]).toEqual([2, 1, 2]);
  });

  test('a stream that breaks off ends with an error of the client, after what came', async () => {
    const { client } = scripted(brokenOff('event: chunk\ndata: YQ==\n\nevent: chu'));
    const stream = client.stream('f', 1);
    expect(await stream.next()).toMatchObject({ done: false });
    await expect(stream.next()).rejects.toMatchObject({ name: 'GatewayError', code: 'UNREACHABLE' });
  });

  test('an answer that is not JSON is told with its beginning', async () => {
    const { client } = scripted(new Response('<html>'), new Response('<html>'));
    await expect(client.invoke('f', 1)).rejects.toMatchObject({ code: 'UNKNOWN', message: 'the answer is not JSON: <html>' });
    await expect(client.info()).rejects.toMatchObject({ name: 'GatewayError', code: 'UNKNOWN' });
  });

  test('who gives up does not wait for the next attempt', async () => {
    const controller = new AbortController();
    const asked: string[] = [];
    const client = new GatewayClient({
      url: 'http://gateway',
      fetch: async () => (asked.push('one'), refusal(429, 'QUEUE_FULL')),
      sleep: () => (controller.abort(new Error('enough')), new Promise(() => {})),
    });
    await expect(client.invoke('f', 1, { signal: controller.signal })).rejects.toThrow('enough');
    expect(asked).toHaveLength(1);
  });

  test('gives up after its retries', async () => {
    const { client, asked } = scripted(...Array.from({ length: 5 }, () => refusal(429, 'RATE_LIMITED')));
    await expect(client.info()).rejects.toMatchObject({ code: 'RATE_LIMITED', status: 429, requestId: 'r' });
    expect(asked).toHaveLength(3);
  });
});
