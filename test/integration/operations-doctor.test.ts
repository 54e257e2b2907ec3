/** `bpr doctor --production`: each line on something that is right, and on something that is not. */

import { execFileSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statfsSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { dirname, join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { checkControllers } from '../../src/cli/commands/doctor-host.ts';
import { spaceCheck } from '../../src/cli/commands/doctor-files.ts';
import { checkClock } from '../../src/cli/commands/doctor-production.ts';
import { main } from '../../src/cli/main.ts';
import { ownVersion } from '../../src/cli/version.ts';
import { ControlPlane } from '../../src/control/control.ts';
import { operationsFiles } from '../../src/operations/operations.ts';
import { makeIdentity } from '../../src/queue/identity.ts';
import { RemoteQueue } from '../../src/queue/remote.ts';
import { readTicket, signTicket } from '../../src/queue/ticket.ts';
import { createMetrics } from '../../src/telemetry/prometheus.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import { requirePeer } from '../require.ts';
import { BPR } from '../support/bpr.ts';
import { temporaryFolder } from '../support/temporary-folders.ts';

interface Line {
  readonly name: string;
  readonly status: string;
  readonly source: string;
  readonly detail: string;
  readonly remedy?: string;
}

interface Report {
  readonly status: number;
  of(name: string): Line | undefined;
}

async function doctor(base: string, args: readonly string[] = [], env: Readonly<Record<string, string>> = {}): Promise<Report> {
  let text = '';
  const io = {
    stdout: { write: (part: string) => (text += part) },
    stderr: { write: () => true },
    env: { BPR_DATA_DIR: base, ...env },
    cwd: base,
  };
  const status = await main(['doctor', '--production', '--json', ...args], io);
  const { checks } = JSON.parse(text) as { readonly checks: readonly Line[] };
  for (const { name, status: verdict, remedy } of checks) expect([name, (remedy ?? '') !== '']).toEqual([name, verdict !== 'ok']);
  return { status, of: (name) => checks.find((line) => line.name === name) };
}

/** A control plane in its folder, and somebody who is enrolled. */
async function plane(): Promise<{ readonly base: string; readonly queue: RemoteQueue }> {
  const base = temporaryFolder('doctor');
  const metrics = createMetrics();
  const telemetry = { ...silentTelemetry, metrics };
  const control = new ControlPlane({ folder: join(base, 'control'), telemetry, metrics: () => metrics.expose() });
  await control.listen({ port: 0 });
  onTestFinished(() => control.close(0));
  const { ticket } = await control.tickets.create({ uses: 1 });
  const queue = await RemoteQueue.connect({ credentials: { ticket, identity: makeIdentity() } });
  onTestFinished(() => queue.close());
  return { base, queue };
}

function isWorker(queue: RemoteQueue, version = ownVersion()): Promise<unknown> {
  const body = { state: 'ready', concurrency: 4, version, memoryMaxBytes: 1_000_000 };
  return queue.control.ask({ method: 'PUT', path: '/workers/self', body });
}

/** Answers everything in the same way; returns its address. */
async function server(answer: (path: string, body: string) => unknown): Promise<string> {
  const http = createServer((request, response) => {
    let body = '';
    request.on('data', (part: Buffer) => (body += part.toString()));
    request.on('end', () => response.end(JSON.stringify(answer(request.url ?? '', body))));
  });
  await new Promise<void>((resolve) => {
    http.listen(0, '127.0.0.1', resolve);
  });
  onTestFinished(() => {
    http.closeAllConnections();
    http.close();
  });
  return `http://127.0.0.1:${(http.address() as AddressInfo).port}`;
}

/** A folder of a control plane that is said to be at this address. */
function pretend(url: string): string {
  const base = temporaryFolder('doctor');
  mkdirSync(join(base, 'control'));
  writeFileSync(join(base, 'control', 'control.json'), JSON.stringify({ url }));
  return base;
}

describe('a machine that is ready', () => {
  it('has no line that fails, and each says what was looked at', async () => {
    const { base, queue } = await plane();
    await isWorker(queue);
    const backups = temporaryFolder('backups');
    writeFileSync(join(backups, 'ledger.sqlite'), '');
    const alerts = join(base, 'alerts.yml');
    writeFileSync(alerts, operationsFiles({ controlFolder: base })['alerts.yml'] ?? '');
    const report = await doctor(base, ['--backups', backups, '--alerts', alerts]);
    const names = ['disk space', 'file modes', 'backups', 'clock', 'control plane', 'TLS', 'ticket', 'authentication', 'metrics', 'limits'];
    for (const name of [...names, 'dead letters', 'object store', 'workers', 'versions', 'memory limits', 'alert rules']) {
      const { status, source = '', detail = '' } = report.of(name) ?? {};
      expect([name, status]).toEqual([name, 'ok']);
      expect([source, detail]).not.toContain('');
    }
    expect(report.of('workers')?.detail).toBe('1 there, 4 places');
    expect(report.status).toBe(0);
  });
});

describe('files', () => {
  const testTmpfs = requirePeer('tmpfs', () => {
    if (statfsSync('/dev/shm').type !== 0x01021994) throw new Error('/dev/shm is no tmpfs');
  });

  testTmpfs('fails on a data directory in memory', async () => {
    const base = mkdtempSync('/dev/shm/bpr-doctor-');
    onTestFinished(() => rmSync(base, { recursive: true, force: true }));
    const report = await doctor(base);
    expect(report.of('data directory kind')).toMatchObject({ status: 'fail', detail: 'tmpfs' });
    expect(report.status).toBe(1);
  });

  it('fails where nothing can be written', async () => {
    expect((await doctor('/proc/self/fdinfo')).of('fsync')).toMatchObject({ status: 'fail', source: '5 writes in /proc/self/fdinfo' });
  });

  it('fails on a disk that is nearly full, and warns before', () => {
    const totalBytes = 100 * 1024 ** 3;
    const of = (gib: number) => spaceCheck('/data', { freeBytes: gib * 1024 ** 3, totalBytes });
    expect([of(0.9), of(4), of(50)].map(({ status }) => status)).toEqual(['fail', 'warn', 'ok']);
    expect(of(0.9).detail).toBe('0.9 GiB of 100.0 GiB free');
  });

  it('fails on a key that others may read, and names it', async () => {
    const { base } = await plane();
    const open = join(base, 'control', 'control.key');
    chmodSync(open, 0o640);
    const operator = join(base, 'operator-key');
    writeFileSync(operator, '0x1', { mode: 0o604 });
    const { of } = await doctor(base, [], { OPERATOR_PRIVATE_KEY: `file:${operator}` });
    expect(of('file modes')).toMatchObject({ status: 'fail', detail: `others may read ${open} 0640, ${operator} 0604` });
  });

  it('fails on backups that are missing, none, or old', async () => {
    const base = temporaryFolder('doctor');
    const folder = join(base, 'backups');
    const look = async () => (await doctor(base, ['--backups', folder])).of('backups');
    expect(await look()).toMatchObject({ status: 'fail', detail: 'there is no such folder' });
    mkdirSync(folder);
    expect(await look()).toMatchObject({ status: 'fail', detail: 'it is empty' });
    writeFileSync(join(folder, 'a'), '');
    const old = Date.now() / 1_000 - 30 * 3_600;
    utimesSync(join(folder, 'a'), old, old);
    expect(await look()).toMatchObject({ status: 'fail', detail: '1 there, the newest 30.0 hours old' });
    symlinkSync(join(base, 'nowhere'), join(folder, 'b'));
    expect(await look()).toMatchObject({ status: 'fail', detail: '1 there, the newest 30.0 hours old' });
    expect((await doctor(base, ['--backups', join(folder, 'a')])).of('backups')).toMatchObject({
      status: 'fail',
      detail: 'it is no folder',
    });
    expect((await doctor(base)).of('backups')?.status).toBe('warn');
  });
});

describe('the machine', () => {
  it('fails on a clock that was never set', () => {
    expect(checkClock(0)).toMatchObject({ status: 'fail', detail: '1970-01-01T00:00:00.000Z' });
    expect(checkClock(Date.now()).status).toBe('ok');
  });

  it('fails where a process may open few files', () => {
    const base = temporaryFolder('doctor');
    const env = { PATH: `${dirname(process.execPath)}:/usr/bin:/bin`, BPR_DATA_DIR: base };
    const script = 'ulimit -n 512; "$0" "$1" doctor --production --json || true';
    const text = execFileSync('sh', ['-c', script, process.execPath, BPR], { encoding: 'utf8', env, cwd: base });
    const { ok, checks } = JSON.parse(text) as { readonly ok: boolean; readonly checks: readonly Line[] };
    expect(ok).toBe(false);
    expect(checks.find(({ name }) => name === 'open files')).toMatchObject({ status: 'fail', detail: 'at most 512' });
  });

  it('warns where control groups cannot limit', () => {
    const root = temporaryFolder('cgroup');
    expect(checkControllers(root)).toMatchObject({ status: 'warn', detail: 'no unified hierarchy' });
    writeFileSync(join(root, 'cgroup.controllers'), 'cpuset cpu pids\n');
    expect(checkControllers(root)).toMatchObject({
      status: 'warn',
      remedy: expect.stringContaining('without limits of memory:') as string,
    });
    writeFileSync(join(root, 'cgroup.controllers'), 'cpu memory pids\n');
    expect(checkControllers(root).status).toBe('ok');
  });
});

describe('the control plane', () => {
  it('fails when it does not run', async () => {
    const { of, status } = await doctor(pretend('http://127.0.0.1:1'));
    expect(of('control plane')).toMatchObject({ status: 'fail', detail: expect.stringMatching(/^EXECUTOR_UNREACHABLE/) as string });
    expect(status).toBe(1);
  });

  it('fails when nothing tells where it is, and looks at all else', async () => {
    const base = pretend('http://127.0.0.1:1');
    for (const text of ['{"url"', '{}', 'null', '{"url":"nowhere"}']) {
      writeFileSync(join(base, 'control', 'control.json'), text);
      const { of, status } = await doctor(base);
      expect(of('control plane')).toMatchObject({ status: 'fail', detail: 'it does not tell where the control plane listens' });
      expect([status, of('alert rules')?.status]).toEqual([1, 'warn']);
    }
  });

  it('fails on one beyond loopback without TLS, and sends it nothing', async () => {
    const { of } = await doctor(pretend('http://192.0.2.1:3020'));
    expect(of('TLS')).toMatchObject({ status: 'fail', detail: 'http://192.0.2.1:3020' });
    expect(of('authentication')).toBe(undefined);
  });

  it('fails on one that answers strangers, tells no metrics and keeps no objects', async () => {
    const url = await server(() => ({ limits: {}, workers: [], byState: { dead: 0 } }));
    const { of } = await doctor(pretend(url));
    expect(of('authentication')).toMatchObject({ status: 'fail', detail: '200 without a token' });
    for (const name of ['metrics', 'limits', 'object store', 'workers']) expect([name, of(name)?.status]).toEqual([name, 'fail']);
  });

  it('fails on a ticket that is over or broken', async () => {
    const { base } = await plane();
    const file = join(base, 'control', 'endpoint.ticket');
    const { publicKey: serverKey, privateKey } = makeIdentity();
    const ticket = { ...readTicket(readFileSync(file, 'utf8')), serverKey, notBefore: 1_000, expiresAt: 2_000 };
    writeFileSync(file, signTicket(ticket, privateKey));
    expect((await doctor(base)).of('ticket')).toMatchObject({
      status: 'fail',
      detail: expect.stringContaining('until 1970-01-01') as string,
    });
    writeFileSync(file, `${readFileSync(file, 'utf8').slice(0, -4)}AAAA`);
    expect((await doctor(base)).of('ticket')).toMatchObject({
      status: 'fail',
      detail: expect.stringMatching(/^TICKET_MALFORMED/) as string,
    });
  });

  it('fails without workers, warns of dead jobs and of workers of another version', async () => {
    const { base, queue } = await plane();
    await queue.publish({ id: 'a', type: 'work', payload: Buffer.from('7'), attemptsMax: 1 });
    const [job] = await queue.claim({ workerId: queue.workerId });
    if (job) await queue.fail(job.lease, { code: 'JOB_FAILED', message: 'no' });
    const before = await doctor(base);
    expect(before.of('workers')).toMatchObject({ status: 'fail', detail: '0 there, 0 places' });
    expect(before.of('dead letters')).toMatchObject({ status: 'warn', detail: '1 dead, 0 waiting' });
    await isWorker(queue, '0.0.1');
    const after = await doctor(base);
    expect(after.of('versions')).toMatchObject({ status: 'warn', detail: `${queue.workerId} 0.0.1; here ${ownVersion()}` });
    expect(after.of('workers')?.status).toBe('ok');
  });
});

describe('alerts and chain', () => {
  it('fails on alert rules that are missing or not all of ours', async () => {
    const base = temporaryFolder('doctor');
    const file = join(base, 'alerts.yml');
    expect((await doctor(base, ['--alerts', file])).of('alert rules')).toMatchObject({ status: 'fail', detail: 'there is no such file' });
    expect((await doctor(base, ['--alerts', base])).of('alert rules')).toMatchObject({
      status: 'fail',
      detail: expect.stringContaining('EISDIR') as string,
    });
    const rules = operationsFiles({ controlFolder: base })['alerts.yml'] ?? '';
    writeFileSync(file, rules.replace('BprNoWorkers', 'Other'));
    expect((await doctor(base, ['--alerts', file])).of('alert rules')).toMatchObject({ status: 'fail', detail: 'missing: BprNoWorkers' });
    const prometheus = await server((path) => (path === '/api/v1/rules' ? { rules } : {}));
    expect((await doctor(base, ['--prometheus', prometheus])).of('alert rules')).toMatchObject({ status: 'ok', detail: 'all 12' });
    const told = async (address: string) => (await doctor(base, ['--prometheus', address])).of('alert rules');
    expect(await told('http://127.0.0.1:1')).toMatchObject({ status: 'fail', detail: 'fetch failed: bad port' });
    expect(await told('127.0.0.1:9090')).toMatchObject({ status: 'fail', detail: 'that is no address' });
    expect((await told('ada:secret@127.0.0.1:9090'))?.source).not.toContain('secret');
    const guarded = createServer(({ headers }, response) => {
      response.statusCode = headers.authorization === `Basic ${Buffer.from('ada:p@ss').toString('base64')}` ? 200 : 401;
      response.end(JSON.stringify({ rules }));
    });
    await new Promise<void>((resolve) => {
      guarded.listen(0, '127.0.0.1', resolve);
    });
    onTestFinished(() => void guarded.close());
    const { port } = guarded.address() as AddressInfo;
    expect(await told(`http://127.0.0.1:${port}`)).toMatchObject({ status: 'fail', detail: 'it answered 401' });
    const open = await told(`http://ada:p%40ss@127.0.0.1:${port}`);
    expect(open).toMatchObject({ status: 'ok', detail: 'all 12' });
    expect(open?.source).not.toMatch(/ada|ss@/);
    expect(await told(`http://ada:50%off@127.0.0.1:${port}`)).toMatchObject({ status: 'fail', detail: 'it answered 401' });
  });

  it('fails on a node that is behind or still syncs', async () => {
    const rpc = (syncing: unknown, ageS: number) => {
      // Of before it is asked for, however late the answer is.
      const block = { number: '0x10', timestamp: `0x${Math.floor(Date.now() / 1_000 - ageS).toString(16)}` };
      return server((_, body) => {
        const one = (id: number, method: string) => {
          const results: Readonly<Record<string, unknown>> = { eth_chainId: '0x1', eth_syncing: syncing, eth_getBlockByNumber: block };
          return { jsonrpc: '2.0', id, result: results[method] ?? '0x' };
        };
        const request = JSON.parse(body) as { id: number; method: string } | { id: number; method: string }[];
        return Array.isArray(request) ? request.map(({ id, method }) => one(id, method)) : one(request.id, request.method);
      });
    };
    const base = temporaryFolder('doctor');
    const look = async (syncing: unknown, ageS: number) =>
      (await doctor(base, ['--rpc-url', await rpc(syncing, ageS)])).of('chain in sync');
    expect(await look(false, 5)).toMatchObject({ status: 'ok' });
    expect(await look(false, 4_000)).toMatchObject({ status: 'fail', detail: expect.stringMatching(/^block 16, 4\d{3} s old$/) as string });
    expect(await look({ currentBlock: '0x1' }, 5)).toMatchObject({
      status: 'fail',
      detail: expect.stringContaining('the node is syncing') as string,
    });
    expect((await doctor(base, ['--rpc-url', 'http://127.0.0.1:1'])).of('chain in sync')?.status).toBe('fail');
  });
});
