import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { cp, mkdir, mkdtemp, readFile, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';

const run = promisify(execFile);
const root = fileURLToPath(new URL('../..', import.meta.url));
let directory = '';

/** The example lies outside of the repository, with the built package installed as npm would link it. */
beforeAll(async () => {
  expect(existsSync(join(root, 'dist/src/plugin.js')), 'the package is not built: npm run build').toBe(true);
  directory = await mkdtemp(join(tmpdir(), 'custom-plugin-'));
  await cp(join(root, 'examples/custom-plugin'), directory, { recursive: true, filter: (path) => !path.includes('node_modules') });
  await mkdir(join(directory, 'node_modules'));
  await symlink(root, join(directory, 'node_modules/blueprint-runner'));
});
afterAll(() => rm(directory, { recursive: true, force: true }));

test('a plugin from another package passes the published suite', async () => {
  const { stdout } = await run(process.execPath, ['--test', '--test-reporter=tap'], { cwd: directory, env: {} });
  expect(stdout).toMatch(/^# fail 0$/m);
  expect(Number(/^# pass (\d+)$/m.exec(stdout)?.[1])).toBeGreaterThanOrEqual(20);
  expect(stdout).toMatch(/^# skipped 0$/m);
});

test('it registers without touching our sources, by its own name', async () => {
  const program = `
    import { createPluginRegistry } from ${JSON.stringify(join(root, 'dist/src/plugin/registry.js'))};
    import { silentTelemetry, systemClock } from 'blueprint-runner/plugin';
    import { commandPlugin } from './plugin.js';
    const registry = createPluginRegistry({ clock: systemClock, telemetry: silentTelemetry });
    registry.use(commandPlugin);
    const executor = await registry.executor('command', { command: ['true'] });
    const refused = await registry.executor('command', {}).catch((error) => error.code);
    console.log(JSON.stringify([registry.names().filter((name) => ['command', 'http'].includes(name)), executor.name, refused]));
  `;
  const { stdout } = await run(process.execPath, ['--input-type=module', '--eval', program], { cwd: directory, env: {} });
  expect(JSON.parse(stdout)).toEqual([['command', 'http'], 'command', 'CONFIG_INVALID']);
});

test('it compiles against the published types', async () => {
  const options = [
    '--noEmit',
    '--allowJs',
    '--checkJs',
    '--strict',
    '--skipLibCheck',
    '--module',
    'nodenext',
    '--target',
    'es2024',
    '--types',
    'node',
  ];
  const types = join(directory, 'node_modules/@types');
  await symlink(join(root, 'node_modules/@types'), types);
  await symlink(join(root, 'node_modules/undici-types'), join(directory, 'node_modules/undici-types'));
  const compiler = join(root, 'node_modules/typescript/bin/tsc');
  const { stdout } = await run(process.execPath, [compiler, ...options, 'plugin.js'], { cwd: directory, env: {} }).catch(
    (error: { stdout: string }) => error,
  );
  expect(stdout).toBe('');
});

test('it imports nothing of us but the entry for plugins, and is small', async () => {
  const source = await readFile(join(root, 'examples/custom-plugin/plugin.js'), 'utf8');
  const imported = [...source.matchAll(/from '([^']+)'/g)].map(([, name]) => name).filter((name) => !name?.startsWith('node:'));
  expect(new Set(imported)).toEqual(new Set(['blueprint-runner/plugin']));
  expect(source.split('\n').filter((line) => line.trim() !== '' && !/^\s*(\/?\*|\/\/)/.test(line)).length).toBeLessThanOrEqual(65);
});
