/** What is broken, hostile or wrong ends as an error with a code; every other call is settled, and the runner goes on. */

import { execFileSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { createServer } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { encodeAbiParameters } from 'viem/utils';
import { BlueprintRunner, JobRouter, SqliteLedger, defineJob, silentTelemetry } from '../../src/index.ts';
import type { CallRecord, Hex, Job, RunnerBuilder, RunnerConfig } from '../../src/index.ts';
import { TOPIC } from '../../src/chain/contracts.ts';
import { encodeCompact } from '../../src/job/compact.ts';
import { schemaOf } from '../../src/job/schema.ts';
import { parseParameters } from '../../src/job/solidity.ts';
import { startLocalChain } from '../../src/testing/local-chain.ts';
import type { LocalChain } from '../../src/testing/local-chain.ts';
import { startRpcProxy } from '../../src/testing/rpc-proxy.ts';
import type { HttpFault, ProxiedCall, ProxyReply } from '../../src/testing/rpc-proxy.ts';
import { deployTangle } from '../../src/testing/tangle.ts';
import type { JobInput, LocalService, LocalTangle } from '../../src/testing/tangle.ts';
import { requirePeer } from '../require.ts';

const SETTLE = { timeout: 90_000, interval: 25 };
const GOOD = 0;
const uint64 = (value: number): Hex => encodeAbiParameters([{ type: 'uint64' }], [BigInt(value)]);
const hexOf = (bytes: Uint8Array): Hex => `0x${Buffer.from(bytes).toString('hex')}`;
const good = (value: number): JobInput => ({ jobIndex: GOOD, inputs: uint64(value) });
const square = defineJob({ name: 'square', params: 'uint64 x', result: 'uint64' }, ([x]) => x * x);
const raw = (run: (body: Uint8Array) => Uint8Array | Promise<Uint8Array>): Job => defineJob({ name: 'raw', raw: true }, run);

let chain: LocalChain;
let tangle: LocalTangle;
let dataDir: string;
const running: BlueprintRunner[] = [];

beforeAll(async () => {
  chain = await startLocalChain();
  tangle = await deployTangle(chain);
});
afterAll(() => chain.stop());
beforeEach(() => {
  dataDir = mkdtempSync(join(tmpdir(), 'bad-input-'));
});
afterEach(async () => {
  await stopRunners();
  rmSync(dataDir, { recursive: true });
});

async function stopRunners(): Promise<void> {
  await Promise.all(running.splice(0).map((runner) => runner.stop()));
}

const ledgerFile = (): string => join(dataDir, 'ledger.sqlite');

/** Read beside the runner that owns the file. */
async function records(path = ledgerFile()): Promise<CallRecord[]> {
  const ledger = SqliteLedger.open({ path, readonly: true });
  const found = ledger.find({}).toSorted((a, b) => a.seq - b.seq);
  await ledger.close();
  return found;
}

/** `state CODE` of each call, in the order of their ids. */
async function fates(path = ledgerFile()): Promise<string[]> {
  return (await records(path)).map(({ state, errorCode }) => (errorCode === undefined ? state : `${state} ${errorCode}`));
}

/** The results on chain: call id and number; one that is there twice is twice in the list. */
async function settled({ serviceId }: LocalService): Promise<[number, number][]> {
  const results = await tangle.results(serviceId);
  return results
    .map(({ callId, output }): [number, number] => [Number(callId), Number(`0x${Buffer.from(output).toString('hex')}`)])
    .toSorted(([a], [b]) => a - b);
}

interface Heard {
  readonly runner: BlueprintRunner;
  /** `source CODE` of the events and of the hook. */
  readonly errors: string[];
  readonly hooked: string[];
  /** `callId CODE` */
  readonly failed: string[];
  readonly rejected: string[];
}

function builderOf(service: LocalService, config: RunnerConfig = {}): RunnerBuilder {
  const settings = {
    rpcUrl: chain.rpcUrl,
    contract: tangle.contract,
    serviceIds: [service.serviceId],
    dataDir,
    confirmations: 0,
    fromBlock: 0n,
  };
  return BlueprintRunner.builder({ ...settings, ...config }, { OPERATOR_PRIVATE_KEY: service.operators[0]?.privateKey }).telemetry(
    silentTelemetry,
  );
}

async function start(builder: RunnerBuilder): Promise<Heard> {
  const hooked: string[] = [];
  const runner = await builder.onError(({ code }, { source, call }) => hooked.push(`${call?.origin?.callId ?? source} ${code}`)).build();
  const heard = { runner, hooked, errors: [] as string[], failed: [] as string[], rejected: [] as string[] };
  runner.on('error', ({ code }, source) => heard.errors.push(`${source} ${code}`));
  runner.on('failed', ({ call, error }) => heard.failed.push(`${call.origin?.callId} ${error.code}`));
  runner.on('rejected', ({ seq, code }) => heard.rejected.push(`${seq} ${code}`));
  running.push(runner);
  await runner.start();
  return heard;
}

const service = (jobs: number): Promise<LocalService> =>
  tangle.startService({ jobs: Array.from({ length: jobs }, (_, index) => ({ name: `job ${index}` })) });

describe('calls that cannot be executed or settled', () => {
  /** Every bad one stands between two good ones. */
  const CASES: readonly { readonly what: string; readonly job: Job | undefined; readonly inputs?: Hex; readonly fate: string }[] = [
    { what: 'arguments that cannot be decoded', job: square, inputs: '0xdead', fate: 'failed JOB_ARGS_INVALID' },
    { what: 'no arguments at all', job: square, inputs: '0x', fate: 'failed JOB_ARGS_INVALID' },
    { what: 'a number above its type', job: square, inputs: `0x${'ff'.repeat(32)}`, fate: 'failed JOB_ARGS_INVALID' },
    {
      what: 'a result that is not of its type',
      job: defineJob({ name: 'wrong', params: 'uint64 x', result: 'uint8' }, ([x]) => Number(x) + 1_000),
      fate: 'failed JOB_RESULT_INVALID',
    },
    { what: 'a result above what a transaction can carry', job: raw(() => new Uint8Array(200_000)), fate: 'rejected PAYLOAD_TOO_LARGE' },
    { what: 'a result above what the ledger can hold', job: raw(() => new Uint8Array(1_000_000_001)), fate: 'failed PAYLOAD_TOO_LARGE' },
    {
      what: 'a job that throws',
      job: raw(() => {
        throw new Error('always');
      }),
      fate: 'failed JOB_FAILED',
    },
    { what: 'a job that nobody has', job: undefined, fate: 'ignored JOB_UNKNOWN' },
  ];

  it('each get their code, and those around them their result', async () => {
    const at = await service(CASES.length + 1);
    const router = new JobRouter().route(GOOD, square);
    for (const [index, { job }] of CASES.entries()) if (job) router.route(index + 1, job);
    const heard = await start(builderOf(at).router(router));
    const jobs = CASES.flatMap(({ inputs = uint64(1) }, index) => [good(index), { jobIndex: index + 1, inputs }]);
    await tangle.submitMany(at.serviceId, [...jobs, good(99)]);
    const expected = [...CASES.map((_, index): [number, number] => [2 * index, index * index]), [2 * CASES.length, 99 * 99]];
    await expect.poll(() => settled(at), SETTLE).toEqual(expected);
    await expect.poll(async () => (await fates()).filter((_, index) => index % 2 === 1), SETTLE).toEqual(CASES.map(({ fate }) => fate));

    const codes = CASES.map(({ fate }, index) => `${2 * index + 1} ${fate.split(' ')[1]}`);
    expect(heard.hooked.toSorted()).toEqual(codes.toSorted());
    expect(
      [...heard.failed, ...heard.rejected.map((line) => `${Number(line.split(' ')[0]) - 1} ${line.split(' ')[1]}`)].toSorted(),
    ).toEqual(codes.toSorted());
    expect(heard.errors).toEqual([]);
    expect(heard.runner.status()).toMatchObject({ state: 'running', inFlight: 0, lastError: undefined });
    for (const { errorMessage } of (await records()).filter((_, index) => index % 2 === 1)) expect(errorMessage).toMatch(/\w{3}/);
  });

  it('a result that the contract refuses is kept, and can be offered again', async () => {
    const at = await tangle.startService({ jobs: [{ name: 'square' }, { name: 'aggregated', requiresAggregation: true }] });
    const heard = await start(builderOf(at).router(new JobRouter().route(GOOD, square).route(1, square)));
    await tangle.submitMany(at.serviceId, [good(2), { jobIndex: 1, inputs: uint64(5) }, good(3)]);
    await expect
      .poll(async () => [await settled(at), (await fates())[1]], SETTLE)
      .toEqual([
        [
          [0, 4],
          [2, 9],
        ],
        'rejected RESULT_REJECTED',
      ]);
    expect(heard.hooked).toEqual(['1 RESULT_REJECTED']);
    expect((await records())[1]).toMatchObject({
      output: Uint8Array.from(Buffer.from(uint64(25).slice(2), 'hex')),
      errorMessage: expect.stringContaining('AggregationRequired') as string,
    });
    expect(await heard.runner.retry(2)).toBe(true);
    await expect.poll(() => heard.rejected, SETTLE).toEqual(['2 RESULT_REJECTED', '2 RESULT_REJECTED']);
    expect(heard.runner.state).toBe('running');
  });

  it('of a job whose types differ from its schema on chain are named so', async () => {
    const types = parseParameters('uint64 x');
    const at = await tangle.startService({ jobs: [{ name: 'square' }, { name: 'other', paramsSchema: hexOf(schemaOf(types)) }] });
    const inputs = hexOf(encodeCompact(types, [1n]));
    const heard = await start(
      builderOf(at).router(
        new JobRouter().route(GOOD, square).route(
          1,
          defineJob({ name: 'text', params: 'string s', result: 'string' }, ([s]) => s),
        ),
      ),
    );
    await tangle.submitMany(at.serviceId, [good(2), { jobIndex: 1, inputs }, good(3)]);
    await expect
      .poll(() => settled(at), SETTLE)
      .toEqual([
        [0, 4],
        [2, 9],
      ]);
    await expect.poll(async () => (await fates())[1], SETTLE).toBe('failed JOB_SCHEMA_MISMATCH');
    expect(heard.failed).toEqual(['1 JOB_SCHEMA_MISMATCH']);
    expect(heard.errors).toEqual(['blueprint JOB_SCHEMA_MISMATCH']);
    expect(heard.runner.state).toBe('running');
  });

  it('a contract with another interface is said at the start, and the runner goes on', async () => {
    const at = await service(1);
    const heard = await start(builderOf(at, { contract: tangle.spammer }).router(new JobRouter().route(GOOD, square)));
    await expect.poll(() => heard.errors, SETTLE).toEqual(['blueprint RPC_ERROR']);
    expect(heard.runner.status().lastError?.message).toContain(`make sure that ${tangle.spammer} is the Tangle contract`);
    expect(heard.runner.state).toBe('running');
  });
});

describe('handlers that are hostile', () => {
  const OK = 'HTTP/1.1 200 OK\r\n';
  const JSON_TYPE = 'content-type: application/json\r\n';
  const say = (head: string, body: string) => (socket: Socket) =>
    void socket.write(`${head}content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
  const drip = (head: string, piece: string) => (socket: Socket) => {
    socket.write(head);
    const timer = setInterval(() => socket.write(piece), 20);
    socket.once('close', () => clearInterval(timer));
  };
  const flood = (head: string, piece: string) => (socket: Socket) => {
    const write = (): void => {
      while (!socket.destroyed && socket.write(piece));
    };
    socket.on('drain', write).write(head);
    write();
  };

  const FAULTS: readonly [what: string, code: string, answer: (socket: Socket) => void][] = [
    ['says nothing', 'EXECUTOR_TIMEOUT', () => undefined],
    ['drips its head', 'EXECUTOR_TIMEOUT', drip(OK, 'x-a: b\r\n')],
    ['drips its body', 'EXECUTOR_TIMEOUT', drip(`${OK}${JSON_TYPE}content-length: 5000\r\n\r\n`, ' ')],
    ['announces too much', 'PAYLOAD_TOO_LARGE', (socket) => void socket.write(`${OK}${JSON_TYPE}content-length: 10000000000\r\n\r\n{`)],
    [
      'sends without end',
      'PAYLOAD_TOO_LARGE',
      flood(`${OK}${JSON_TYPE}transfer-encoding: chunked\r\n\r\n`, `1000\r\n${' '.repeat(4096)}\r\n`),
    ],
    [
      'sends a result above the limit',
      'PAYLOAD_TOO_LARGE',
      say(`${OK}${JSON_TYPE}`, JSON.stringify({ result: Array.from({ length: 9_000 }, () => 1) })),
    ],
    ['stops short', 'EXECUTOR_CONNECTION_LOST', (socket) => void socket.end(`${OK}${JSON_TYPE}content-length: 100\r\n\r\n{"result":[`)],
    [
      'stops in a chunk',
      'EXECUTOR_CONNECTION_LOST',
      (socket) => void socket.end(`${OK}${JSON_TYPE}transfer-encoding: chunked\r\n\r\n10\r\n{"res`),
    ],
    ['hangs up', 'EXECUTOR_CONNECTION_LOST', (socket) => void socket.end()],
    ['resets the connection', 'EXECUTOR_CONNECTION_LOST', (socket) => void socket.resetAndDestroy()],
    ['speaks another protocol', 'EXECUTOR_RESPONSE_INVALID', (socket) => void socket.write('SSH-2.0-OpenSSH_9.6\r\n')],
    ['sends a head without end', 'EXECUTOR_RESPONSE_INVALID', flood(OK, `x-a: ${'b'.repeat(1_000)}\r\n`)],
    ['sends HTML', 'EXECUTOR_RESPONSE_INVALID', say(`${OK}content-type: text/html\r\n`, '<h1>It works!</h1>')],
    ['sends broken JSON', 'EXECUTOR_RESPONSE_INVALID', say(`${OK}${JSON_TYPE}`, '{"result":[1,')],
    ['sends another object', 'EXECUTOR_RESPONSE_INVALID', say(`${OK}${JSON_TYPE}`, '{"ok":true}')],
    ['sends a list', 'EXECUTOR_RESPONSE_INVALID', say(`${OK}${JSON_TYPE}`, '[1,2]')],
    ['sends text for bytes', 'EXECUTOR_RESPONSE_INVALID', say(`${OK}${JSON_TYPE}`, '{"result":"abc"}')],
    ['sends numbers that are no bytes', 'EXECUTOR_RESPONSE_INVALID', say(`${OK}${JSON_TYPE}`, '{"result":[1,256,-1,0.5]}')],
    ['answers another call', 'EXECUTOR_RESPONSE_INVALID', say(`${OK}${JSON_TYPE}`, '{"job_id":250,"result":[1]}')],
    ['claims a compression', 'EXECUTOR_RESPONSE_INVALID', say(`${OK}${JSON_TYPE}content-encoding: gzip\r\n`, 'not gzip')],
    ['sends its callers elsewhere', 'EXECUTOR_RESPONSE_INVALID', say('HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\n', '')],
    ['sends a page of its proxy', 'EXECUTOR_CONNECTION_LOST', say('HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/html\r\n', '<html>')],
    ['claims that our ledger is broken', 'JOB_FAILED', say(`HTTP/1.1 500 Oops\r\n${JSON_TYPE}`, '{"error":"x","code":"LEDGER_CORRUPT"}')],
  ];

  /** The job says which fault; arguments that end with 0 are answered well. */
  async function hostileServer(): Promise<{ url: string; close: () => Promise<void> }> {
    const sockets = new Set<Socket>();
    const server = createServer((socket) => {
      sockets.add(socket);
      let text = '';
      socket.on('error', () => undefined).on('close', () => sockets.delete(socket));
      socket.on('data', (chunk) => {
        text += chunk.toString('latin1');
        const head = text.indexOf('\r\n\r\n');
        const length = Number(/content-length: (\d+)/i.exec(text)?.[1] ?? 0);
        if (head < 0 || text.length < head + 4 + length) return;
        const fault = Number(/^POST \/job\/(\d+) /.exec(text)?.[1]) - 1;
        const isGood = /[[,]0\]/.test(text.slice(head));
        text = '';
        if (isGood) say(`${OK}${JSON_TYPE}`, '{"result":[7]}')(socket);
        else FAULTS[fault]?.[2](socket);
      });
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    const close = async (): Promise<void> => {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    };
    return { url: `http://127.0.0.1:${port}`, close };
  }

  it('spoil the calls that they answer, and no other', async () => {
    const server = await hostileServer();
    const at = await service(FAULTS.length + 1);
    const router = new JobRouter().route(GOOD, square);
    const builder = builderOf(at).router(router);
    const executor = { use: 'http', options: { url: server.url, wire: 'json', limits: { responseBytesMax: 8_192 } } };
    // Only what is to run out is short, and longer than this process may be held up.
    for (const [index, [, code]] of FAULTS.entries())
      builder.withFaasExecutor(index + 1, executor, { timeoutMs: code === 'EXECUTOR_TIMEOUT' ? 5_000 : 60_000, breaker: false });
    const heard = await start(builder);
    const remote = (last: number): JobInput[] =>
      FAULTS.map((_, index) => ({ jobIndex: index + 1, inputs: `0x${last.toString(16).padStart(4, '0')}` }));
    const count = FAULTS.length;
    await tangle.submitMany(at.serviceId, [good(3), ...remote(0), ...remote(1)]);
    await expect.poll(() => heard.failed.length, SETTLE).toBe(count);
    await tangle.submitMany(at.serviceId, [...remote(0), good(4)]);
    const sevens = (from: number): [number, number][] => FAULTS.map((_, index) => [from + index, 7]);
    await expect.poll(() => settled(at), SETTLE).toEqual([[0, 9], ...sevens(1), ...sevens(1 + 2 * count), [1 + 3 * count, 16]]);

    const found = (await fates()).slice(1 + count, 1 + 2 * count).map((fate, index) => `${FAULTS[index]?.[0]}: ${fate}`);
    expect(found).toEqual(FAULTS.map(([what, code]) => `${what}: failed ${code}`));
    expect(heard.failed.toSorted()).toEqual(FAULTS.map(([, code], index) => `${1 + count + index} ${code}`).toSorted());
    expect(heard.errors).toEqual([]);
    expect(heard.runner.status()).toMatchObject({ state: 'running', inFlight: 0 });
    await server.close();
  });
});

describe('logs that are malformed', () => {
  interface Log {
    readonly topics: readonly string[];
    readonly data: string;
  }
  const logs = (reply: ProxyReply): Log[] => ('result' in reply && Array.isArray(reply.result) ? (reply.result as Log[]) : []);
  const isCall = ({ topics }: Log): boolean => topics[0] === TOPIC.jobSubmitted;
  const idOf = (log: Log): number => (isCall(log) ? Number(log.topics[2]) : 0);
  const BROKEN: readonly [what: string, change: (log: Log) => unknown][] = [
    ['short data', (log) => ({ ...log, data: log.data.slice(0, 130) })],
    ['no data', (log) => ({ ...log, data: '0x' })],
    ['data of half a byte', (log) => ({ ...log, data: log.data.slice(0, -1) })],
    ['too few topics', (log) => ({ ...log, topics: log.topics.slice(0, 2) })],
    ['too many topics', (log) => ({ ...log, topics: [...log.topics, ...log.topics] })],
    ['an offset beyond the data', (log) => ({ ...log, data: `${log.data.slice(0, 130)}${'f'.repeat(64)}${log.data.slice(194)}` })],
    ['a length beyond the data', (log) => ({ ...log, data: `${log.data.slice(0, 194)}${'0'.repeat(56)}ffffffff${log.data.slice(258)}` })],
    ['a job index that is none', (log) => ({ ...log, data: `0x${'0'.repeat(60)}0fff${log.data.slice(66)}` })],
    ['another contract', (log) => ({ ...log, address: `0x${'12'.repeat(20)}` })],
    ['null', () => null],
    ['text', () => 'a log'],
  ];

  it('are said and passed over; the calls beside them are settled', async () => {
    const at = await service(1);
    const proxy = await startRpcProxy({ upstream: chain.rpcUrl });
    proxy.onCall = async ({ method }, forward) => {
      const reply = await forward();
      if (method !== 'eth_getLogs') return reply;
      const change = (log: Log): unknown => {
        const broken = idOf(log) % 2 === 1 ? BROKEN[(idOf(log) - 1) / 2] : undefined;
        return broken ? broken[1](log) : log;
      };
      return { result: logs(reply).map(change) };
    };
    const heard = await start(builderOf(at, { rpcUrl: proxy.url }).router(new JobRouter().route(GOOD, square)));
    const values = Array.from({ length: 2 * BROKEN.length + 1 }, (_, index) => index);
    await tangle.submitMany(at.serviceId, values.map(good));
    await tangle.submitMany(at.serviceId, [good(50)]);
    const expected = values.filter((value) => value % 2 === 0).map((value): [number, number] => [value, value * value]);
    await expect.poll(() => settled(at), SETTLE).toEqual([...expected, [values.length, 2_500]]);
    expect(heard.errors).toEqual(BROKEN.map(() => 'chain LOG_MALFORMED'));
    expect(heard.runner.status()).toMatchObject({ state: 'running', lastError: { code: 'LOG_MALFORMED' } });
    await heard.runner.stop();
    await proxy.close();
  });

  it('of an endpoint that lies for a moment are read again: no call is lost', async () => {
    const at = await service(1);
    let lies = 2;
    const proxy = await startRpcProxy({ upstream: chain.rpcUrl });
    proxy.onCall = async ({ method }, forward) => {
      const reply = await forward();
      if (method !== 'eth_getLogs' || lies === 0 || !logs(reply).some(isCall)) return reply;
      lies -= 1;
      return { result: logs(reply).map((log) => ({ ...log, data: log.data.slice(0, 130) })) };
    };
    const heard = await start(builderOf(at, { rpcUrl: proxy.url }).router(new JobRouter().route(GOOD, square)));
    await tangle.submitMany(at.serviceId, [good(5), good(6)]);
    await expect
      .poll(() => settled(at), SETTLE)
      .toEqual([
        [0, 25],
        [1, 36],
      ]);
    expect(lies).toBe(0);
    expect(heard.errors).toEqual([]);
    await heard.runner.stop();
    await proxy.close();
  });
});

describe('an endpoint that is broken', () => {
  const ANSWERS: readonly [what: string, code: string, answer: HttpFault | ((call: ProxiedCall) => ProxyReply | undefined)][] = [
    [
      'gives no list of logs',
      'RPC_RESPONSE_INVALID',
      ({ method }) => (method === 'eth_getLogs' ? { result: { not: 'a list' } } : undefined),
    ],
    [
      'gives blocks that are none',
      'RPC_RESPONSE_INVALID',
      ({ method }) => (method === 'eth_getBlockByNumber' ? { result: 'block' } : undefined),
    ],
    ['fails', 'RPC_ERROR', () => ({ error: { code: -32_603, message: 'internal error' } })],
    ['serves a web page', 'RPC_RESPONSE_INVALID', { status: 200, body: '<html>' }],
    ['refuses its callers', 'RPC_RATE_LIMITED', { status: 429 }],
    ['is gone', 'RPC_UNREACHABLE', 'drop'],
  ];

  it.each(ANSWERS)('%s: it is said, and what came meanwhile is settled when it works again', async (_, code, answer) => {
    const at = await service(1);
    const proxy = await startRpcProxy({ upstream: chain.rpcUrl });
    const heard = await start(builderOf(at, { rpcUrl: proxy.url }).router(new JobRouter().route(GOOD, square)));
    await tangle.submitMany(at.serviceId, [good(2)]);
    await expect.poll(() => settled(at), SETTLE).toEqual([[0, 4]]);
    if (typeof answer === 'function') proxy.onCall = async (call, forward) => answer(call) ?? (await forward());
    else proxy.onHttp = () => answer;
    await tangle.submitMany(at.serviceId, [good(3)]);
    await expect.poll(() => heard.errors, SETTLE).toContain(`chain ${code}`);
    expect(heard.runner.status()).toMatchObject({ state: 'running', lastError: { code } });
    proxy.onCall = undefined;
    proxy.onHttp = undefined;
    await expect
      .poll(() => settled(at), SETTLE)
      .toEqual([
        [0, 4],
        [1, 9],
      ]);
    await heard.runner.stop();
    await proxy.close();
  });
});

describe('a ledger file that is damaged', () => {
  const DAMAGE: readonly [what: string, damage: (path: string) => void][] = [
    ['garbage', (path) => writeFileSync(path, Buffer.alloc(20_000, 'garbage '))],
    ['cut off', (path) => truncateSync(path, Math.floor(statSync(path).size / 2 / 4096) * 4096 + 100)],
    ['emptied', (path) => truncateSync(path, 0)],
    [
      'flipped in the middle',
      (path) => {
        const file = openSync(path, 'r+');
        const page = Math.floor(statSync(path).size / 4096 / 2);
        writeSync(file, Buffer.alloc(4096, 0xa5), 0, 4096, page * 4096);
        closeSync(file);
      },
    ],
  ];

  it.each(DAMAGE)('%s: the start says so and leaves it as it is; with a good copy everything goes on', async (_, damage) => {
    const at = await service(1);
    const build = (): RunnerBuilder => builderOf(at).router(new JobRouter().route(GOOD, square));
    const first = await start(build());
    await tangle.submitMany(at.serviceId, [good(2), good(3)]);
    await expect.poll(async () => (await settled(at)).length, SETTLE).toBe(2);
    await first.runner.stop();
    const copy = readFileSync(ledgerFile());
    damage(ledgerFile());
    const damaged = readFileSync(ledgerFile());
    await tangle.submitMany(at.serviceId, [good(4)]);

    const refused = await build().build();
    await expect(refused.start()).rejects.toMatchObject({
      code: 'LEDGER_CORRUPT',
      message: expect.stringContaining(ledgerFile()) as string,
    });
    await expect(build().start()).rejects.toThrow('put a good copy in its place, or move it');
    expect(refused.state).toBe('failed');
    expect(readFileSync(ledgerFile()).equals(damaged)).toBe(true);

    writeFileSync(ledgerFile(), copy);
    await start(build());
    await expect
      .poll(() => settled(at), SETTLE)
      .toEqual([
        [0, 4],
        [1, 9],
        [2, 16],
      ]);
  });

  it('moved away: what the chain still shows is read again, and nothing is settled twice', async () => {
    const at = await service(1);
    const build = (): RunnerBuilder => builderOf(at).router(new JobRouter().route(GOOD, square));
    const first = await start(build());
    await tangle.submitMany(at.serviceId, [good(2), good(3)]);
    await expect.poll(async () => (await settled(at)).length, SETTLE).toBe(2);
    await first.runner.stop();
    rmSync(ledgerFile());
    await tangle.submitMany(at.serviceId, [good(4)]);
    await start(build());
    await expect
      .poll(() => settled(at), SETTLE)
      .toEqual([
        [0, 4],
        [1, 9],
        [2, 16],
      ]);
    await expect.poll(async () => (await fates()).slice(0, 2), SETTLE).toEqual(['closed', 'closed']);
  });
});

describe('a disk that is full', () => {
  let disk: string;
  let isMounted = false;
  const mount = (size: string): void => {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'none', disk], { stdio: 'pipe' });
    isMounted = true;
  };
  const unmount = (): void => {
    if (isMounted) execFileSync('umount', [disk], { stdio: 'pipe' });
    isMounted = false;
  };
  const testTmpfs = requirePeer('tmpfs', () => {
    disk = mkdtempSync(join(tmpdir(), 'disk-'));
    try {
      mount('1m');
      unmount();
    } finally {
      rmSync(disk, { recursive: true });
    }
  });
  const filler = (): string => join(disk, 'filler');

  beforeEach(() => {
    disk = mkdtempSync(join(tmpdir(), 'disk-'));
  });
  afterEach(async () => {
    await stopRunners();
    unmount();
    rmSync(disk, { recursive: true });
  });

  /** Takes all the room that is left. */
  function fill(): void {
    const file = openSync(filler(), 'a');
    try {
      for (;;) writeSync(file, Buffer.alloc(4096));
    } catch (error) {
      expect(error).toMatchObject({ code: 'ENOSPC' });
    } finally {
      closeSync(file);
    }
  }

  testTmpfs('holds calls that run, comes back by itself, and every call is executed and settled once', async () => {
    mount('4m');
    const at = await service(1);
    const gates: (() => void)[] = [];
    const runs: string[] = [];
    const gated = defineJob({ name: 'gated', params: 'uint64 x', result: 'uint64' }, async ([x]) => {
      runs.push(String(x));
      if (x < 10n) await new Promise<void>((resolve) => gates.push(resolve));
      return x * x;
    });
    const ledger = join(disk, 'ledger.sqlite');
    const heard = await start(builderOf(at, { ledger }).router(new JobRouter().route(GOOD, gated)));
    await tangle.submitMany(at.serviceId, [good(20), good(1), good(2), good(3)]);
    await expect.poll(() => gates.length, SETTLE).toBe(3);
    await expect.poll(() => settled(at), SETTLE).toEqual([[0, 400]]);
    fill();
    for (const open of gates) open();
    await expect.poll(() => heard.errors, SETTLE).toContain('ledger LEDGER_FULL');
    await tangle.submitMany(at.serviceId, [good(30)]);
    expect(heard.runner.status()).toMatchObject({ state: 'running', lastError: { code: 'LEDGER_FULL' } });
    expect(heard.runner.status().lastError?.message).toContain(ledger);
    expect(await settled(at)).toEqual([[0, 400]]);

    rmSync(filler());
    await expect
      .poll(() => settled(at), SETTLE)
      .toEqual([
        [0, 400],
        [1, 1],
        [2, 4],
        [3, 9],
        [4, 900],
      ]);
    expect(runs.toSorted()).toEqual(['1', '2', '20', '3', '30']);
    expect(heard.failed).toEqual([]);
  });

  testTmpfs('holds settlement, which signs nothing that is not journaled', async () => {
    mount('4m');
    const at = await service(1);
    const ledger = join(disk, 'ledger.sqlite');
    const heard = await start(builderOf(at, { ledger, confirmations: 1 }).router(new JobRouter().route(GOOD, square)));
    await tangle.submitMany(at.serviceId, [good(5), good(6)]);
    await expect.poll(() => fates(ledger), SETTLE).toEqual(['executed', 'executed']);
    fill();
    await chain.mine();
    await expect.poll(() => heard.errors, SETTLE).toContain('settlement LEDGER_FULL');
    expect(heard.runner.status()).toMatchObject({ state: 'running', settlement: { lastError: { code: 'LEDGER_FULL' } } });
    expect(await settled(at)).toEqual([]);
    rmSync(filler());
    await expect
      .poll(() => settled(at), SETTLE)
      .toEqual([
        [0, 25],
        [1, 36],
      ]);
    await expect.poll(() => heard.runner.status().settlement?.lastError, SETTLE).toBeUndefined();
  });

  testTmpfs('does not keep a runner from stopping: the next one goes on', async () => {
    mount('4m');
    const at = await service(1);
    const ledger = join(disk, 'ledger.sqlite');
    const build = (): RunnerBuilder => builderOf(at, { ledger, drainMs: 500 }).router(new JobRouter().route(GOOD, square));
    const heard = await start(build());
    await tangle.submitMany(at.serviceId, [good(5)]);
    await expect.poll(() => settled(at), SETTLE).toEqual([[0, 25]]);
    fill();
    await tangle.submitMany(at.serviceId, [good(6)]);
    await expect.poll(() => heard.errors, SETTLE).toContain('ledger LEDGER_FULL');
    await heard.runner.stop();
    expect(heard.runner.state).toBe('stopped');
    rmSync(filler());
    await start(build());
    await expect
      .poll(() => settled(at), SETTLE)
      .toEqual([
        [0, 25],
        [1, 36],
      ]);
  });

  testTmpfs('does not let a runner start, and does when there is room', async () => {
    mount('1m');
    const at = await service(1);
    const build = (): RunnerBuilder =>
      builderOf(at, { ledger: join(disk, 'data', 'ledger.sqlite') }).router(new JobRouter().route(GOOD, square));
    fill();
    await expect(build().start()).rejects.toMatchObject({ code: 'LEDGER_FULL', message: expect.stringContaining(disk) as string });
    await tangle.submitMany(at.serviceId, [good(7)]);
    rmSync(filler());
    await start(build());
    await expect.poll(() => settled(at), SETTLE).toEqual([[0, 49]]);
  });
});
