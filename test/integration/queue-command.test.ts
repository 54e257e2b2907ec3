/** `bpr queue publish` as a user runs it: functions of this machine as jobs, a control plane, a worker. */

import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { ControlPlane } from '../../src/control/control.ts';
import { makeIdentity } from '../../src/queue/identity.ts';
import { RemoteQueue } from '../../src/queue/remote.ts';
import { BPR } from '../support/bpr.ts';
import { CliUser } from '../support/cli-user.ts';
import { WorkerCommand } from '../support/worker-command.ts';

const ROOT = join(import.meta.dirname, '../..');
const HELLO = 'export const handler = async ({ name }) => `Hello, ${name}`;\n';

let folder: string;
let control: ControlPlane;
let worker: WorkerCommand;
let user: CliUser;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'qc-'));
  control = new ControlPlane({ folder: join(folder, 'control') });
  await control.listen({ port: 0 });
  const { ticket } = await control.tickets.create({ uses: 10 });
  worker = new WorkerCommand(join(folder, 'w'), { CONTROL_PLANE_TICKET: ticket });
  user = new CliUser(folder);
  await worker.until('ready');
}, 240_000);

afterAll(async () => {
  await worker.kill();
  await control.close(100);
  rmSync(folder, { recursive: true, force: true });
});

const place = (name: string, text: string): string => {
  const file = join(user.home, name);
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, text);
  return name;
};
const at = (): readonly string[] => ['--data', join(folder, 'control')];
const publish = (...args: readonly string[]): Promise<Record<string, unknown>> => user.json('queue', 'publish', ...args, ...at());
const objects = (): readonly string[] => readdirSync(join(folder, 'control/objects'));

describe('a function of this machine', () => {
  it('is stored once by its hash, called by a worker, and answers', async () => {
    const hello = place('hello.mjs', HELLO);
    const first = await publish('--package', hello, '--event', '{"name":"Ada"}', '--wait');
    expect(first).toMatchObject({ duplicate: false, body: 'Hello, Ada', package: { sha256: expect.stringMatching(/^[0-9a-f]{64}$/) } });
    const { sha256 } = first['package'] as { readonly sha256: string };
    expect(objects()).toContain(sha256);
    const before = objects().length;
    const many = await publish('--package', hello, '--event-file', place('event.json', '{"name":"Bob"}'), '--count', '5', '--id', 'many', '--wait'); // prettier-ignore
    expect(many).toMatchObject({ failed: 0, package: { sha256 } });
    expect(many['jobs']).toEqual(
      [1, 2, 3, 4, 5].map((count) => expect.objectContaining({ id: `many-${count}`, body: 'Hello, Bob' }) as object),
    );
    expect(objects()).toHaveLength(before);
    const { code, stdout } = await user.bpr('queue', 'publish', '--package', hello, '--event', '{"name":"Eve"}', '--wait', ...at());
    expect([code, stdout]).toEqual([0, '"Hello, Eve"\n']);
  }, 240_000);

  it('may be a folder, a zip, a module with imports, or a router of jobs', async () => {
    place('app/lib/greet.js', 'exports.greet = (name) => `Good day, ${name}`;');
    place('app/index.js', "exports.main = async ({ name }) => require('./lib/greet.js').greet(name);");
    const whole = await publish('--package', 'app', '--handler', 'index.main', '--event', '{"name":"Ada"}', '--wait');
    expect(whole).toMatchObject({ body: 'Good day, Ada' });
    const { sha256 } = whole['package'] as { readonly sha256: string };
    writeFileSync(join(user.home, 'app.zip'), readFileSync(join(folder, 'control/objects', sha256)));
    const zipped = await publish('--package', 'app.zip', '--handler', 'index.main', '--event', '{"name":"Bob"}', '--wait');
    expect(zipped).toMatchObject({ body: 'Good day, Bob', package: { sha256 } });
    place('src/name.ts', 'export const shout = (name: string): string => name.toUpperCase();');
    const typed = "import { shout } from './name.ts';\nexport const greet = async (event: { name: string }) => shout(event.name);";
    expect(await publish('--package', place('src/typed.ts', typed), '--handler', 'typed.greet', '--event', '{"name":"eve"}', '--wait')).toMatchObject({ body: 'EVE' }); // prettier-ignore
    const jobs = join(ROOT, 'test/fixtures/worker/jobs.ts');
    const event = (bytes: number): string => JSON.stringify({ job_id: 0, args_base64: Buffer.alloc(bytes, 0).toString('base64') });
    expect(await publish('--package', jobs, '--event', event(32), '--wait')).toMatchObject({
      body: { result_base64: Buffer.alloc(32).toString('base64') },
    });
    // It answers, and that is an error.
    const refused = await user.bpr('queue', 'publish', '--package', jobs, '--event', event(1), '--wait', ...at());
    expect(refused).toMatchObject({ code: 1, stderr: expect.stringMatching(/^JOB_ARGS_INVALID: /) as string });
  }, 240_000);

  it('that fails, or does not end, ends the command with 1 and says why', async () => {
    const failing = place('fail.mjs', "export const handler = async ({ x }) => { if (x > 1) throw new Error('too much'); return x; };");
    const one = await user.bpr('queue', 'publish', '--package', failing, '--event', '{"x":2}', '--attempts', '1', '--wait', ...at());
    expect(one).toMatchObject({ code: 1, stderr: expect.stringMatching(/^FUNCTION_FAILED: .*too much/) as string });
    const two = await user.bpr('queue', 'publish', '--package', failing, '--event', '{"x":3}', '--attempts', '1', '--count', '2', '--wait', '--json', ...at()); // prettier-ignore
    expect(two.code).toBe(1);
    const error = { code: 'FUNCTION_FAILED', message: expect.stringContaining('too much') as string };
    expect(JSON.parse(two.stdout)).toMatchObject({ failed: 2, jobs: [{ error }, { error }] });
    const slow = place('slow.mjs', 'export const handler = () => new Promise((resolve) => setTimeout(resolve, 60_000));');
    const late = await publish('--package', slow, '--timeout', '1s', '--attempts', '1', '--wait');
    expect(late).toMatchObject({ error: { code: 'EXECUTOR_TIMEOUT' } });
  }, 240_000);

  it('is waited for until a signal; the jobs stay', async () => {
    const { ticket } = await control.tickets.create({ capabilities: ['patience'] });
    const queue = await RemoteQueue.connect({ credentials: { ticket, identity: makeIdentity() } });
    onTestFinished(() => queue.close());
    const hello = place('hello.mjs', HELLO);
    const { child, ended } = user.start([
      'queue',
      'publish',
      '--package',
      hello,
      '--id',
      'stays',
      '--require',
      'patience',
      '--wait',
      ...at(),
    ]);
    let told = '';
    child.stderr?.on('data', (text: string) => (told += text));
    const [job] = await queue.claim({ workerId: queue.workerId, capabilities: ['patience'], leaseMs: 120_000, waitMs: 60_000 });
    if (!job) throw new Error('there is no job');
    await expect.poll(() => told, { timeout: 60_000 }).toContain('claimed');
    child.kill('SIGINT');
    const { code, stderr } = await ended;
    expect([code, stderr]).toEqual([
      130,
      expect.stringMatching(/interrupted by SIGINT\nthe jobs stay in the queue: bpr queue status stays/),
    ]);
    await queue.complete(job.lease, { body: Buffer.from('"Hello"') });
    expect((await user.json('queue', 'status', 'stays', ...at()))['state']).toBe('completed');
  });

  it('stays when its control plane goes while it is waited for, as is said', async () => {
    const own = new ControlPlane({ folder: join(folder, 'goes') });
    onTestFinished(() => own.close(0));
    await own.listen({ port: 0 });
    const { ticket } = await own.tickets.create({});
    const queue = await RemoteQueue.connect({ credentials: { ticket, identity: makeIdentity() } });
    onTestFinished(() => queue.close());
    const { ended } = user.start(['queue', 'publish', 'work', '--id', 'kept', '--wait', '--data', join(folder, 'goes')]);
    await queue.claim({ workerId: queue.workerId, waitMs: 60_000 });
    await own.close(0);
    const { code, stderr } = await ended;
    expect([code, stderr]).toEqual([
      1,
      expect.stringMatching(/^EXECUTOR_[A-Z]+: .*\nthe jobs stay in the queue: bpr queue status kept\n/m),
    ]);
  });

  it('is refused when the call is wrong, before anything is stored', async () => {
    const hello = place('hello.mjs', HELLO);
    const before = objects();
    const codes = [];
    symlinkSync('/etc/hostname', join(user.home, 'app-link'));
    place('linked/handler.mjs', HELLO);
    symlinkSync('/etc/hostname', join(user.home, 'linked/host'));
    for (const args of [
      ['--package', hello, '--event', '{name}'],
      ['--package', hello, '--payload', '1'],
      ['resize', '--package', hello],
      ['resize', '--event', '{}'],
      [],
      ['--package', 'nowhere'],
      ['--package', hello, '--handler', 'hello.other'],
      ['--package', 'linked'],
      ['--package', hello, '--memory', '1'],
      ['resize', '--within', '2s', '--delay', '2s'],
    ])
      codes.push(((await publish(...args))['error'] as { readonly code: string }).code);
    const config = 'CONFIG_INVALID';
    const wrong = ['CODE_MISSING', 'BUILD_FAILED', 'BUILD_FAILED', 'REQUEST_INVALID', config];
    expect(codes).toEqual([config, config, config, config, config, ...wrong]);
    expect(objects()).toEqual(before);
  }, 240_000);
});

it('the lines of the README bring up a control plane and a worker, and run jobs', async () => {
  const readme = readFileSync(join(ROOT, 'README.md'), 'utf8');
  const block = /```sh\n(echo [^]*?)\n```/.exec(readme)?.[1] ?? '';
  const lines = block.split('\n').filter((line) => line !== '');
  const home = mkdtempSync(join(folder, 'home-'));
  const shim = join(home, 'npx');
  writeFileSync(shim, `#!/bin/sh\nshift\nexec ${process.execPath} ${BPR} "$@"\n`);
  chmodSync(shim, 0o755);
  const started: { readonly child: ChildProcess; readonly ended: Promise<unknown> }[] = [];
  onTestFinished(async () => {
    for (const { child, ended } of started) {
      child.kill('SIGKILL');
      await ended;
    }
  });
  const env = { PATH: `${home}:${dirname(process.execPath)}:/usr/bin:/bin`, HOME: home };
  const outputs: string[] = [];
  for (const line of lines) {
    const command = line.replace(/\s+#.*$/, '').replace('bpr control-plane', 'bpr control-plane --port 0');
    const isServer = command.endsWith('&');
    const child = spawn('sh', ['-c', isServer ? `exec ${command.slice(0, -1)}` : command], {
      env,
      cwd: home,
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    if (isServer) {
      const ended = once(child, 'close');
      started.push({ child, ended });
      if (command.includes('control-plane')) {
        const isThere = (): boolean => existsSync(join(home, '.blueprint-runner/control/control.json')) || child.exitCode !== null;
        await expect.poll(isThere, { timeout: 60_000 }).toBe(true);
      }
      continue;
    }
    let output = '';
    child.stdout?.on('data', (text: Buffer) => (output += text.toString('utf8')));
    const [code] = (await once(child, 'close')) as [number | null];
    expect([line, code]).toEqual([line, 0]);
    outputs.push(output);
  }
  expect(started).toHaveLength(2);
  expect(outputs.some((output) => output === '"Hello, Ada"\n')).toBe(true);
  expect(outputs.some((output) => output.endsWith('100 of 100 completed\n'))).toBe(true);
});
