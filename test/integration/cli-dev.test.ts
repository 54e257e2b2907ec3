import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { descendantsOf, isAlive } from '../support/alive.ts';

const BPR = join(import.meta.dirname, '../fixtures/cli/bpr.ts');
const SOURCES = join(import.meta.dirname, '../../src');

let project: string;
/** Where the command keeps what lasts as long as it runs. */
let temporary: string;
let started: Command[];

beforeEach(() => {
  project = mkdtempSync(join(tmpdir(), 'bpr-dev-project-'));
  temporary = mkdtempSync(join(tmpdir(), 'bpr-dev-temporary-'));
  started = [];
  write('jobs.ts', jobsModule(['times']));
  write('factor.ts', 'export const factor = 2n;\n');
});

afterEach(async () => {
  for (const command of started) command.signal('SIGKILL');
  await Promise.all(started.map(({ ended }) => ended));
  for (const directory of [project, temporary]) rmSync(directory, { recursive: true, force: true });
});

/** As one change: who watches never sees half of it. */
function write(name: string, text: string): void {
  writeFileSync(`${project}.written`, text);
  renameSync(`${project}.written`, join(project, name));
}

function jobsModule(names: readonly string[]): string {
  const routes = names.map(
    (name, index) =>
      `.route(${index}, defineJob({ name: '${name}', params: 'uint64 x', result: 'uint64' }, ([x]) => { console.log('{"job":"${name}"}'); return x * factor; }))`,
  );
  return `import { defineJob } from '${SOURCES}/job/job.ts';
import { JobRouter } from '${SOURCES}/job/router.ts';
import { factor } from './factor.ts';
export const router = new JobRouter()${routes.join('')};
`;
}

type Event = Readonly<Record<string, unknown>> & { readonly event: string };

interface Ended {
  readonly status: number | null;
  readonly signal: string | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** One run of the command line, in a process group of its own as a shell makes it. */
class Command {
  readonly ended: Promise<Ended>;
  readonly pid: number;
  #stdout = '';
  #stderr = '';
  #taken = 0;
  #wake = Promise.withResolvers<void>();
  #isOver = false;

  constructor(args: readonly string[], env: Readonly<Record<string, string>> = {}) {
    const environment = { PATH: '/usr/bin:/bin', TMPDIR: temporary, ...env };
    const child = spawn(process.execPath, [BPR, ...args], {
      cwd: project,
      env: environment,
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
    });
    this.pid = child.pid ?? 0;
    const more = (): void => {
      this.#wake.resolve();
      this.#wake = Promise.withResolvers();
    };
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      this.#stdout += text;
      more();
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr += text;
      more();
    });
    this.ended = new Promise((resolve) => {
      child.once('close', (status, signal) => {
        this.#isOver = true;
        more();
        resolve({ status, signal, stdout: this.#stdout, stderr: this.#stderr });
      });
    });
    started.push(this);
  }

  get stderr(): string {
    return this.#stderr;
  }

  /** The next event that fits, after the one that was taken last. Events between are passed over. */
  async next(fits: (event: Event) => boolean): Promise<Event> {
    while (true) {
      const lines = this.#stdout.split('\n').slice(0, -1);
      while (this.#taken < lines.length) {
        const event = JSON.parse(lines[this.#taken] ?? '') as Event;
        this.#taken += 1;
        if (fits(event)) return event;
      }
      await this.#more();
    }
  }

  /** Resolves when both streams together show the text. */
  async shows(text: string): Promise<void> {
    while (!(this.#stdout + this.#stderr).includes(text)) await this.#more();
  }

  signal(name: NodeJS.Signals, whom: 'process' | 'group' = 'process'): void {
    if (!this.#isOver) process.kill(whom === 'group' ? -this.pid : this.pid, name);
  }

  async #more(): Promise<void> {
    if (this.#isOver) throw new Error(`it ended too early: ${this.#stdout}\n${this.#stderr}`);
    await this.#wake.promise;
  }
}

const isEvent =
  (name: string) =>
  ({ event }: Event): boolean =>
    event === name;

/** Runs the command that `dev` prints for a job. */
async function call(command: string): Promise<unknown> {
  const [, key = ''] = /^CALLER_PRIVATE_KEY=(\S+) npx bpr /.exec(command) ?? [];
  const args = [...command.slice(command.indexOf(' jobs ')).matchAll(/'([^']*)'|(\S+)/g)].map(([, quoted, plain]) => quoted ?? plain ?? '');
  const { status, stdout, stderr } = await new Command([...args, '--json'], { CALLER_PRIVATE_KEY: key }).ended;
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  const { results } = JSON.parse(stdout) as { results: readonly { readonly values: unknown }[] };
  return results[0]?.values;
}

describe.each([
  { mode: 'in the process of the runner', flags: [], executor: 'in-process' },
  { mode: 'behind the handler', flags: ['--handler'], executor: 'handler' },
])('dev, the jobs $mode', ({ flags, executor }) => {
  it('settles calls, takes up a change, keeps serving when a change is broken, and ends with everything it started', async () => {
    const dev = new Command(['dev', 'jobs.ts', '--json', ...flags]);
    const ready = await dev.next(isEvent('ready'));
    const [command = ''] = ready['submit'] as string[];
    expect(ready).toMatchObject({ chainId: 31337, serviceId: '0' });
    expect(ready['handlerUrl']).toEqual(executor === 'handler' ? expect.stringMatching(/^http:\/\/127\.0\.0\.1:\d+$/) : null);

    expect(await call(command)).toEqual(['2']);
    expect(await dev.next(isEvent('seen'))).toMatchObject({ callId: '0', job: 'times', arguments: '1' });
    const executed = await dev.next(isEvent('executed'));
    expect(executed).toMatchObject({ callId: '0', job: 'times', result: '2', executor, attempt: 1 });
    expect(executed['output']).toBe(`0x${'0'.repeat(63)}2`);
    const mined = await dev.next(isEvent('mined'));
    expect(mined).toMatchObject({ success: true, hash: expect.stringMatching(/^0x[\da-f]{64}$/) as string });
    await dev.shows('{"job":"times"}');

    write('factor.ts', 'export const factor = 3n;\n');
    const reload = await dev.next(({ event }) => event.startsWith('reload'));
    expect(reload).toMatchObject({ event: 'reload', file: 'factor.ts', ms: expect.any(Number) as number });
    expect(await call(command)).toEqual(['3']);

    write('factor.ts', 'export const factor = (;\n');
    const broken = await dev.next(({ event }) => event.startsWith('reload'));
    expect(broken).toMatchObject({ event: 'reload-failed', file: 'factor.ts', code: 'CONFIG_INVALID', isServing: true });
    expect(broken['message']).toContain(`${join(project, 'factor.ts')}:1\nexport const factor = (;`);
    expect(await call(command)).toEqual(['3']);

    write('factor.ts', 'export const factor = 4n;\n');
    expect(await dev.next(({ event }) => event.startsWith('reload'))).toMatchObject({ event: 'reload' });
    expect(await call(command)).toEqual(['4']);

    const below = descendantsOf(dev.pid);
    // The chain and its keeper, the runner and the one that waits, and with a handler that and the bundler.
    expect(below.length).toBeGreaterThanOrEqual(executor === 'handler' ? 5 : 4);
    dev.signal('SIGINT', 'group');
    expect(await dev.next(isEvent('stopped'))).toEqual({ event: 'stopped' });
    expect(await dev.ended).toMatchObject({ status: 0, signal: null });
    expect(below.filter(isAlive)).toEqual([]);
    expect(readdirSync(temporary)).toEqual([]);
  });
});

describe('dev', () => {
  it('offers a job that a change adds at a new service', async () => {
    const dev = new Command(['dev', 'jobs.ts', '--json']);
    const before = await dev.next(isEvent('ready'));
    write('jobs.ts', jobsModule(['times', 'again']));
    const after = await dev.next(isEvent('ready'));
    expect(after['serviceId']).not.toBe(before['serviceId']);
    const commands = after['submit'] as string[];
    expect(commands).toHaveLength(2);
    expect(await call(commands[1] ?? '')).toEqual(['2']);
    const [old = ''] = before['submit'] as string[];
    expect(await call(old)).toEqual(['2']);
    dev.signal('SIGTERM');
    expect((await dev.ended).status).toBe(0);
  });

  it('waits for a file that is missing', async () => {
    const dev = new Command(['dev', 'jobs.ts', '--json']);
    await dev.next(isEvent('ready'));
    rmSync(join(project, 'factor.ts'));
    const failed = await dev.next(({ event }) => event.startsWith('reload'));
    expect(failed).toMatchObject({ event: 'reload-failed', message: expect.stringContaining('Cannot find module') as string });
    write('factor.ts', 'export const factor = 5n;\n');
    expect(await dev.next(({ event }) => event.startsWith('reload'))).toMatchObject({ event: 'reload', file: 'factor.ts' });
    dev.signal('SIGTERM');
    expect((await dev.ended).status).toBe(0);
  });

  it('takes up a change that comes while it starts', async () => {
    write('jobs.ts', `${jobsModule(['times'])}console.log('loaded');\n`);
    const dev = new Command(['dev', 'jobs.ts', '--json']);
    await dev.shows('loaded');
    write('factor.ts', 'export const factor = 6n;\n');
    const ready = await dev.next(isEvent('ready'));
    expect(await dev.next(({ event }) => event.startsWith('reload'))).toMatchObject({ event: 'reload', file: 'factor.ts' });
    const [command = ''] = ready['submit'] as string[];
    expect(await call(command)).toEqual(['6']);
    dev.signal('SIGTERM');
    expect((await dev.ended).status).toBe(0);
  });

  it('goes on with a folder that was removed and came back, as when another branch is checked out', async () => {
    mkdirSync(join(project, 'lib'));
    write('lib/factor.ts', 'export const factor = 2n;\n');
    write('jobs.ts', jobsModule(['times']).replace('./factor.ts', './lib/factor.ts'));
    const dev = new Command(['dev', 'jobs.ts', '--json']);
    await dev.next(isEvent('ready'));
    const reloads = ({ event }: Event): boolean => event.startsWith('reload');
    rmSync(join(project, 'lib'), { recursive: true });
    expect(await dev.next(reloads)).toMatchObject({ event: 'reload-failed', isServing: true });
    mkdirSync(join(project, 'lib'));
    write('lib/factor.ts', 'export const factor = 3n;\n');
    expect(await dev.next(isEvent('reload'))).toMatchObject({ event: 'reload' });
    write('lib/factor.ts', 'export const factor = 4n;\n');
    expect(await dev.next(reloads)).toMatchObject({ event: 'reload', file: 'lib/factor.ts' });
    dev.signal('SIGTERM');
    expect((await dev.ended).status).toBe(0);
  });

  it('serves again when a runner that did not start is mended', async () => {
    const dev = new Command(['dev', 'jobs.ts', '--json']);
    const ready = await dev.next(isEvent('ready'));
    write('jobs.ts', `${jobsModule(['times'])}export const configure = (builder) => builder.ledger({});\n`);
    expect(await dev.next(({ event }) => event.startsWith('reload'))).toMatchObject({ event: 'reload-failed', isServing: false });
    write('jobs.ts', jobsModule(['times']));
    expect(await dev.next(({ event }) => event.startsWith('reload'))).toMatchObject({ event: 'reload', file: 'jobs.ts' });
    const [command = ''] = ready['submit'] as string[];
    expect(await call(command)).toEqual(['2']);
    dev.signal('SIGTERM');
    expect((await dev.ended).status).toBe(0);
  });

  it('reaches its handler when the environment holds the token of a deployed one', async () => {
    const dev = new Command(['dev', 'jobs.ts', '--json', '--handler'], { BLUEPRINT_TOKEN: 'of the one that is deployed' });
    const ready = await dev.next(isEvent('ready'));
    const [command = ''] = ready['submit'] as string[];
    expect(await call(`${command} --timeout 10`)).toEqual(['2']);
    dev.signal('SIGTERM');
    expect((await dev.ended).status).toBe(0);
  });

  it('leaves no process when it is killed', async () => {
    const dev = new Command(['dev', 'jobs.ts', '--json', '--handler']);
    await dev.next(isEvent('ready'));
    const below = descendantsOf(dev.pid);
    expect(below.length).toBeGreaterThanOrEqual(4);
    dev.signal('SIGKILL');
    await dev.ended;
    await expect.poll(() => below.filter(isAlive)).toEqual([]);
  });

  it('prints lines on a pipe', async () => {
    const dev = new Command(['dev', 'jobs.ts']);
    await dev.shows('ready ');
    await dev.shows("--types 'uint64 x' --args '[1]' --result 'uint64'");
    write('factor.ts', 'export const factor = 7n;\n');
    await dev.shows('reload    reloaded in ');
    write('factor.ts', 'export const factor = ;\n');
    await dev.shows('The version before keeps serving.');
    dev.signal('SIGINT');
    const { status, stdout } = await dev.ended;
    expect(status).toBe(0);
    expect(stdout).toMatch(/^error +CONFIG_INVALID: .*jobs\.ts cannot be loaded: Expression expected$/m);
    expect(stdout).not.toContain('\x1b');
  });

  it('ends when the chain cannot be started', async () => {
    const taken = createServer().listen(0, '127.0.0.1');
    await once(taken, 'listening');
    try {
      const { port } = taken.address() as AddressInfo;
      const { status, stdout, stderr } = await new Command(['dev', 'jobs.ts', '--port', String(port)]).ended;
      expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
      expect(stderr).toMatch(/^CONFIG_INVALID: the local chain .*address already in use; choose another port/);
      expect(readdirSync(temporary)).toEqual([]);
    } finally {
      taken.close();
    }
  });

  it('says that the module is not there when its folder is not there either', async () => {
    const { status, stdout, stderr } = await new Command(['dev', 'scr/jobs.ts']).ended;
    expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
    expect(stderr).toContain(`CONFIG_INVALID: there is no ${join(project, 'scr/jobs.ts')}`);
  });

  const refused: readonly (readonly [what: string, text: string | undefined, message: string])[] = [
    ['a module that is not there', undefined, 'CONFIG_INVALID: there is no '],
    ['a module that does not compile', 'export const router = (;', 'jobs.ts:1\nexport const router = (;'],
    ['a module that throws', "throw new Error('not today');", 'cannot be loaded: not today\n    at '],
    ['a module without a router', 'export const answer = 42;', 'exports neither a JobRouter'],
    [
      'a module that runs a runner',
      `import { BlueprintRunner } from '${SOURCES}/runner/runner.ts'; await BlueprintRunner.builder({}, process.env).run();`,
      'cannot be loaded: bpr runs what this module exports',
    ],
    ['a module that ends the process', 'process.exit(3);', 'the jobs cannot be run: the process ended with status 3'],
  ];

  it.each(refused)('does not start with %s, and leaves nothing behind', async (_, text, message) => {
    if (text === undefined) rmSync(join(project, 'jobs.ts'));
    else write('jobs.ts', text);
    const { status, stdout, stderr } = await new Command(['dev', 'jobs.ts']).ended;
    expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
    expect(stderr).toContain(message);
    expect(readdirSync(temporary)).toEqual([]);
  });
});
