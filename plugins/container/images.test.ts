import { describe, expect, it } from 'vitest';
import type { FunctionVersion } from '../../src/plugin.ts';
import type { Engine, ImageInfo } from './client.ts';
import { Images, rewriteImage, tableImage } from './images.ts';
import type { ImageOptions } from './images.ts';

describe('the image of a runtime', () => {
  it.each([
    ['nodejs24.x', 'nodejs:24'],
    ['python3.14', 'python:3.14'],
    ['ruby3.4', 'ruby:3.4'],
    ['dotnet10', 'dotnet:10'],
    ['dotnetcore3', 'dotnet:3'],
    ['java25', 'java:25'],
    ['java8.al2', 'java:8.al2'],
    ['provided.al2023', 'provided:al2023'],
  ])('%s is public.ecr.aws/lambda/%s', (runtime, image) => {
    expect(tableImage(runtime)).toBe(`public.ecr.aws/lambda/${image}`);
  });

  it.each(['go1.x', 'nodejs', 'python', 'cobol'])('%s has none', (runtime) => {
    expect(tableImage(runtime)).toBe(undefined);
  });
});

describe('an image of a registry of AWS', () => {
  it.each([
    ['public.ecr.aws/lambda/nodejs:24', 'r.local:5000/lambda/nodejs:24'],
    ['123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/fn@sha256:aa', 'r.local:5000/team/fn@sha256:aa'],
    ['123456789012.dkr.ecr-fips.us-east-1.amazonaws.com/fn', 'r.local:5000/fn'],
    ['docker.io/library/node:24', 'docker.io/library/node:24'],
    ['evil.example/public.ecr.aws/x', 'evil.example/public.ecr.aws/x'],
  ])('%s is found at %s', (uri, rewritten) => {
    expect(rewriteImage(uri, 'r.local:5000')).toBe(rewritten);
    expect(rewriteImage(uri, undefined)).toBe(uri);
  });
});

/** What it was asked for, and which images it has. */
class FakeEngine {
  readonly present: Set<string>;
  readonly pulled: string[] = [];
  imported = 0;
  /** What a pull waits for. */
  pulling: Promise<void> = Promise.resolve();
  fails = false;

  constructor(...present: string[]) {
    this.present = new Set(present);
  }

  image(reference: string): Promise<ImageInfo | undefined> {
    return Promise.resolve(this.present.has(reference) ? { id: reference, entryPoint: [], command: [], labels: {} } : undefined);
  }

  async pull(reference: string, signal: AbortSignal): Promise<void> {
    this.pulled.push(reference);
    const aborted = new Promise<never>((_, reject) => {
      signal.addEventListener('abort', () => reject(new Error('aborted')));
    });
    await Promise.race([this.pulling, aborted]);
    if (this.fails) throw new Error('no route to registry');
    this.present.add(reference);
  }

  imageWith(): Promise<undefined> {
    return Promise.resolve(undefined);
  }

  importImage(): Promise<void> {
    this.imported += 1;
    return Promise.resolve();
  }
}

const fnOf = (runtime: string, code?: FunctionVersion['code']): FunctionVersion => ({
  name: 'f',
  version: '1',
  fingerprint: 'f',
  code: code ?? { kind: 'folder', path: '/f', sha256: 'f' },
  layers: [],
  runtime,
  handler: 'index.handler',
  memoryMb: 128,
  timeoutMs: 1_000,
  ephemeralMb: 512,
  environment: {},
  concurrencyPerInstance: 1,
  network: 'none',
});

const never = new AbortController().signal;
const imagesOf = (engine: FakeEngine, options: ImageOptions = {}): Images =>
  // The class has no other members that images use.
  new Images(engine as unknown as Engine, {
    ...options,
    nodeMajor: 24,
    rootfs: () => Promise.resolve({ entries: [], identity: 'a'.repeat(64), libraryPath: '', loader: undefined }),
  });
const OWN = { reference: `blueprint-runner/node:${'a'.repeat(16)}`, own: true };

describe('the choice of an image', () => {
  it('is our own for the node that runs this, made once however many ask', async () => {
    const engine = new FakeEngine();
    const images = imagesOf(engine);
    const choices = await Promise.all([1, 2, 3].map(() => images.choose(fnOf('nodejs24.x'), never)));
    expect(choices).toEqual([OWN, OWN, OWN]);
    expect(engine).toMatchObject({ imported: 1, pulled: [] });
  });

  it('is the image that the operator names', async () => {
    const engine = new FakeEngine('mine:1');
    expect(await imagesOf(engine, { images: { 'nodejs24.x': 'mine:1' } }).choose(fnOf('nodejs24.x'), never)).toEqual({
      reference: 'mine:1',
      own: false,
    });
  });

  it('is one that is here rather than one that must be fetched', async () => {
    const engine = new FakeEngine('public.ecr.aws/lambda/python:3.14');
    expect(await imagesOf(engine).choose(fnOf('python3.14'), never)).toMatchObject({ own: false });
    expect(engine.pulled).toEqual([]);
  });

  it('is fetched when it is missing, from the registry that stands in', async () => {
    const engine = new FakeEngine();
    const { reference } = await imagesOf(engine, { registry: 'r:5000' }).choose(fnOf('python3.14'), never);
    expect([reference, ...engine.pulled]).toEqual(['r:5000/lambda/python:3.14', 'r:5000/lambda/python:3.14']);
  });

  it('fails where fetching is not allowed', async () => {
    const engine = new FakeEngine();
    await expect(imagesOf(engine, { pull: 'never' }).choose(fnOf('python3.14'), never)).rejects.toMatchObject({
      code: 'INSTANCE_START_FAILED',
      retry: 'never',
      message: expect.stringContaining('public.ecr.aws/lambda/python:3.14') as string,
    });
    expect(engine.pulled).toEqual([]);
  });

  it('falls back to our own for an older node and for custom runtimes, not for other languages', async () => {
    const engine = new FakeEngine();
    engine.fails = true;
    const images = imagesOf(engine);
    expect(await images.choose(fnOf('nodejs20.x'), never)).toEqual(OWN);
    expect(await images.choose(fnOf('provided.al2023'), never)).toEqual(OWN);
    await expect(images.choose(fnOf('python3.14'), never)).rejects.toMatchObject({
      code: 'INSTANCE_START_FAILED',
      message: expect.stringContaining('no route to registry') as string,
    });
    // Next time it may be there.
    engine.fails = false;
    expect(await images.choose(fnOf('python3.14'), never)).toMatchObject({ own: false });
  });

  it('fetches anew when it shall, and uses what is here when that fails', async () => {
    const engine = new FakeEngine('mine:1');
    const image = fnOf('', { kind: 'image', uri: 'mine:1' });
    expect(await imagesOf(engine, { pull: 'always' }).choose(image, never)).toMatchObject({ reference: 'mine:1' });
    engine.fails = true;
    expect(await imagesOf(engine, { pull: 'always' }).choose(image, never)).toMatchObject({ reference: 'mine:1' });
    expect(engine.pulled).toEqual(['mine:1', 'mine:1']);
  });

  it('refuses a runtime that nobody knows', async () => {
    await expect(imagesOf(new FakeEngine()).choose(fnOf('cobol85'), never)).rejects.toMatchObject({ code: 'RUNTIME_UNSUPPORTED' });
  });

  it('goes on for others when the first that asked gives up', async () => {
    const engine = new FakeEngine();
    const { promise, resolve } = Promise.withResolvers<void>();
    engine.pulling = promise;
    const images = imagesOf(engine);
    const giveUp = new AbortController();
    const image = fnOf('', { kind: 'image', uri: 'mine:1' });
    const first = images.choose(image, giveUp.signal);
    const second = images.choose(image, never);
    await Promise.resolve();
    giveUp.abort();
    await expect(first).rejects.toMatchObject({ code: 'ABORTED' });
    resolve();
    expect(await second).toMatchObject({ reference: 'mine:1' });
    expect(engine.pulled).toEqual(['mine:1', 'mine:1']);
  });
});
