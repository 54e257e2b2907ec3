/** Images into the registry of the CNCF, which checks every digest itself. */

import { randomBytes } from 'node:crypto';
import { execFile } from 'node:child_process';
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { strToU8, zipSync } from 'fflate';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/clock.ts';
import { writeImageLayout } from '../../src/deploy/image.ts';
import type { WrittenImage } from '../../src/deploy/image.ts';
import { dockerCredentials } from '../../src/deploy/registry-credentials.ts';
import { parseImageReference, pushImage } from '../../src/http/image-registry.ts';
import type { PushOptions, PushedImage } from '../../src/http/image-registry.ts';
import { probeRegistry, startRegistry } from '../support/image-registry.ts';
import type { TestRegistry } from '../support/image-registry.ts';
import { requirePeer } from '../require.ts';

const run = promisify(execFile);
const JOBS = join(import.meta.dirname, '../fixtures/cli/jobs.ts');
const BPR = join(import.meta.dirname, '../fixtures/cli/bpr.ts');
const ADA = { username: 'ada', password: 'lovelace' };

let isThere = false;
const testRegistry = requirePeer('docker-registry', () => {
  probeRegistry();
  isThere = true;
});

let folder: string;
let program: string;
let registry: TestRegistry;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bpr-image-push-'));
  program = join(folder, 'program');
  await writeFile(program, randomBytes(1_000_000));
});
afterAll(() => rm(folder, { recursive: true, force: true }));
beforeEach(async () => {
  if (isThere) registry = await startRegistry();
});
afterEach(async () => {
  if (isThere) await registry.close();
});

/** Two layers: a program of a million random bytes, and code that differs for each tag. */
function image(tag: string): Promise<WrittenImage> {
  const zip = zipSync({ 'handler.mjs': strToU8(`export const tag = '${tag}';`) }, { mtime: '1980-01-01' });
  return writeImageLayout({ zip, outDir: join(folder, tag), node: { file: program } });
}

function push(tag: string, options: Partial<PushOptions> = {}): Promise<PushedImage> {
  const reference = parseImageReference(`${registry.host}/team/squaring:${tag}`);
  return pushImage(join(folder, tag), { reference, credentials: async () => ADA, clock: systemClock, chunkBytes: 100_000, ...options });
}

/** What anybody gets who asks for the tag, complete. */
async function pulled(tag: string): Promise<{ readonly digest: string | null; readonly isWhole: boolean }> {
  const base = `http://${registry.host}/v2/team/squaring`;
  const headers = { accept: 'application/vnd.oci.image.manifest.v1+json' };
  const manifest = await fetch(`${base}/manifests/${tag}`, { headers });
  const { config, layers } = (await manifest.clone().json()) as { config: { digest: string }; layers: { digest: string }[] };
  const blobs = await Promise.all(
    [config, ...layers].map(async ({ digest }) => {
      const blob = Buffer.from(await (await fetch(`${base}/blobs/${digest}`)).arrayBuffer());
      return blob.equals(await readFile(join(folder, tag, 'blobs', digest.replace(':', '/'))));
    }),
  );
  return { digest: manifest.headers.get('docker-content-digest'), isWhole: blobs.every(Boolean) && blobs.length === 3 };
}

const writes = (): string[] => registry.requests.filter((each) => !/^(?:GET|HEAD) /.test(each));

describe('an image', () => {
  testRegistry('is pushed in chunks, and is there as it was', async () => {
    const { digest } = await image('a');
    const pushed = await push('a');
    expect(pushed).toMatchObject({ digest, tag: 'a', reference: `${registry.host}/team/squaring@${digest}`, wasThere: false });
    expect(pushed.uploaded).toHaveLength(3);
    expect(writes().filter((each) => each.startsWith('PATCH'))).toHaveLength(10);
    expect(await pulled('a')).toEqual({ digest, isWhole: true });
  });

  testRegistry('that is there is not written again; of another one only what differs is sent', async () => {
    await image('a');
    await push('a');
    registry.requests.length = 0;
    expect(await push('a')).toMatchObject({ wasThere: true, uploaded: [], uploadedBytes: 0 });
    expect(writes()).toEqual([]);
    registry.bytes = 0;
    const { digest } = await image('b');
    const pushed = await push('b');
    // The code and the configuration.
    expect(pushed.uploaded).toHaveLength(2);
    expect(registry.bytes).toBeLessThan(10_000);
    expect(await pulled('b')).toEqual({ digest, isWhole: true });
  });

  testRegistry('whose push was cut off after any write is whole when it is pushed again', async () => {
    const { digest } = await image('a');
    for (let cut = 0; ; cut += 1) {
      registry.writesLeft = cut;
      const outcome = await push('a').then(
        () => 'whole',
        (error: { code: string }) => error.code,
      );
      registry.writesLeft = Number.POSITIVE_INFINITY;
      expect(['whole', 'PLATFORM_UNREACHABLE']).toContain(outcome);
      if (outcome === 'whole') break;
    }
    expect(await pulled('a')).toEqual({ digest, isWhole: true });
  });

  testRegistry('whose blob is not what its digest says is never sent', async () => {
    const { layers } = await image('a');
    const [layer = ''] = layers;
    const path = join(folder, 'a/blobs', layer.replace(':', '/'));
    const bytes = await readFile(path);
    bytes[500_000] = (bytes[500_000] ?? 0) ^ 1;
    await writeFile(path, bytes);
    await expect(push('a')).rejects.toMatchObject({ code: 'PACKAGE_INVALID' });
    expect(registry.requests).toEqual([]);
  });

  testRegistry('that the registry refuses is refused with its own words', async () => {
    await image('a');
    const path = join(folder, 'a/index.json');
    const reference = parseImageReference(`${registry.host}/team/squaring:a`);
    await push('a');
    await writeFile(path, (await readFile(path, 'utf8')).replace('vnd.oci.image.manifest.v1+json', 'vnd.nobody.knows'));
    const other = { ...reference, tag: 'other' };
    await expect(push('a', { reference: other })).rejects.toMatchObject({
      code: 'DEPLOY_FAILED',
      details: { platformCode: 'MANIFEST_INVALID' },
    });
  });

  testRegistry('of which nobody hears is PLATFORM_UNREACHABLE, and an abort is ABORTED', async () => {
    await image('a');
    const reference = parseImageReference('127.0.0.1:1/team/squaring');
    await expect(push('a', { reference })).rejects.toMatchObject({ code: 'PLATFORM_UNREACHABLE' });
    await expect(push('a', { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'ABORTED' });
  });
});

describe.each(['basic', 'bearer'] as const)('a registry that asks who is there, by %s', (sign) => {
  testRegistry('takes who is known', async () => {
    const { digest } = await image('a');
    registry.sign = sign;
    let asked = 0;
    const credentials = async () => ((asked += 1), ADA);
    expect((await push('a', { credentials })).digest).toBe(digest);
    expect(asked).toBe(1);
    registry.sign = 'none';
    expect(await pulled('a')).toEqual({ digest, isWhole: true });
  });

  testRegistry('refuses others, and the password is not told', async () => {
    await image('a');
    registry.sign = sign;
    const wrong = push('a', { credentials: async () => ({ username: 'ada', password: 'not-to-be-seen' }) });
    const thrown: unknown = await wrong.catch((error: unknown) => error);
    expect(thrown).toMatchObject({ code: 'EXECUTOR_UNAUTHORIZED' });
    expect(JSON.stringify(thrown) + String(thrown)).not.toMatch(/not-to-be-seen/);
    const code = sign === 'basic' ? 'CREDENTIALS_MISSING' : 'EXECUTOR_UNAUTHORIZED';
    await expect(push('a', { credentials: async () => undefined })).rejects.toMatchObject({ code });
    expect(registry.requests).toEqual([]);
  });
});

describe('references', () => {
  it.each([
    ['localhost:5000/name', { registry: 'localhost:5000', repository: 'name', tag: 'latest' }],
    ['ghcr.io/me/a-b_c.d:1.2', { registry: 'ghcr.io', repository: 'me/a-b_c.d', tag: '1.2' }],
    ['123.dkr.ecr.eu-west-1.amazonaws.com/x:y', { registry: '123.dkr.ecr.eu-west-1.amazonaws.com', repository: 'x', tag: 'y' }],
    ['[::1]:5000/name', { registry: '[::1]:5000', repository: 'name', tag: 'latest' }],
  ])('%s is understood', (text, parts) => expect(parseImageReference(text)).toEqual(parts));

  it.each([
    'name',
    'name:tag',
    'me/name',
    'ghcr.io/',
    'ghcr.io/Name',
    'ghcr.io/a:',
    'ghcr.io/a:b:c',
    'https://ghcr.io/a',
    'ghcr.io/a//b',
    '',
  ])('%j is none', (text) => expect(() => parseImageReference(text)).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }) as Error));
});

describe('credentials', () => {
  const env = (): Record<string, string> => ({ DOCKER_CONFIG: join(folder, 'docker'), PATH: join(folder, 'docker') });
  const ask = (host: string) => dockerCredentials(host, env(), '/nonexistent');
  const config = async (text: string): Promise<void> => {
    await mkdir(join(folder, 'docker'), { recursive: true });
    await writeFile(join(folder, 'docker/config.json'), text);
  };

  it('are those of docker login, of the registry that is asked for', async () => {
    await config(JSON.stringify({ auths: { 'ghcr.io': { auth: Buffer.from('ada:love:lace').toString('base64') }, 'empty.io': {} } }));
    expect(await ask('ghcr.io')).toEqual({ username: 'ada', password: 'love:lace' });
    expect(await ask('empty.io')).toBeUndefined();
    expect(await ask('quay.io')).toBeUndefined();
    expect(await dockerCredentials('ghcr.io', {}, join(folder, 'nowhere'))).toBeUndefined();
  });

  it('are those of a helper', async () => {
    const helper = join(folder, 'docker/docker-credential-test');
    await config(JSON.stringify({ credHelpers: { 'ecr.example': 'test', 'lost.example': 'test', 'gone.example': 'missing' } }));
    const script = `#!${process.execPath}\nconst host = require('fs').readFileSync(0, 'utf8');
if (host !== 'ecr.example') { console.log('credentials not found in native keychain'); process.exit(1); }
console.log(JSON.stringify({ ServerURL: host, Username: 'AWS', Secret: 'token' }));\n`;
    await writeFile(helper, script);
    await chmod(helper, 0o755);
    expect(await ask('ecr.example')).toEqual({ username: 'AWS', password: 'token' });
    expect(await ask('lost.example')).toBeUndefined();
    await expect(ask('gone.example')).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
  });

  it('of a file that is no JSON are an error that does not repeat it', async () => {
    await config('{"auths": not-to-be-seen');
    const thrown: unknown = await ask('ghcr.io').catch((error: unknown) => error);
    expect(thrown).toMatchObject({ code: 'CONFIG_INVALID' });
    expect(String(thrown)).not.toMatch(/not-to-be-seen/);
  });
});

describe('bpr build --image --push', () => {
  const bpr = (...args: readonly string[]) =>
    run(process.execPath, [BPR, 'build', JOBS, '--out', 'out', ...args], {
      cwd: folder,
      env: { PATH: '/usr/bin:/bin', HOME: folder, DOCKER_CONFIG: join(folder, 'login') },
    });

  testRegistry(
    'builds the image and pushes it as whoever has signed in; again it sends nothing',
    async () => {
      registry.sign = 'bearer';
      await mkdir(join(folder, 'login'));
      const auth = Buffer.from('ada:lovelace').toString('base64');
      await writeFile(join(folder, 'login/config.json'), JSON.stringify({ auths: { [registry.host]: { auth } } }));
      const flags = ['--image', 'oci', '--push', `${registry.host}/team/squaring:1`, '--json'];
      const first = JSON.parse((await bpr(...flags)).stdout) as { image: WrittenImage; pushed: PushedImage };
      expect(first.pushed).toMatchObject({ digest: first.image.digest, tag: '1', wasThere: false });
      registry.requests.length = 0;
      const again = JSON.parse((await bpr(...flags)).stdout) as { pushed: PushedImage };
      expect(again.pushed).toMatchObject({ digest: first.image.digest, wasThere: true });
      expect(writes()).toEqual([]);
    },
    120_000,
  );

  it('says what is wrong before it builds', async () => {
    const refused = (...args: readonly string[]) => bpr(...args).catch((error: { stderr: string }) => error);
    expect((await refused('--push', 'ghcr.io/a')).stderr).toMatch(/^CONFIG_INVALID: --push needs --image/);
    expect((await refused('--image', 'oci2', '--push', 'name')).stderr).toMatch(/^CONFIG_INVALID: "name" names no image/);
  });
});
