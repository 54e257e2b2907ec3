import { createPublicClient, parseAbi } from 'viem';
import { afterEach, describe, expect, test, vi } from 'vitest';

import type { RpcTransport, RpcTransportOptions } from '../../src/chain/transport.ts';
import { GatheredCalls, createRpcTransport } from '../../src/chain/transport.ts';
import { toViemTransport } from '../../src/chain/viem-transport.ts';
import type { RunnerError } from '../../src/errors.ts';
import { isRunnerError } from '../../src/errors.ts';
import { FakeClock } from '../../src/testing/fake-clock.ts';
import type { HttpFault, RpcProxy, RpcProxyOptions } from '../../src/testing/rpc-proxy.ts';
import { startRpcProxy } from '../../src/testing/rpc-proxy.ts';

const opened: { close(): Promise<void> }[] = [];
afterEach(async () => {
  await Promise.all(opened.splice(0).map((thing) => thing.close()));
});

const UNTIL = { timeout: 30_000, interval: 2 };
const chainState = { head: 100 };
const node: NonNullable<RpcProxyOptions['onCall']> = ({ method, params }) => {
  switch (method) {
    case 'eth_blockNumber':
      return { result: `0x${chainState.head.toString(16)}` };
    case 'eth_chainId':
      return { result: '0x7a69' };
    case 'echo':
      return { result: params };
    default:
      return { error: { code: -32601, message: 'Method not found' } };
  }
};

async function server(options: RpcProxyOptions = {}): Promise<RpcProxy> {
  const proxy = await startRpcProxy({ onCall: node, ...options });
  opened.push(proxy);
  return proxy;
}
function transport(urls: readonly string[], options: Partial<RpcTransportOptions> = {}): RpcTransport {
  const made = createRpcTransport({ urls, timeoutMs: 30_000, asideMs: 20, ...options });
  opened.push(made);
  return made;
}
async function failure(promise: Promise<unknown>): Promise<RunnerError> {
  const error: unknown = await promise.then(
    (value) => expect.fail(`resolved with ${String(value)}`),
    (reason: unknown) => reason,
  );
  if (!isRunnerError(error)) throw error;
  return error;
}

describe('one endpoint', () => {
  test('gives the result, null too', async () => {
    const { url } = await server({ onCall: ({ params }) => ({ result: params[0] }) });
    const rpc = transport([url]);
    expect(await rpc.request('echo', [{ deep: ['ä', 1] }])).toEqual({ deep: ['ä', 1] });
    expect(await rpc.request('echo', [null])).toBeNull();
  });

  test('keeps the connection', async () => {
    const proxy = await server();
    let sockets = 0;
    const rpc = transport([proxy.url], { connections: 1 });
    proxy.onHttp = () => void sockets++;
    for (let round = 0; round < 5; round++) await rpc.request('echo', []);
    expect(sockets).toBe(5);
    expect(proxy.calls.get('echo')).toBe(5);
  });

  test('an error of the node is RPC_ERROR with what the node said', async () => {
    const { url } = await server({ onCall: () => ({ error: { code: 3, message: 'execution reverted', data: '0x0a55512f' } }) });
    const error = await failure(transport([url]).request('eth_call', []));
    expect(error.code).toBe('RPC_ERROR');
    expect(error.details).toEqual({ endpoint: url, method: 'eth_call', rpcCode: 3, rpcMessage: 'execution reverted', data: '0x0a55512f' });
    expect(error.message).toBe(`${url}: eth_call: execution reverted (3)`);
  });

  test.each([
    [-32005, 'daily request count exceeded, request rate limited', 'RPC_RATE_LIMITED'],
    [-32016, 'over rate limit', 'RPC_RATE_LIMITED'],
    [429, 'Your app has exceeded its compute units per second capacity', 'RPC_RATE_LIMITED'],
    [-32000, 'Too Many Requests', 'RPC_RATE_LIMITED'],
    [-32005, 'query returned more than 10000 results', 'RPC_ERROR'],
    [-32000, 'nonce too low', 'RPC_ERROR'],
  ])('error %i %s is %s', async (code, message, expected) => {
    const { url } = await server({ onCall: () => ({ error: { code, message } }) });
    expect((await failure(transport([url]).request('x', []))).code).toBe(expected);
  });

  test.each<[string, HttpFault, string, object]>([
    ['HTTP 429', { status: 429, headers: { 'retry-after': '7' } }, 'RPC_RATE_LIMITED', { status: 429, retryAfterMs: 7000 }],
    [
      'HTTP 429 with a date',
      { status: 429, headers: { date: 'Sun, 22 Nov 2026 16:00:00 GMT', 'retry-after': 'Sun, 22 Nov 2026 16:00:09 GMT' } },
      'RPC_RATE_LIMITED',
      { status: 429, retryAfterMs: 9000 },
    ],
    ['HTTP 503', { status: 503, body: 'upstream down' }, 'RPC_UNREACHABLE', { status: 503 }],
    ['HTTP 503 with a time', { status: 503, headers: { 'retry-after': '7' } }, 'RPC_UNREACHABLE', { status: 503, retryAfterMs: 7000 }],
    ['HTTP 403', { status: 403 }, 'RPC_UNREACHABLE', { status: 403 }],
    ['HTTP 404', { status: 404, body: '<html>' }, 'RPC_RESPONSE_INVALID', { status: 404 }],
    ['HTTP 413', { status: 413 }, 'RPC_RESPONSE_INVALID', { reason: 'too-large' }],
    ['a page', { status: 200, body: '<html>hello</html>' }, 'RPC_RESPONSE_INVALID', { reason: 'malformed' }],
    ['nothing', { status: 200, body: '' }, 'RPC_RESPONSE_INVALID', { reason: 'malformed' }],
    ['JSON that is not JSON-RPC', { status: 200, body: '{"hello":1}' }, 'RPC_RESPONSE_INVALID', { reason: 'malformed' }],
    [
      'the answer to another request',
      { status: 200, body: '{"jsonrpc":"2.0","id":99,"result":1}' },
      'RPC_RESPONSE_INVALID',
      { reason: 'malformed' },
    ],
    [
      'an RPC error behind HTTP 400',
      { status: 400, body: '{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"invalid"}}' },
      'RPC_ERROR',
      { rpcCode: -32602 },
    ],
    [
      'a gateway without a node, in JSON-RPC',
      { status: 503, body: '{"jsonrpc":"2.0","id":1,"error":{"code":-32011,"message":"no backends available for method"}}' },
      'RPC_UNREACHABLE',
      { status: 503 },
    ],
    [
      'a gateway whose node takes too long, in JSON-RPC',
      { status: 504, body: '{"jsonrpc":"2.0","id":1,"error":{"code":-32015,"message":"gateway timeout"}}' },
      'RPC_UNREACHABLE',
      { status: 504, reason: 'timeout' },
    ],
    [
      'a truncated answer',
      { status: 200, headers: { 'content-length': '100' }, body: '{"jsonrpc"' },
      'RPC_UNREACHABLE',
      { reason: 'timeout' },
    ],
  ])('%s', async (_, fault, code, details) => {
    const proxy = await server({ onHttp: () => fault });
    const clock = new FakeClock();
    const failing = failure(transport([proxy.url], { timeoutMs: 300, clock }).request('x', []));
    // Only what does not come to its end needs time.
    await vi.waitUntil(() => proxy.calls.has('x'), UNTIL);
    if ('reason' in details && details.reason === 'timeout') await clock.advance(300);
    const error = await failing;
    expect({ code: error.code, details: error.details }).toMatchObject({ code, details });
  });

  test('no answer in time is RPC_UNREACHABLE with the reason, and what did not start yet never does', async () => {
    const proxy = await server({ onHttp: ([call]) => (call?.method === 'echo' ? undefined : 'hang') });
    const clock = new FakeClock();
    const rpc = transport([proxy.url], { timeoutMs: 60, connections: 1, clock });
    // The second waits for the only connection, and its deadline counts all the same.
    const failures = Promise.all([failure(rpc.request('a', [])), failure(rpc.request('b', []))]);
    await vi.waitUntil(() => proxy.calls.has('a'), UNTIL);
    await clock.advance(60);
    const errors = await failures;
    expect(errors.map((error) => error.details['reason'])).toEqual(['timeout', 'timeout']);
    expect(errors[0]?.message).toContain('no answer within 60 ms');
    expect(await rpc.request('echo', [1])).toEqual([1]);
    expect(Array.from(proxy.calls.keys())).toEqual(['a', 'echo']);
  });

  test('an answer above the limit is refused before it is all there', async () => {
    const { url } = await server({ onCall: () => ({ result: 'x'.repeat(200_000) }) });
    const error = await failure(transport([url], { responseBytesMax: 100_000 }).request('x', []));
    expect(error).toMatchObject({ code: 'RPC_RESPONSE_INVALID', details: { reason: 'too-large' } });
  });

  test('a connection that breaks is tried once more', async () => {
    const proxy = await server();
    const faults: ('drop' | undefined)[] = ['drop', undefined, 'drop', 'drop'];
    proxy.onHttp = () => faults.shift();
    const rpc = transport([proxy.url]);
    expect(await rpc.request('echo', [1])).toEqual([1]);
    expect(await failure(rpc.request('echo', [1]))).toMatchObject({ code: 'RPC_UNREACHABLE', details: { reason: 'connection' } });
  });

  test('nobody listens', async () => {
    const proxy = await startRpcProxy();
    const { url } = proxy;
    await proxy.close();
    expect(await failure(transport([url]).request('x', []))).toMatchObject({ code: 'RPC_UNREACHABLE', retryable: true });
  });

  test('keys in the address and headers never show', async () => {
    const proxy = await server({
      onHttp: () => ({ status: 404, body: 'project SECRETPATH with token SECRETQUERY of SECRETUSER unknown, header SECRETHEADER' }),
    });
    const { host } = new URL(proxy.url);
    const rpc = transport([`http://SECRETUSER:SECRETPASS@${host}/v3/SECRETPATH?token=SECRETQUERY`], {
      headers: { 'x-key': 'SECRETHEADER' },
    });
    const error = await failure(rpc.request('x', []));
    expect(`${error.message} ${JSON.stringify(error)}`).not.toContain('SECRET');
    expect(error.message).toContain('project *** with token ***');
    expect(() => createRpcTransport({ urls: ['SECRETPATH'] })).toThrow('not a text that is not a URL');
  });

  test('user and password of the address become a header', async () => {
    const seen: unknown[] = [];
    const { createServer } = await import('node:http');
    const http = createServer((request, response) => {
      seen.push(request.headers.authorization, request.url);
      response.end('{"jsonrpc":"2.0","id":1,"result":true}');
    });
    await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve));
    const address = http.address();
    const port = typeof address === 'object' && address ? address.port : 0;
    for (const [written, meant] of [
      ['p%40ss', 'p@ss'],
      ['50%off', '50%off'],
    ]) {
      const rpc = transport([`http://me:${written}@127.0.0.1:${port}/rpc?x=1`]);
      expect(await rpc.request('x', [])).toBe(true);
      expect(seen.splice(0)).toEqual([`Basic ${Buffer.from(`me:${meant}`).toString('base64')}`, '/rpc?x=1']);
      await rpc.close();
    }
    http.close();
  });

  test('close rejects what is under way and what comes later', async () => {
    const { url } = await server({ onHttp: () => 'hang' });
    const rpc = transport([url]);
    const waiting = failure(rpc.request('x', []));
    await rpc.close();
    await rpc.close();
    expect((await waiting).code).toBe('RPC_UNREACHABLE');
    expect(await failure(rpc.request('x', []))).toMatchObject({ code: 'RPC_UNREACHABLE', details: { reason: 'closed' } });
  });
});

describe('batch', () => {
  const calls = [
    { method: 'echo', params: [1] },
    { method: 'nonsense', params: [] },
    { method: 'echo', params: [3] },
  ];

  test('results and errors stand in the order of the calls, whatever the order of the answer', async () => {
    const proxy = await server({ reverseBatches: true });
    const [first, second, third] = await transport([proxy.url]).batch(calls);
    expect([first, third]).toEqual([[1], [3]]);
    expect(second).toMatchObject({ code: 'RPC_ERROR', details: { rpcCode: -32601, method: 'nonsense' } });
    expect(proxy.httpRequests).toBe(1);
  });

  test('an empty batch asks nobody', async () => {
    const proxy = await server();
    expect(await transport([proxy.url]).batch([])).toEqual([]);
    expect(proxy.httpRequests).toBe(0);
  });

  test('a long batch becomes several requests', async () => {
    const proxy = await server();
    const many = Array.from({ length: 25 }, (_, index) => ({ method: 'echo', params: [index] }));
    expect(await transport([proxy.url], { batchMax: 10 }).batch(many)).toEqual(many.map(({ params }) => params));
    expect(proxy.httpRequests).toBe(3);
  });

  test('an endpoint that refuses batches is asked one by one, from then on at once', async () => {
    const proxy = await server();
    proxy.onHttp = (list) =>
      list.length > 1
        ? { status: 200, body: '{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"batch not supported"}}' }
        : undefined;
    const rpc = transport([proxy.url]);
    for (let round = 0; round < 2; round++) {
      const results = await rpc.batch(calls);
      expect(results[2]).toEqual([3]);
      expect(results[1]).toMatchObject({ code: 'RPC_ERROR' });
    }
    expect(proxy.httpRequests).toBe(1 + 3 + 3);
  });

  test.each([
    ['a list with the one error, as geth says it', '[{"jsonrpc":"2.0","id":0,"error":{"code":-32600,"message":"batch too large"}}]'],
    ['a list with one error of nobody', '[{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"batch too large"}}]'],
  ])('a limit to the calls in a batch, %s', async (_, body) => {
    const proxy = await server();
    proxy.onHttp = (list) => (list.length > 2 ? { status: 200, body } : undefined);
    const rpc = transport([proxy.url]);
    for (let round = 0; round < 2; round++) expect(await rpc.batch(calls)).toMatchObject([[1], { code: 'RPC_ERROR' }, [3]]);
    expect(proxy.httpRequests).toBe(1 + 3 + 3);
  });

  test('an answer that leaves out a call fails', async () => {
    const { url } = await server({ onHttp: () => ({ status: 200, body: '[{"jsonrpc":"2.0","id":0,"result":[1]}]' }) });
    expect((await failure(transport([url]).batch(calls))).code).toBe('RPC_RESPONSE_INVALID');
  });
});

describe('several endpoints', () => {
  test.each<[string, RpcProxyOptions]>([
    ['cut connections', { onHttp: () => 'drop' }],
    ['HTTP 429', { onHttp: () => ({ status: 429 }) }],
    ['HTTP 502', { onHttp: () => ({ status: 502 }) }],
    [
      'HTTP 503 in JSON-RPC',
      { onHttp: () => ({ status: 503, body: '{"jsonrpc":"2.0","id":1,"error":{"code":-32011,"message":"no backends"}}' }) },
    ],
    ['no answer', { onHttp: () => 'hang' }],
    ['pages', { onHttp: () => ({ status: 200, body: '<html>' }) }],
    ['rate limits', { onCall: () => ({ error: { code: -32016, message: 'over rate limit' } }) }],
    [
      'rate limits in batches',
      { onCall: ({ method }) => (method === 'echo' ? { error: { code: -32005, message: 'limit exceeded' } } : { result: '0x7a69' }) },
    ],
  ])('%s: the other one answers', async (name, options) => {
    const [bad, good] = [await server(options), await server()];
    const clock = new FakeClock();
    const rpc = transport([bad.url, good.url], { timeoutMs: 200, asideMs: 60_000, clock });
    const first = rpc.request('echo', [1]);
    await vi.waitUntil(() => bad.httpRequests > 0, UNTIL);
    // In vain only where nobody answers.
    if (name === 'no answer') await clock.advance(200);
    expect(await first).toEqual([1]);
    expect(
      await rpc.batch([
        { method: 'echo', params: [2] },
        { method: 'echo', params: [3] },
      ]),
    ).toEqual([[2], [3]]);
    // The bad one was asked once (twice when the connection broke) and then left alone.
    expect(bad.httpRequests).toBeLessThanOrEqual(2);
    expect(good.calls.get('echo')).toBe(3);
  });

  test('an error of the node is not the endpoint’s fault', async () => {
    const [first, second] = [await server(), await server()];
    const rpc = transport([first.url, second.url]);
    expect((await failure(rpc.request('nonsense', []))).code).toBe('RPC_ERROR');
    expect(second.httpRequests).toBe(0);
  });

  test('the first one is used again as soon as a probe of it succeeds', async () => {
    const [first, second] = [await server(), await server()];
    let down = true;
    let probed: () => void = () => undefined;
    const readmitted = new Promise<void>((resolve) => (probed = resolve));
    first.onHttp = () => {
      if (down) return { status: 500 };
      probed();
      return undefined;
    };
    const rpc = transport([first.url, second.url], { asideMs: 5 });
    await rpc.request('echo', []);
    down = false;
    await readmitted;
    await expect
      .poll(async () => {
        await rpc.request('echo', []);
        return first.calls.get('echo');
      })
      .toBeGreaterThan(1);
  });

  test('when all fail the error names each of them', async () => {
    const [first, second] = [await server({ onHttp: () => ({ status: 429 }) }), await server({ onHttp: () => ({ status: 500 }) })];
    const error = await failure(transport([first.url, second.url]).request('x', []));
    expect(error.code).toBe('RPC_UNREACHABLE');
    expect(error.message).toContain(first.url);
    expect(error.message).toContain(second.url);
    const limited = transport([first.url, first.url]);
    expect((await failure(limited.request('x', []))).code).toBe('RPC_RATE_LIMITED');
  });

  test('when all were put aside they are still tried', async () => {
    const [first, second] = [await server(), await server()];
    let down = true;
    for (const proxy of [first, second]) proxy.onHttp = () => (down ? { status: 500 } : undefined);
    const rpc = transport([first.url, second.url], { asideMs: 60_000 });
    await failure(rpc.request('echo', []));
    down = false;
    expect(await rpc.request('echo', [1])).toEqual([1]);
  });

  test('an endpoint of another chain is never used', async () => {
    const [other, right] = [
      await server({ onCall: (call) => (call.method === 'eth_chainId' ? { result: '0x1' } : { result: 'wrong' }) }),
      await server(),
    ];
    const rpc = transport([other.url, right.url], { chainId: 31337 });
    expect(await rpc.request('echo', [1])).toEqual([1]);
    expect(other.calls.get('echo')).toBeUndefined();
    const error = await failure(transport([other.url], { chainId: 31337 }).request('echo', [1]));
    expect(error).toMatchObject({ code: 'CHAIN_MISMATCH', details: { served: 1, expected: 31337 } });
  });

  test('an endpoint whose head stays behind is put aside', async () => {
    const at = (head: string, name: string) =>
      server({ onCall: ({ method }) => ({ result: { eth_blockNumber: head, eth_chainId: '0x7a69' }[method] ?? name }) });
    const [lagging, good] = [await at('0x32', 'old'), await at('0x64', 'new')];
    const rpc = transport([lagging.url, good.url], { chainId: 31337, healthCheckMs: 10, asideMs: 60_000 });
    expect(await rpc.request('echo', [])).toBe('old');
    await expect.poll(() => rpc.request('echo', [])).toBe('new');
  });
});

test('calls that are too large together are sent apart', async () => {
  const { url } = await server({ onHttp: (calls) => (calls.length > 1 || calls[0]?.params[0] === 'large' ? { status: 413 } : undefined) });
  const gathered = new GatheredCalls(transport([url]));
  const [first, large, last] = await Promise.allSettled(['a', 'large', 'b'].map((text) => gathered.call('echo', [text])));
  expect([first, last]).toEqual(['a', 'b'].map((text) => ({ status: 'fulfilled', value: [text] })));
  expect(large).toMatchObject({ status: 'rejected', reason: { details: { reason: 'too-large' } } });
});

describe('toViemTransport', () => {
  test('a viem client works over it', async () => {
    const { url } = await server();
    const client = createPublicClient({ transport: toViemTransport(transport([url])) });
    expect(await client.getBlockNumber()).toBe(100n);
    expect(await client.getChainId()).toBe(31337);
  });

  test('viem sees the errors of the node', async () => {
    const { url } = await server({
      onCall: () => ({ error: { code: 3, message: 'execution reverted', data: `0x0a55512f${'00'.repeat(64)}` } }),
    });
    const client = createPublicClient({ transport: toViemTransport(transport([url])) });
    const abi = parseAbi(['function f() view returns (uint256)', 'error JobAlreadyCompleted(uint64 serviceId, uint64 callId)']);
    const reading = client.readContract({ abi, functionName: 'f', address: `0x${'11'.repeat(20)}` });
    await expect(reading).rejects.toThrow('JobAlreadyCompleted(uint64 serviceId, uint64 callId)');
  });
});
