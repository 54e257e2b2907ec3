/** The image of a handler as tools of containers see it: a valid layout, the same bytes every time, and a program that runs. */

import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { librariesOf, writeImageLayout } from '../../src/deploy/image.ts';
import type { WrittenImage } from '../../src/deploy/image.ts';
import { buildFixture } from '../fixtures/handler/process.ts';
import { requirePeer, runs } from '../require.ts';

const folders: string[] = [];
const temporary = (): string => {
  const folder = mkdtempSync(join(tmpdir(), 'image-'));
  folders.push(folder);
  return folder;
};
afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

const testRunc = requirePeer('runc', () => {
  if (process.getuid?.() !== 0) throw new Error('it needs root');
  runs('runc', '--version');
});

interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
}
interface Manifest {
  readonly schemaVersion: number;
  readonly mediaType: string;
  readonly config: Descriptor;
  readonly layers: readonly Descriptor[];
}

const sha256 = (data: Uint8Array): string => `sha256:${createHash('sha256').update(data).digest('hex')}`;

/** The image in a layout; every blob is what its descriptor says. */
function readImage(directory: string) {
  const read = ({ digest, size }: Descriptor): Buffer => {
    const data = readFileSync(join(directory, 'blobs', digest.replace(':', '/')));
    expect([sha256(data), data.length]).toEqual([digest, size]);
    return data;
  };
  expect(JSON.parse(readFileSync(join(directory, 'oci-layout'), 'utf8'))).toEqual({ imageLayoutVersion: '1.0.0' });
  const index = JSON.parse(readFileSync(join(directory, 'index.json'), 'utf8')) as { manifests: [Descriptor & { platform: object }] };
  const [pointer] = index.manifests;
  const manifest = JSON.parse(read(pointer).toString()) as Manifest;
  const config = JSON.parse(read(manifest.config).toString()) as {
    architecture: string;
    config: { Entrypoint: string[]; Env: string[]; WorkingDir: string };
    rootfs: { diff_ids: string[] };
  };
  const tars = manifest.layers.map((layer) => (layer.mediaType.endsWith('+gzip') ? gunzipSync(read(layer)) : read(layer)));
  expect(config.rootfs.diff_ids).toEqual(tars.map(sha256));
  const blobs = readdirSync(join(directory, 'blobs/sha256')).length;
  expect(blobs).toBe(manifest.layers.length + 2);
  return { pointer, manifest, config, tars };
}

const listed = (tar: Uint8Array): string[] =>
  execFileSync('tar', ['--list', '--verbose', '--numeric-owner', '--utc', '--file', '-'], { input: tar })
    .toString()
    .trim()
    .split('\n')
    .map((line) => line.replaceAll(/ +/g, ' '));

let zip: Uint8Array;
beforeAll(async () => {
  zip = readFileSync((await buildFixture()).built.zipFile);
});

describe('the layout of an image', () => {
  test('holds the package in one layer, owned by root, executable where it was, from the epoch', async () => {
    const directory = temporary();
    const written = await writeImageLayout({ zip, outDir: directory, environment: { LOG_LEVEL: 'info' }, architecture: 'arm64' });
    const { pointer, config, tars } = readImage(directory);
    expect(pointer).toMatchObject({ digest: written.digest, platform: { architecture: 'arm64', os: 'linux' } });
    expect(config).toMatchObject({
      architecture: 'arm64',
      config: { Entrypoint: ['node', '/var/task/handler.mjs'], WorkingDir: '/var/task' },
    });
    expect(config.config.Env.at(-1)).toBe('LOG_LEVEL=info');
    const names = listed(tars[0] ?? new Uint8Array());
    expect(names.slice(0, 3)).toEqual([
      'drwxr-xr-x 0/0 0 1970-01-01 00:00 var/',
      'drwxr-xr-x 0/0 0 1970-01-01 00:00 var/task/',
      expect.stringMatching(/^-rwxr-xr-x 0\/0 \d+ 1970-01-01 00:00 var\/task\/bootstrap$/),
    ]);
    expect(names).toHaveLength(7);
  });

  test('has the same digest for the same package, in other folders and other time zones', async () => {
    const [first, second] = [await writeImageLayout({ zip, outDir: temporary() }), await writeImageLayout({ zip, outDir: temporary() })];
    expect(second.digest).toBe(first.digest);
    const zipFile = join(temporary(), 'handler.zip');
    writeFileSync(zipFile, zip);
    const source = `import { writeImageLayout } from ${JSON.stringify(new URL('../../src/deploy/image.ts', import.meta.url).href)};
import { readFileSync } from 'node:fs';
console.log((await writeImageLayout({ zip: readFileSync(${JSON.stringify(zipFile)}), outDir: ${JSON.stringify(temporary())} })).digest);`;
    const { stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', source], { env: { TZ: 'Pacific/Kiritimati' } });
    expect(stdout.toString().trim()).toBe(first.digest);
  });

  test('is built upon another layout: its layers come first, its environment stays', async () => {
    const base = temporary();
    await writeImageLayout({ zip, outDir: base, environment: { FROM_BASE: '1' }, architecture: 'arm64' });
    const directory = temporary();
    await writeImageLayout({ zip, outDir: directory, base, environment: { OWN: '2' } });
    const { manifest, config } = readImage(base);
    expect(config.architecture).toBe('arm64');
    const { manifests } = JSON.parse(readFileSync(join(directory, 'index.json'), 'utf8')) as { manifests: [Descriptor] };
    const own = JSON.parse(readFileSync(join(directory, 'blobs', manifests[0].digest.replace(':', '/')), 'utf8')) as Manifest;
    expect(own.layers.map(({ digest }) => digest)).toEqual([manifest.layers[0]?.digest, manifest.layers[0]?.digest]);
    const above = JSON.parse(readFileSync(join(directory, 'blobs', own.config.digest.replace(':', '/')), 'utf8')) as typeof config;
    expect(above.config.Env.slice(1)).toEqual(['FROM_BASE=1', 'OWN=2']);
    expect(above.rootfs.diff_ids).toHaveLength(2);
  });

  test('refuses a base that is no layout, and a package that is no zip', async () => {
    await expect(writeImageLayout({ zip, outDir: temporary(), base: temporary() })).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    await expect(writeImageLayout({ zip: Buffer.from('no zip'), outDir: temporary() })).rejects.toMatchObject({ code: 'PACKAGE_INVALID' });
  });
});

/** What `runc run` needs besides the root file system: the process of the image, and as little as possible around it. */
function runcConfig(config: ReturnType<typeof readImage>['config']['config']): object {
  return {
    ociVersion: '1.0.2',
    process: {
      args: config.Entrypoint,
      env: config.Env,
      cwd: config.WorkingDir,
      user: { uid: 65_534, gid: 65_534 },
      noNewPrivileges: true,
    },
    root: { path: 'rootfs', readonly: true },
    mounts: [{ destination: '/proc', type: 'proc', source: 'proc' }],
    linux: { namespaces: ['pid', 'mount', 'ipc', 'uts'].map((type) => ({ type })) },
  };
}

describe('the image from scratch with node', () => {
  let image: WrittenImage;
  const directory = temporary();
  beforeAll(async () => {
    const node = { file: process.execPath, libraries: librariesOf(process.execPath) };
    image = await writeImageLayout({ zip, outDir: directory, node });
  });

  testRunc(
    'runs: a request on stdin, its answer on stdout',
    () => {
      const { config, tars } = readImage(directory);
      expect(image.layers).toHaveLength(2);
      const bundle = temporary();
      mkdirSync(join(bundle, 'rootfs'));
      for (const tar of tars) execFileSync('tar', ['--extract', '--directory', join(bundle, 'rootfs'), '--file', '-'], { input: tar });
      mkdirSync(join(bundle, 'rootfs/proc'));
      writeFileSync(join(bundle, 'config.json'), JSON.stringify(runcConfig(config.config)));
      const args = ['--root', temporary(), 'run', '--bundle', bundle, `image-test-${process.pid}`];
      const { stdout, stderr } = spawnSync('runc', args, { input: '{"job_id":2,"args":[7,8]}', timeout: 30_000 });
      expect([stdout.toString().trim(), stderr.toString()]).toEqual(['{"result":[7,8]}', expect.not.stringContaining('error')]);
    },
    60_000,
  );
});
