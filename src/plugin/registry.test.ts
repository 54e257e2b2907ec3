import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inspect } from 'node:util';
import { describe, expect, test } from 'vitest';
import { systemClock } from '../clock.ts';
import type { FaasDeployer } from '../executor/deployer.ts';
import type { FaasExecutor } from '../executor/executor.ts';
import { silentTelemetry } from '../telemetry/telemetry.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import { importPeer } from './peer.ts';
import type { Plugin } from './plugin.ts';
import { createPluginRegistry } from './registry.ts';
import type { PluginRegistry } from './registry.ts';
import { Secret } from './secret.ts';

const limits = { requestBytesMax: 1, responseBytesMax: 1, timeoutMsMax: 1 };
const executor: FaasExecutor = { name: 'x', limits, invoke: async () => ({ results: [] }) };
const unused = (): never => {
  throw new Error('unused');
};
const deployer: FaasDeployer = {
  name: 'x',
  violations: unused,
  deploy: unused,
  updateCode: unused,
  updateConfiguration: unused,
  describe: unused,
  list: unused,
  invoke: unused,
  logs: unused,
  versions: unused,
  rollback: unused,
  remove: unused,
};
const plugin = (name: string, more: Partial<Plugin> = {}): Plugin => ({
  name,
  register: (registry) => registry.executor(() => executor),
  ...more,
});

function registryOf(builtIn: Record<string, () => Promise<Plugin>> = {}): PluginRegistry {
  return createPluginRegistry({ clock: systemClock, telemetry: silentTelemetry, builtIn: new Map(Object.entries(builtIn)) });
}

test('a plugin from outside makes executors and deployers with the options and the context', async () => {
  const registry = registryOf();
  const seen: unknown[] = [];
  registry.use(
    plugin('mine', {
      register(registration) {
        registration.executor((options, context) => (seen.push(options, context), executor));
        registration.deployer(() => deployer);
      },
    }),
  );
  expect(await registry.executor('mine', { a: 1 })).toBe(executor);
  expect(await registry.deployer('mine', {})).toBe(deployer);
  expect(seen).toEqual([{ a: 1 }, { clock: systemClock, telemetry: silentTelemetry }]);
});

test('registries do not see the plugins of each other', async () => {
  const first = registryOf();
  first.use(plugin('mine'));
  await expect(registryOf().executor('mine', {})).rejects.toMatchObject({ code: 'PLUGIN_UNKNOWN' });
});

describe('built-in plugins', () => {
  test('are imported on first use, once, however many ask at the same time', async () => {
    let imports = 0;
    const registry = registryOf({ lazy: async () => ((imports += 1), plugin('lazy')) });
    expect(registry.names()).toEqual(['lazy']);
    expect(imports).toBe(0);
    await Promise.all([registry.executor('lazy', {}), registry.executor('lazy', {}), registry.describe()]);
    await registry.executor('lazy', {});
    expect(imports).toBe(1);
  });

  test('the process plugin is a backend, refuses options that it does not know, and starts nothing', async () => {
    const registry = createPluginRegistry({ clock: systemClock, telemetry: silentTelemetry });
    expect((await registry.backend('process', { sandbox: 'none', blanks: 0 })).name).toBe('process');
    await expect(registry.backend('process', { sandboxes: 1 })).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    await expect(registry.backend('process', { sandbox: 'strong' })).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    await expect(registry.backend('http', {})).rejects.toMatchObject({ code: 'PLUGIN_UNKNOWN' });
  });

  test('the http plugin is one, refuses options that it does not know, and makes executors without connecting', async () => {
    const registry = createPluginRegistry({ clock: systemClock, telemetry: silentTelemetry });
    expect((await registry.executor('http', { url: 'http://127.0.0.1:1', mode: 'platform' })).name).toBe('http:127.0.0.1:1');
    await expect(registry.executor('http', { url: 'http://h', tiemout: 1 })).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: expect.stringContaining('tiemout') as string,
    });
    for (const limits of [{ requestBytesMax: '6MB' }, { timeoutMsMax: -1 }, { timeoutMs: 5 }]) {
      const refused = registry.executor('http', { url: 'http://h', limits });
      await expect(refused).rejects.toMatchObject({ code: 'CONFIG_INVALID', message: expect.stringContaining('timeoutMsMax') });
    }
    await expect(registry.executor('http', { url: 5 })).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    await expect(registry.executor('http', {})).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    await expect(registry.executor('http', undefined)).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    await expect(registry.deployer('http', { url: 'ftp://h' })).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    expect((await registry.describe()).filter(({ name }) => name === 'http')).toEqual([
      {
        name: 'http',
        source: 'built-in',
        kinds: ['executor', 'deployer'],
        peers: [{ name: 'undici', range: '^8.12.0', installed: expect.stringMatching(/^8\./) as string }],
        problem: undefined,
      },
    ]);
  });
});

describe('mistakes', () => {
  test('an unknown name lists the known ones', async () => {
    const registry = registryOf({ http: async () => plugin('http') });
    registry.use(plugin('mine'));
    await expect(registry.executor('htpp', {})).rejects.toMatchObject({
      code: 'PLUGIN_UNKNOWN',
      message: 'there is no plugin htpp; known are: http, mine',
    });
  });

  test('a plugin without a deployer says so', async () => {
    const registry = registryOf();
    registry.use(plugin('mine'));
    await expect(registry.deployer('mine', {})).rejects.toMatchObject({ code: 'PLUGIN_UNKNOWN', message: 'plugin mine has no deployer' });
  });

  test('a name can be taken once', () => {
    const registry = registryOf({ http: async () => plugin('http') });
    registry.use(plugin('mine'));
    expect(() => registry.use(plugin('mine'))).toThrow(expect.objectContaining({ code: 'PLUGIN_CONFLICT' }));
    expect(() => registry.use(plugin('http'))).toThrow(expect.objectContaining({ code: 'PLUGIN_CONFLICT' }));
  });

  test.each<[string, unknown]>([
    ['nothing', null],
    ['no name', { register() {} }],
    ['a name that cannot be written in a file', { name: 'My Cloud', register() {} }],
    ['no register', { name: 'mine' }],
    ['a peer without a range', { name: 'mine', peers: [{ name: 'x' }], register() {} }],
    ['nothing registered', { name: 'mine', register() {} }],
    [
      'something registered that is no function',
      { name: 'mine', register: (registration: { executor(value: unknown): void }) => registration.executor('x') },
    ],
  ])('a plugin with %s is refused when it is added', (_, malformed) => {
    expect(() => registryOf().use(malformed as Plugin)).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
  });

  test('a plugin that registers twice, or fails while it registers, adds nothing', async () => {
    const registry = registryOf();
    const twice = plugin('mine', {
      register: (registration) => (registration.executor(() => executor), registration.executor(() => executor)),
    });
    expect(() => registry.use(twice)).toThrow(expect.objectContaining({ code: 'PLUGIN_CONFLICT' }));
    await expect(registry.executor('mine', {})).rejects.toMatchObject({ code: 'PLUGIN_UNKNOWN' });
    registry.use(plugin('mine'));
  });

  test('a built-in plugin that cannot be imported is described with the reason', async () => {
    const registry = registryOf({ broken: () => Promise.reject(new Error('no such file')) });
    expect(await registry.describe()).toEqual([{ name: 'broken', source: 'built-in', kinds: [], peers: [], problem: 'no such file' }]);
  });
});

describe('peers', () => {
  test('a missing one is PEER_MISSING with the command that helps', async () => {
    const missing = importPeer('mine', 'no-such-package-anywhere', () => import(String('no-such-package-anywhere')));
    await expect(missing).rejects.toMatchObject({
      code: 'PEER_MISSING',
      message: expect.stringContaining('npm install no-such-package-anywhere') as string,
    });
  });

  test('one that is installed but broken says what is wrong', async () => {
    const broken = importPeer('mine', 'some-sdk', () => Promise.reject(new Error('needs a newer node')));
    await expect(broken).rejects.toMatchObject({
      code: 'PEER_MISSING',
      message: expect.stringContaining('cannot be loaded: needs a newer node') as string,
    });
  });

  test('is described as not installed without being loaded', async () => {
    const registry = registryOf();
    registry.use(plugin('mine', { peers: [{ name: 'no-such-package-anywhere', range: '^1.0.0' }] }));
    expect((await registry.describe())[0]?.peers).toEqual([{ name: 'no-such-package-anywhere', range: '^1.0.0', installed: undefined }]);
  });
});

test('a secret does not print itself', async () => {
  const secret = new Secret('env:TOKEN', { environment: { TOKEN: 'hunter2' } });
  expect(secret.read()).toBe('hunter2');
  expect(JSON.stringify({ secret }) + inspect(secret)).not.toContain('hunter2');
  expect(secret.source).toBe('env:TOKEN');
});

test('a secret in a file is not read anew for every call, but within a second', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'secret-'));
  const file = join(directory, 'key');
  await writeFile(file, ' first \n');
  const clock = new FakeClock();
  const secret = new Secret(`file:${file}`, { clock });
  expect(secret.read()).toBe('first');
  await writeFile(file, 'second');
  expect(secret.read()).toBe('first');
  await clock.advance(1_000);
  expect(secret.read()).toBe('second');
  await rm(directory, { recursive: true });
  await clock.advance(1_000);
  expect(() => secret.read()).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
});
