import { hash, randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { zipSync } from 'fflate';
import { describe, expect, it } from 'vitest';
import { temporaryFolder } from '../../test/support/temporary-folders.ts';
import { RunnerError } from '../errors.ts';
import { functionHeaders, functionSettings } from '../queue/function-job.ts';
import type { FunctionJobSettings } from '../queue/function-job.ts';
import type { ClaimedJob, ObjectReference, ObjectStore } from '../queue/queue.ts';
import type { FunctionVersion } from '../runtime/runtime.ts';
import { functionJobs } from './function-jobs.ts';

/** Objects in memory, which counts how often each is fetched. */
class Objects implements ObjectStore {
  readonly kept = new Map<string, Uint8Array>();
  readonly fetched: string[] = [];

  async put(bytes: Uint8Array): Promise<ObjectReference> {
    const sha256 = hash('sha256', bytes, 'hex');
    this.kept.set(sha256, bytes);
    return { key: sha256, size: bytes.length, sha256 };
  }

  /** Of those that are fetched now. */
  held = 0;
  #hold: Promise<void> | undefined;

  /** Until what it returns is called nothing comes. */
  hold(): () => void {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#hold = promise;
    return () => {
      this.#hold = undefined;
      resolve();
    };
  }

  async get({ key }: ObjectReference): Promise<Uint8Array> {
    this.fetched.push(key);
    this.held += 1;
    await this.#hold;
    this.held -= 1;
    const bytes = this.kept.get(key);
    if (!bytes) throw new RunnerError('NOT_FOUND', `there is no ${key}`);
    return bytes;
  }

  async remove(): Promise<void> {}
}

const zip = (text: string, size = 10): Uint8Array => zipSync({ 'index.mjs': Buffer.from(text), padding: randomBytes(size) });

interface Options {
  readonly bytesMax?: number;
  readonly environment?: Readonly<Record<string, string>>;
  readonly network?: 'open';
  readonly folder?: string;
}

function world({ folder = temporaryFolder('function-jobs'), ...options }: Options = {}) {
  const objects = new Objects();
  const ran: { readonly fn: FunctionVersion; readonly code: string; readonly event: string; readonly affinity: string | undefined }[] = [];
  const retired: [string, readonly string[]][] = [];
  const { jobs, packages } = functionJobs({
    ...options,
    folder,
    objects,
    target: {
      async invoke(fn, event, { affinity }) {
        const code = fn.code.kind === 'folder' ? readFileSync(join(fn.code.path, 'index.mjs'), 'utf8') : fn.code.uri;
        ran.push({ fn, code, event: Buffer.from(event).toString(), affinity });
        return { body: Buffer.from('answer'), contentType: 'application/json' };
      },
      retire: (name, keep) => void retired.push([name, keep]),
    },
  });
  const run = (headers: Readonly<Record<string, string>>, more: Partial<ClaimedJob> = {}, signal = new AbortController().signal) => {
    const job: ClaimedJob = {
      id: 'job',
      type: 'function',
      payload: Buffer.from('event'),
      headers,
      priority: 4,
      requires: [],
      attempt: 1,
      attemptsMax: 1,
      publishedAt: 0,
      lease: { jobId: 'job', token: 't', until: 1 },
      ...more,
    };
    return jobs.run(job, { signal, started: () => {} });
  };
  const headersOf = (object: ObjectReference, settings: Partial<FunctionJobSettings> = {}, name = 'hello') =>
    functionHeaders({ name, code: { kind: 'package', object }, settings: functionSettings(settings) });
  return { objects, ran, retired, packages, run, headersOf };
}

describe('FunctionJobs', () => {
  it('fetches a package once, however many jobs need it at the same time, and again from disk after a restart', async () => {
    const folder = temporaryFolder('function-jobs');
    const { objects, ran, run, headersOf, packages } = world({ folder });
    const object = await objects.put(zip('one'));
    const results = await Promise.all(Array.from({ length: 8 }, () => run(headersOf(object))));
    expect(results[0]).toEqual({ body: Buffer.from('answer'), headers: { 'content-type': 'application/json' } });
    expect([objects.fetched.length, ran.length, new Set(ran.map(({ fn }) => fn.fingerprint)).size]).toEqual([1, 8, 1]);
    expect(ran[0]).toMatchObject({ code: 'one', event: 'event', fn: { name: 'hello', network: 'none', environment: {} } });
    packages.close();
    const second = world({ folder });
    await second.run(second.headersOf(object));
    expect([second.objects.fetched, second.ran[0]?.code]).toEqual([[], 'one']);
  });

  it('given up while its package or its payload is fetched: it ends at once, and its code is never reached', async () => {
    const { objects, ran, run, headersOf } = world();
    const object = await objects.put(zip('one'));
    const payload = await objects.put(Buffer.from('payload'));
    for (const more of [{}, { payload }]) {
      const fetched = objects.hold();
      const cancel = new AbortController();
      const running = run(headersOf(object), more, cancel.signal);
      running.catch(() => {});
      await expect.poll(() => objects.held).toBe(1);
      cancel.abort(new Error('the worker stops'));
      await expect(running).rejects.toMatchObject({ code: 'ABORTED', retry: 'safe' });
      fetched();
    }
    // What was fetched meanwhile is there for the next one.
    await run(headersOf(object));
    expect([ran.length, objects.fetched.filter((key) => key === object.key)]).toEqual([1, [object.key]]);
  });

  it('makes another version for other settings, and none for the same', async () => {
    const { objects, ran, run, headersOf } = world();
    const object = await objects.put(zip('one'));
    for (const memoryMb of [128, 256, 128]) await run(headersOf(object, { memoryMb }));
    expect(ran.map(({ fn }) => fn.memoryMb)).toEqual([128, 256, 128]);
    expect(ran[0]?.fn).toBe(ran[2]?.fn);
    expect(ran[0]?.fn.fingerprint).not.toBe(ran[1]?.fn.fingerprint);
  });

  it('removes the packages that were used least recently when there is no room, and ends what runs of them', async () => {
    const { objects, retired, run, headersOf, packages, ran } = world({ bytesMax: 100_000 });
    const [first, second, third] = [
      await objects.put(zip('1', 20_000)),
      await objects.put(zip('2', 20_000)),
      await objects.put(zip('3', 20_000)),
    ];
    for (const object of [first, second, first, third]) await run(headersOf(object));
    expect(packages.bytes).toBeLessThanOrEqual(100_000);
    const kept = ran[0]?.fn.fingerprint;
    expect(retired).toEqual([['hello', expect.arrayContaining([kept]) as string[]]]);
    expect(retired[0]?.[1]).not.toContain(ran[1]?.fn.fingerprint);
    const gone = ran[1]?.fn.code;
    await expect.poll(() => gone?.kind === 'folder' && existsSync(gone.path)).toBe(false);
    await run(headersOf(second));
    expect(objects.fetched.filter((key) => key === second.key)).toHaveLength(2);
  });

  it('says that this machine is not there for a package that its disk does not take', async () => {
    const folder = temporaryFolder('function-jobs');
    const { objects, run, headersOf } = world({ folder });
    await run(headersOf(await objects.put(zip('one'))));
    rmSync(join(folder, 'sha256'), { recursive: true });
    const refused = { code: 'EXECUTOR_UNAVAILABLE', retry: 'safe', message: expect.stringContaining('ENOENT') as string };
    await expect(run(headersOf(await objects.put(zip('two'))))).rejects.toMatchObject(refused);
    // No folder can be made in a file.
    const second = world({ folder: import.meta.filename });
    const object = await second.objects.put(zip('one'));
    await expect(second.run(second.headersOf(object))).rejects.toMatchObject({ code: 'EXECUTOR_UNAVAILABLE', retry: 'safe' });
  });

  it('gives the answer although a package that has no room any more cannot be removed', async () => {
    const folder = temporaryFolder('function-jobs');
    const { objects, run, headersOf, packages } = world({ folder, bytesMax: 50_000 });
    const object = await objects.put(zip('one', 20_000));
    await run(headersOf(object));
    const file = join(folder, 'sha256', `${object.sha256}.zip`);
    rmSync(file);
    mkdirSync(file);
    expect(await run(headersOf(await objects.put(zip('two', 20_000))))).toMatchObject({ body: Buffer.from('answer') });
    expect(packages.bytes).toBeLessThanOrEqual(50_000);
  });

  it('refuses a package that is not what its hash says, and one that is not there', async () => {
    const { objects, run, headersOf, ran } = world();
    const object = await objects.put(zip('true'));
    objects.kept.set(object.key, zip('forged'));
    await expect(run(headersOf(object))).rejects.toMatchObject({ code: 'PACKAGE_INVALID' });
    await expect(run(headersOf({ ...object, key: 'none' }))).rejects.toMatchObject({ code: 'CODE_MISSING' });
    const noise = await objects.put(randomBytes(100));
    await expect(run(headersOf(noise))).rejects.toMatchObject({ code: 'PACKAGE_INVALID' });
    expect(ran).toEqual([]);
    objects.kept.set(object.key, zip('true'));
  });

  it('gives functions only the variables and the network that the worker allows', async () => {
    const { objects, run, headersOf, ran } = world({ environment: { REGION: 'eu' } });
    const object = await objects.put(zip('one'));
    await run(headersOf(object, { environment: ['REGION'] }));
    expect(ran[0]?.fn.environment).toEqual({ REGION: 'eu' });
    for (const settings of [{ environment: ['PATH'] }, { environment: ['toString'] }, { network: 'open' as const }])
      await expect(run(headersOf(object, settings))).rejects.toMatchObject({ code: 'FORBIDDEN', retry: 'safe' });
    const open = world({ network: 'open' });
    await open.run(open.headersOf(await open.objects.put(zip('one')), { network: 'open' }));
    expect(open.ran[0]?.fn.network).toBe('open');
  });

  it('runs images, hands on affinities, and fetches payloads that lie in the store', async () => {
    const { objects, run, ran } = world();
    const headers = functionHeaders({ name: 'hello', code: { kind: 'image', uri: 'jobs:1' }, settings: functionSettings({}) });
    await run({ ...headers, affinity: 'flow' }, { payload: await objects.put(Buffer.from('large')) });
    expect(ran).toMatchObject([{ code: 'jobs:1', event: 'large', affinity: 'flow' }]);
  });

  it('says what is wrong with a job that is none of a function', async () => {
    const { run, objects, headersOf } = world();
    const headers = headersOf(await objects.put(zip('one')));
    const bad: (readonly [Readonly<Record<string, string>>, RegExp])[] = [
      [{}, /header function is not/],
      [{ function: 'hello' }, /neither function-image nor function-sha256/],
      [{ ...headers, 'function-bytes': 'x' }, /function-bytes/],
      [{ ...headers, 'function-settings': '{' }, /not JSON/],
      [{ ...headers, 'function-settings': '[]' }, /not an object/],
      [{ ...headers, 'function-settings': '{"memory":1}' }, /no setting memory/],
      [{ ...headers, 'function-settings': '{"timeoutMs":0}' }, /timeoutMs is not valid/],
    ];
    for (const [given, message] of bad)
      await expect(run(given)).rejects.toMatchObject({ code: 'REQUEST_INVALID', message: expect.stringMatching(message) as string });
    await expect(run(headers, { type: 'other' })).rejects.toMatchObject({ code: 'REQUEST_INVALID' });
  });
});
