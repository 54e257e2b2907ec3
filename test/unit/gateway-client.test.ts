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

  test('gives up after its retries', async () => {
    const { client, asked } = scripted(...Array.from({ length: 5 }, () => refusal(429, 'RATE_LIMITED')));
    await expect(client.info()).rejects.toMatchObject({ code: 'RATE_LIMITED', status: 429, requestId: 'r' });
    expect(asked).toHaveLength(3);
  });
});
