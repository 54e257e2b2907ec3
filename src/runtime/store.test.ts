import { chmodSync, existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { zipSync } from 'fflate';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Clock } from '../clock.ts';
import { systemClock } from '../clock.ts';
import { isRunnerError } from '../errors.ts';
import { LIMITS } from '../executor/limits.ts';
import type { NewFunction } from './store-records.ts';
import type { FunctionStoreOptions } from './store.ts';
import { FunctionStore } from './store.ts';

let folder: string;
let store: FunctionStore;
let now: number;
const changes: string[] = [];
const clock: Clock = { ...systemClock, now: () => now };

function open(options: Partial<FunctionStoreOptions> = {}): FunctionStore {
  return FunctionStore.open({ folder, clock, onChange: (name) => changes.push(name), ...options });
}

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'bpr-store-'));
  now = 1_000_000;
  store = open();
  changes.length = 0;
});

afterEach(() => {
  store.close();
  rmSync(folder, { recursive: true, force: true });
});

function zip(files: Readonly<Record<string, string>>): Uint8Array {
  return zipSync(Object.fromEntries(Object.entries(files).map(([name, text]) => [name, Buffer.from(text)])), { mtime: '2026-01-01' });
}

function fn(overrides: Partial<NewFunction> = {}): NewFunction {
  return {
    name: 'hello',
    runtime: 'nodejs24.x',
    handler: 'index.handler',
    code: { kind: 'zip', bytes: zip({ 'index.mjs': 'one' }) },
    ...overrides,
  };
}

/** The code of what is thrown. */
async function failure(run: () => unknown): Promise<{ code: string; message: string; details: Readonly<Record<string, unknown>> }> {
  try {
    await run();
  } catch (thrown) {
    if (!isRunnerError(thrown)) throw thrown;
    return { code: thrown.code, message: thrown.message, details: thrown.details };
  }
  throw new Error('it did not fail');
}

function blobs(): string[] {
  return readdirSync(join(folder, 'blobs', 'sha256')).toSorted();
}

describe('functions', () => {
  it('keeps code and settings over a restart', async () => {
    const created = await store.create(
      fn({
        environment: { KEY: 'value' },
        memoryMb: 256,
        timeoutMs: 10_000,
        tags: { team: 'a' },
        extra: { Role: 'arn' },
        description: 'd',
      }),
    );
    expect(created).toMatchObject({
      name: 'hello',
      version: '$LATEST',
      profile: 'aws',
      memoryMb: 256,
      ephemeralMb: 512,
      modifiedAt: 1_000_000,
    });
    store.close();
    store = open();
    expect(store.get('hello')).toEqual(created);
    expect(store.tags('hello')).toEqual({ team: 'a' });
    const { fn: version } = store.resolve('hello');
    expect(version.answerBytesMax).toBe(LIMITS.aws.responseBytesMax);
    expect(version).toMatchObject({ name: 'hello', version: '$LATEST', environment: { KEY: 'value' }, network: 'none', layers: [] });
    expect(version.fingerprint).toBe(created.fingerprint);
    if (version.code.kind !== 'folder') throw new Error('no folder');
    expect(readFileSync(join(version.code.path, 'index.mjs'), 'utf8')).toBe('one');
    expect(Buffer.from(await store.codeOf(created))).toEqual(Buffer.from(zip({ 'index.mjs': 'one' })));
  });

  it('keeps unpacked code read-only and the zip private', async () => {
    await store.create(fn({ code: { kind: 'zip', bytes: zip({ 'a/index.mjs': 'one' }) } }));
    const [tree = ''] = blobs();
    const path = join(folder, 'blobs', 'sha256', tree);
    expect([path, join(path, 'a'), join(path, 'a', 'index.mjs')].map((one) => statSync(one).mode & 0o777)).toEqual([0o555, 0o555, 0o444]);
    expect(statSync(`${path}.zip`).mode & 0o777).toBe(0o600);
    expect(statSync(join(folder, 'functions.sqlite')).mode & 0o777).toBe(0o600);
  });

  it('unpacks again what the disk may have lost, and nothing else', async () => {
    await store.create(fn({ code: { kind: 'zip', bytes: zip({ 'a/index.mjs': 'one' }) } }));
    const [tree = ''] = blobs();
    const file = join(folder, 'blobs', 'sha256', tree, 'a', 'index.mjs');
    const mark = join(folder, 'blobs', 'synced', tree);
    await vi.waitUntil(() => existsSync(mark));
    const { ino } = statSync(file);
    const loseContent = (): void => {
      chmodSync(file, 0o644);
      writeFileSync(file, '');
    };
    store.close();
    store = open();
    expect(statSync(file).ino).toBe(ino);

    // A loss of power before everything was on disk: names without content, or no names.
    for (const lose of [loseContent, () => rmSync(join(folder, 'blobs', 'sha256', tree), { recursive: true })]) {
      store.close();
      rmSync(mark, { force: true });
      lose();
      store = open();
      expect(readFileSync(file, 'utf8')).toBe('one');
      expect([file, join(file, '..'), join(file, '../..')].map((one) => statSync(one).mode & 0o777)).toEqual([0o444, 0o555, 0o555]);
      expect(blobs()).toEqual([tree, `${tree}.zip`]);
      await vi.waitUntil(() => existsSync(mark));
    }
    store.remove('hello');
    expect(await store.collect(0)).toBe(1);
    expect(blobs()).toEqual([]);
    expect(existsSync(mark)).toBe(false);
  });

  it('opens although a package is damaged', async () => {
    await store.create(fn());
    const [tree = ''] = blobs();
    store.close();
    rmSync(join(folder, 'blobs', 'synced', tree), { force: true });
    writeFileSync(join(folder, 'blobs', 'sha256', `${tree}.zip`), 'no zip');
    store = open();
    expect(readFileSync(join(folder, 'blobs', 'sha256', tree, 'index.mjs'), 'utf8')).toBe('one');
    expect(blobs()).toEqual([tree, `${tree}.zip`]);
  });

  it('refuses a second function of one name, also when both are made at once', async () => {
    const results = await Promise.allSettled([store.create(fn()), store.create(fn()), store.create(fn())]);
    expect(results.map(({ status }) => status).toSorted()).toEqual(['fulfilled', 'rejected', 'rejected']);
    expect((await failure(() => store.create(fn()))).code).toBe('FUNCTION_EXISTS');
  });

  it('names what is not there', async () => {
    await store.create(fn());
    expect((await failure(() => store.get('nobody'))).code).toBe('FUNCTION_NOT_FOUND');
    expect((await failure(() => store.get('hello', '7'))).details).toEqual({ name: 'hello', qualifier: '7' });
    expect((await failure(() => store.resolve('hello', 'prod'))).code).toBe('FUNCTION_NOT_FOUND');
    expect((await failure(() => store.updateSettings('nobody', {}))).code).toBe('FUNCTION_NOT_FOUND');
    expect((await failure(() => store.remove('nobody'))).code).toBe('FUNCTION_NOT_FOUND');
    expect((await failure(() => store.setReserved('nobody', 1))).code).toBe('FUNCTION_NOT_FOUND');
  });

  it('gives a new fingerprint and revision for each change that an instance sees', async () => {
    const created = await store.create(fn());
    const described = await store.updateSettings('hello', { description: 'other' });
    expect(described.fingerprint).toBe(created.fingerprint);
    expect(described.revisionId).not.toBe(created.revisionId);
    const variants = [
      await store.updateSettings('hello', { environment: { AA: '1' } }),
      await store.updateSettings('hello', { memoryMb: 512 }),
      await store.updateSettings('hello', { timeoutMs: 4_000 }),
      await store.updateSettings('hello', { handler: 'index.other' }),
      await store.updateCode('hello', { kind: 'zip', bytes: zip({ 'index.mjs': 'two' }) }),
    ];
    expect(new Set([created, ...variants].map(({ fingerprint }) => fingerprint)).size).toBe(6);
    expect(store.fingerprints('hello')).toEqual([variants.at(-1)?.fingerprint]);
    expect(store.resolve('hello').fn.fingerprint).toBe(variants.at(-1)?.fingerprint);
    expect(changes).toHaveLength(7);
  });

  it('refuses a change of an old revision', async () => {
    const { revisionId } = await store.create(fn());
    await store.updateSettings('hello', { memoryMb: 256 }, { revisionId });
    const stale = { revisionId };
    const code = { kind: 'zip', bytes: zip({ 'index.mjs': 'two' }) } as const;
    expect((await failure(() => store.updateSettings('hello', { memoryMb: 512 }, stale))).code).toBe('REVISION_MISMATCH');
    expect((await failure(() => store.updateCode('hello', code, stale))).code).toBe('REVISION_MISMATCH');
    expect((await failure(() => store.publish('hello', stale))).code).toBe('REVISION_MISMATCH');
    expect(store.get('hello').memoryMb).toBe(256);
  });

  it('loses no change when code and settings change at once', async () => {
    await store.create(fn());
    await Promise.all([
      store.updateCode('hello', { kind: 'zip', bytes: zip({ 'index.mjs': 'two' }) }),
      store.updateSettings('hello', { memoryMb: 1024 }),
      store.updateSettings('hello', { environment: { AA: '1' } }),
    ]);
    expect(store.get('hello')).toMatchObject({ memoryMb: 1024, environment: { AA: '1' } });
    expect(Buffer.from(await store.codeOf(store.get('hello')))).toEqual(Buffer.from(zip({ 'index.mjs': 'two' })));
  });

  it('changes code and settings at once when both are given', async () => {
    await store.create(fn({ extra: { kept: true } }));
    changes.length = 0;
    const code = { kind: 'zip', bytes: zip({ 'other.mjs': 'two' }) } as const;
    const wrong = await failure(() => store.updateCode('hello', code, { settings: { memoryMb: 1 } }));
    expect([wrong.code, store.get('hello').memoryMb, changes]).toEqual(['CONFIG_INVALID', 128, []]);
    const updated = await store.updateCode('hello', code, { settings: { handler: 'other.handler' } });
    expect(updated).toMatchObject({ handler: 'other.handler', runtime: 'nodejs24.x', extra: { kept: true } });
    expect([changes, store.get('hello')]).toEqual([['hello'], updated]);
  });

  it('checks a dry run and changes nothing', async () => {
    const created = await store.create(fn());
    const tried = await store.updateCode('hello', { kind: 'zip', bytes: zip({ 'index.mjs': 'two' }) }, { dryRun: true });
    expect(tried.code).not.toEqual(created.code);
    expect(store.get('hello')).toEqual(created);
    const broken = { kind: 'zip', bytes: Buffer.from('no zip') } as const;
    expect((await failure(() => store.updateCode('hello', broken, { dryRun: true }))).code).toBe('PACKAGE_INVALID');
  });

  it('stores an image by its URI', async () => {
    const created = await store.create({ name: 'img', code: { kind: 'image', uri: 'repo/app:1', command: ['app.handler'] } });
    expect(store.resolve('img').fn.code).toEqual({ kind: 'image', uri: 'repo/app:1', command: ['app.handler'] });
    expect((await failure(() => store.codeOf(created))).code).toBe('CODE_MISSING');
    expect((await failure(() => store.updateCode('img', fn().code))).code).toBe('CONFIG_INVALID');
  });

  it('lists in pages', async () => {
    for (const name of ['c', 'a', 'b']) await store.create(fn({ name }));
    const first = store.list({ limit: 2 });
    expect([first.items.map(({ name }) => name), first.next]).toEqual([['a', 'b'], 'b']);
    const second = store.list({ limit: 2, after: first.next ?? '' });
    expect([second.items.map(({ name }) => name), second.next]).toEqual([['c'], undefined]);
    expect(store.usage().functions).toBe(3);
  });
});

describe('versions', () => {
  it('publishes what is there, numbers upwards, and nothing twice', async () => {
    await store.create(fn());
    const one = store.publish('hello', { description: 'first' });
    expect(one).toMatchObject({ version: '1', description: 'first' });
    expect(store.publish('hello').version).toBe('1');
    await store.updateSettings('hello', { environment: { AA: '1' } });
    const two = store.publish('hello');
    expect(two).toMatchObject({ version: '2', environment: { AA: '1' } });
    expect(store.get('hello', '1').environment).toEqual({});
    expect(store.resolve('hello', '1').fn.environment).toEqual({});
    expect(store.versions('hello').items.map(({ version }) => version)).toEqual(['$LATEST', '1', '2']);
    expect(store.versions('hello', { limit: 1, after: '$LATEST' })).toMatchObject({ items: [{ version: '1' }], next: '1' });
    expect(new Set(store.fingerprints('hello')).size).toBe(3);
  });

  it('never gives a number out twice, whatever was removed', async () => {
    await store.create(fn());
    store.publish('hello');
    store.remove('hello', '1');
    expect((await failure(() => store.get('hello', '1'))).code).toBe('FUNCTION_NOT_FOUND');
    expect(store.publish('hello').version).toBe('2');
    store.remove('hello');
    await store.create(fn());
    expect(store.publish('hello').version).toBe('3');
  });

  it('publishes only the code it is told', async () => {
    const { code } = await store.create(fn());
    if (code.kind !== 'zip') throw new Error('no zip');
    expect((await failure(() => store.publish('hello', { codeSha256: 'a'.repeat(64) }))).code).toBe('CONFIG_INVALID');
    expect(store.publish('hello', { codeSha256: code.sha256 }).version).toBe('1');
    expect((await failure(() => store.remove('hello', '$LATEST'))).code).toBe('CONFIG_INVALID');
  });

  it('publishes together with new code', async () => {
    await store.create(fn());
    const published = await store.updateCode('hello', { kind: 'zip', bytes: zip({ 'index.mjs': 'two' }) }, { publish: true });
    expect([published.version, published.code]).toEqual(['1', store.get('hello').code]);
  });
});

describe('aliases', () => {
  beforeEach(async () => {
    await store.create(fn());
    store.publish('hello');
    await store.updateSettings('hello', { environment: { AA: '1' } });
    store.publish('hello');
  });

  it('point at versions and share calls', async () => {
    const alias = store.aliases.create('hello', 'prod', { version: '1', weights: { 2: 0.25 } });
    expect(store.get('hello', 'prod').version).toBe('1');
    const picks = [0, 0.2499, 0.25, 0.9999].map((pick) => store.resolve('hello', 'prod', () => pick).executedVersion);
    expect(picks).toEqual(['2', '2', '1', '1']);
    const counted = { 1: 0, 2: 0 };
    for (let call = 0; call < 10_000; call++) counted[store.resolve('hello', 'prod').executedVersion as '1' | '2']++;
    expect(counted[2]).toBeGreaterThan(2_200);
    expect(counted[2]).toBeLessThan(2_800);
    const moved = store.aliases.update('hello', 'prod', { version: '2', weights: {}, revisionId: alias.revisionId });
    expect(store.resolve('hello', 'prod').executedVersion).toBe('2');
    expect((await failure(() => store.aliases.update('hello', 'prod', { revisionId: alias.revisionId }))).code).toBe('REVISION_MISMATCH');
    expect(moved.revisionId).not.toBe(alias.revisionId);
  });

  it('are refused when they name what is not there or cannot be shared', async () => {
    expect((await failure(() => store.aliases.create('hello', 'x', { version: '9' }))).code).toBe('FUNCTION_NOT_FOUND');
    expect((await failure(() => store.aliases.create('hello', '12', { version: '1' }))).code).toBe('CONFIG_INVALID');
    for (const weights of [{ 2: 0.5, 3: 0.1 }, { 1: 0.5 }, { 2: 1.5 }, { 2: -0.1 }, { 2: Number.NaN }, { $LATEST: 0.5 }]) {
      expect((await failure(() => store.aliases.create('hello', 'x', { version: '1', weights }))).code).toBe('CONFIG_INVALID');
    }
    expect((await failure(() => store.aliases.create('hello', 'x', { version: '$LATEST', weights: { 1: 0.5 } }))).code).toBe(
      'CONFIG_INVALID',
    );
    store.aliases.create('hello', 'x', { version: '$LATEST' });
    expect((await failure(() => store.aliases.create('hello', 'x', { version: '1' }))).code).toBe('FUNCTION_EXISTS');
    expect(store.aliases.list('hello').items.map(({ name }) => name)).toEqual(['x']);
  });

  it('hold the versions they need', async () => {
    store.aliases.create('hello', 'a', { version: '1' });
    store.aliases.create('hello', 'b', { version: '1', weights: { 2: 0.1 } });
    expect((await failure(() => store.remove('hello', '2'))).details).toEqual({ aliases: ['b'] });
    expect((await failure(() => store.remove('hello', '1'))).code).toBe('STATE_INVALID');
    store.aliases.remove('hello', 'a');
    store.aliases.remove('hello', 'b');
    store.aliases.remove('hello', 'b');
    store.remove('hello', '2');
    expect(store.versions('hello').items.map(({ version }) => version)).toEqual(['$LATEST', '1']);
  });
});

describe('layers', () => {
  it('are merged in their order, a later one over an earlier one', async () => {
    await store.layers.publish({ name: 'one', zip: zip({ 'a.txt': 'one', 'lib/x.txt': 'one', clash: 'file' }) });
    await store.layers.publish({ name: 'two', zip: zip({ 'a.txt': 'two', 'lib/y.txt': 'two', 'clash/in.txt': 'two' }) });
    const names = [{ name: 'one', version: 1 }, { name: 'two', version: 1 }] as const; // prettier-ignore
    await store.create(fn({ layers: names }));
    const [tree, ...others] = store.resolve('hello').fn.layers;
    expect(others).toEqual([]);
    const text = (path: string): string => readFileSync(join(tree?.path ?? '', path), 'utf8');
    expect([text('a.txt'), text('lib/x.txt'), text('lib/y.txt'), text('clash/in.txt')]).toEqual(['two', 'one', 'two', 'two']);
    const reversed = await store.updateSettings('hello', { layers: names.toReversed() });
    expect(readFileSync(join(store.resolve('hello').fn.layers[0]?.path ?? '', 'a.txt'), 'utf8')).toBe('one');
    expect(reversed.layers.map(({ name }) => name)).toEqual(['two', 'one']);
    const without = await store.updateSettings('hello', { layers: [] });
    expect([store.resolve('hello').fn.layers, without.layerTree]).toEqual([[], undefined]);
  });

  it('stay with the functions that took them', async () => {
    const layer = await store.layers.publish({ name: 'one', zip: zip({ 'a.txt': 'one' }), description: 'd', runtimes: ['nodejs24.x'] });
    await store.create(fn({ layers: [layer] }));
    store.layers.remove(layer);
    store.layers.remove(layer);
    expect((await failure(() => store.layers.get(layer))).code).toBe('NOT_FOUND');
    await store.collect(0);
    expect(readFileSync(join(store.resolve('hello').fn.layers[0]?.path ?? '', 'a.txt'), 'utf8')).toBe('one');
    expect((await failure(() => store.create(fn({ name: 'other', layers: [layer] })))).code).toBe('NOT_FOUND');
    expect((await store.layers.publish({ name: 'one', zip: zip({ 'a.txt': 'two' }) })).version).toBe(2);
  });

  it('are listed, the newest version of each', async () => {
    for (const [name, text] of [['b', '1'], ['a', '1'], ['a', '2'], ['a', '3']] as const) await store.layers.publish({ name, zip: zip({ f: text }) }); // prettier-ignore
    expect(store.layers.list().items.map(({ name, version }) => `${name}:${version}`)).toEqual(['a:3', 'b:1']);
    expect(store.layers.versions('a', { limit: 2 })).toMatchObject({ items: [{ version: 3 }, { version: 2 }], next: '2' });
    expect(store.layers.versions('a', { after: '2' }).items.map(({ version }) => version)).toEqual([1]);
  });

  it('count against the limit of the unpacked size, together with the code', async () => {
    const half = LIMITS.digitalocean.unpackedBytesMax / 2;
    const noise = Buffer.alloc(half + 1, 'abcdefghijk');
    const bytes = zipSync({ f: [noise, { level: 0 }] });
    await store.layers.publish({ name: 'big', zip: bytes });
    const doubled = fn({ profile: 'digitalocean', layers: [{ name: 'big', version: 1 }], code: { kind: 'zip', bytes } });
    expect((await failure(() => store.create(doubled))).details).toEqual({ field: 'layers' });
    await store.create({ ...doubled, layers: [] });
    expect((await failure(() => store.updateSettings('hello', { layers: [{ name: 'big', version: 1 }] }))).code).toBe('CONFIG_INVALID');
  });
});

describe('garbage', () => {
  it('is removed when nothing refers to it for long enough', async () => {
    await store.create(fn());
    const [before] = blobs();
    await store.updateCode('hello', { kind: 'zip', bytes: zip({ 'index.mjs': 'two' }) });
    expect(blobs()).toHaveLength(4);
    expect(await store.collect()).toBe(0);
    now += 3_600_000 - 1;
    expect(await store.collect()).toBe(0);
    now += 1;
    expect(await store.collect()).toBe(1);
    expect(blobs()).toHaveLength(2);
    expect(blobs()).not.toContain(before);
  });

  it('is no garbage any more when it is used again', async () => {
    await store.create(fn());
    const old = fn().code;
    await store.updateCode('hello', { kind: 'zip', bytes: zip({ 'index.mjs': 'two' }) });
    await store.collect();
    await store.updateCode('hello', old);
    now += 3_600_000;
    await store.collect();
    await store.updateCode('hello', { kind: 'zip', bytes: zip({ 'index.mjs': 'three' }) });
    expect(await store.collect()).toBe(0);
  });

  it('of a killed process is removed when the store is opened', async () => {
    await store.create(fn());
    const kept = blobs();
    store.close();
    const place = join(folder, 'blobs', 'sha256');
    writeFileSync(join(place, '.part-1'), 'x');
    writeFileSync(join(place, `${'a'.repeat(64)}.zip`), 'x');
    store = open();
    expect(blobs()).toEqual(kept);
  });

  it('is not what a refused package leaves', async () => {
    expect((await failure(() => store.create(fn({ code: { kind: 'zip', bytes: Buffer.from('no zip') } })))).code).toBe('PACKAGE_INVALID');
    expect((await failure(() => store.create(fn({ code: { kind: 'zip', bytes: Buffer.alloc(0) } })))).code).toBe('PACKAGE_INVALID');
    const damaged = Buffer.from(zip({ 'a.txt': 'whole', 'index.mjs': 'to be damaged' }));
    // The checksum of the second entry, in both of its headers: seen only when the first is unpacked already.
    const second = damaged.indexOf('index.mjs');
    for (const at of [second - 16, damaged.indexOf('index.mjs', second + 1) - 30]) damaged.writeUInt8(damaged.readUInt8(at) ^ 1, at);
    const refused = await failure(() => store.create(fn({ code: { kind: 'zip', bytes: damaged } })));
    expect(refused).toMatchObject({ code: 'PACKAGE_INVALID', details: { entry: 'index.mjs' } });
    expect(refused.message).toContain('checksum');
    expect(blobs()).toEqual([]);
    expect(store.list().items).toEqual([]);
  });

  it('tells that code is gone instead of running nothing', async () => {
    await store.create(fn());
    store.close();
    rmSync(join(folder, 'blobs'), { recursive: true });
    store = open();
    expect((await failure(() => store.resolve('hello'))).code).toBe('CODE_MISSING');
    expect((await failure(() => store.codeOf(store.get('hello')))).code).toBe('CODE_MISSING');
  });
});

describe('what is attached', () => {
  beforeEach(async () => {
    await store.create(fn());
    store.publish('hello');
    store.aliases.create('hello', 'prod', { version: '1' });
  });

  it('reserves concurrency and leaves enough for the others', async () => {
    expect(store.reserved('hello')).toBe(undefined);
    store.setReserved('hello', 900);
    expect([store.reserved('hello'), store.resolve('hello').reserved]).toEqual([900, 900]);
    expect((await failure(() => store.setReserved('hello', 901))).code).toBe('CONFIG_INVALID');
    await store.create(fn({ name: 'other' }));
    expect((await failure(() => store.setReserved('other', 1))).code).toBe('CONFIG_INVALID');
    store.setReserved('other', 0);
    store.setReserved('hello', undefined);
    expect([store.resolve('hello').reserved, store.resolve('other').reserved]).toEqual([undefined, 0]);
  });

  it('reserves of what the provider of a function allows, and always lets go', async () => {
    store.setReserved('hello', 900);
    await store.create(fn({ name: 'small', profile: 'digitalocean' }));
    store.setReserved('small', 120);
    store.setReserved('small', undefined);
    expect((await failure(() => store.setReserved('small', 121))).code).toBe('CONFIG_INVALID');
    expect([store.reserved('hello'), store.reserved('small')]).toEqual([900, undefined]);
  });

  it('keeps permissions by qualifier', async () => {
    const { attachments } = store;
    const statement = { Sid: 'a', Effect: 'Allow' };
    attachments.addPermission({ name: 'hello' }, 'a', { statement });
    attachments.addPermission({ name: 'hello', qualifier: 'prod' }, 'b', { statement });
    const { revisionId, statements } = attachments.policy({ name: 'hello' });
    expect(statements).toEqual([statement]);
    expect((await failure(() => attachments.addPermission({ name: 'hello' }, 'a', { statement }))).code).toBe('STATE_INVALID');
    attachments.addPermission({ name: 'hello' }, 'c', { statement, revisionId });
    expect((await failure(() => attachments.removePermission({ name: 'hello' }, 'a', revisionId))).code).toBe('REVISION_MISMATCH');
    attachments.removePermission({ name: 'hello' }, 'a');
    attachments.removePermission({ name: 'hello' }, 'c');
    expect((await failure(() => attachments.policy({ name: 'hello' }))).code).toBe('NOT_FOUND');
    expect((await failure(() => attachments.removePermission({ name: 'hello' }, 'a'))).code).toBe('NOT_FOUND');
    expect((await failure(() => attachments.addPermission({ name: 'hello', qualifier: 'no' }, 'a', { statement }))).code).toBe(
      'FUNCTION_NOT_FOUND',
    );
  });

  it('keeps the rules for queued calls', async () => {
    const { attachments } = store;
    attachments.putAsync({ name: 'hello', qualifier: 'prod' }, { retriesMax: 0, ageMaxSeconds: 60, onFailure: 'file:///x' });
    expect(attachments.async({ name: 'hello', qualifier: 'prod' })?.value).toEqual({
      retriesMax: 0,
      ageMaxSeconds: 60,
      onFailure: 'file:///x',
    });
    expect(attachments.async({ name: 'hello' })).toBe(undefined);
    for (const config of [{ retriesMax: 3 }, { retriesMax: -1 }, { retriesMax: 0.5 }, { ageMaxSeconds: 59 }, { ageMaxSeconds: 21_601 }]) {
      expect((await failure(() => attachments.putAsync({ name: 'hello' }, config))).code).toBe('CONFIG_INVALID');
    }
    expect(attachments.list('hello', 'async').items.map(({ qualifier }) => qualifier)).toEqual(['prod']);
    expect([
      attachments.remove({ name: 'hello', qualifier: 'prod', kind: 'async' }),
      attachments.remove({ name: 'hello', kind: 'async' }),
    ]).toEqual([true, false]);
  });

  it('goes with what it was attached to', async () => {
    store.attachments.putAsync({ name: 'hello', qualifier: 'prod' }, {});
    store.attachments.putAsync({ name: 'hello', qualifier: '1' }, {});
    store.attachments.putAsync({ name: 'hello' }, {});
    store.aliases.remove('hello', 'prod');
    expect(store.attachments.list('hello', 'async').items.map(({ qualifier }) => qualifier)).toEqual(['$LATEST', '1']);
    store.remove('hello', '1');
    expect(store.attachments.list('hello', 'async').items.map(({ qualifier }) => qualifier)).toEqual(['$LATEST']);
    store.remove('hello');
    expect(store.attachments.list('hello', 'async').items).toEqual([]);
  });

  it('stays when an alias is removed that there is not, whatever its name', async () => {
    store.publish('hello');
    for (const qualifier of ['$LATEST', '1']) {
      store.attachments.putAsync({ name: 'hello', qualifier }, { retriesMax: 0 });
      store.aliases.remove('hello', qualifier);
      expect(store.attachments.async({ name: 'hello', qualifier })?.value).toEqual({ retriesMax: 0 });
    }
  });

  it('keeps tags', async () => {
    store.setTags('hello', { a: '1' });
    expect(store.tags('hello')).toEqual({ a: '1' });
    const many = Object.fromEntries(Array.from({ length: 51 }, (_, index) => [`k${index}`, '']));
    for (const tags of [many, { '': 'x' }, { ['k'.repeat(129)]: '' }, { k: 'v'.repeat(257) }, { 'aws:x': '' }]) {
      expect((await failure(() => store.setTags('hello', tags))).code).toBe('CONFIG_INVALID');
    }
  });
});

describe('the file', () => {
  it('belongs to one process', async () => {
    expect((await failure(() => open())).message).toContain('used by another process');
  });

  it('that is damaged or of something else is refused', async () => {
    store.close();
    writeFileSync(join(folder, 'functions.sqlite'), 'this is no database, and long enough to be looked at'.repeat(50));
    expect((await failure(() => open())).code).toBe('STORE_FAILED');
  });
});
