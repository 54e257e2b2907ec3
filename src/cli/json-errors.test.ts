/** What programs read when a command fails: of every command that there is. */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { main } from './main.ts';

interface Ran {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

async function bpr(args: readonly string[]): Promise<Ran> {
  let [stdout, stderr] = ['', ''];
  const io = {
    stdout: { write: (text: string) => (stdout += text) },
    stderr: { write: (text: string) => (stderr += text) },
    env: { HOME: cwd, BPR_DATA_DIR: cwd },
    cwd,
  };
  const status = await main(args, io);
  return { status, stdout, stderr };
}

/** Of a command and those below it, from what its help lists. */
async function commandsBelow(path: readonly string[]): Promise<string[]> {
  const { stdout } = await bpr([...path, '--help']);
  const listed = stdout.split('\nCommands:\n')[1]?.split('\n\n')[0] ?? '';
  const names = [...listed.matchAll(/^ {2}([a-z][\w-]*)/gm)].map(([, name = '']) => name).filter((name) => name !== 'help');
  const below: string[] = [];
  for (const name of names) below.push(...(await commandsBelow([...path, name])));
  return [path.join(' '), ...below];
}

/** `event` where the command prints events as lines. */
function errorOf(stdout: string): { readonly code: string; readonly message: string; readonly event?: string } {
  expect(stdout).toMatch(/^\{.*\}\n$/);
  const document = JSON.parse(stdout) as {
    readonly event?: string;
    readonly code: string;
    readonly message: string;
    readonly error?: never;
  };
  return document.error ?? document;
}

const cwd = mkdtempSync(join(tmpdir(), 'bpr-errors-'));
afterAll(() => rmSync(cwd, { recursive: true, force: true }));

let commands: readonly string[] = [];
beforeAll(async () => {
  commands = (await commandsBelow([])).filter((path) => path !== '');
});

describe('a command that is called in a wrong way', () => {
  it('says so with --json as one line of JSON, else as text, with the same status', async () => {
    expect(commands.length).toBeGreaterThan(60);
    for (const command of commands) {
      const args = [...command.split(' '), '--no-such-option'];
      const [json, text] = [await bpr([...args, '--json']), await bpr(args)];
      expect([json.status, json.stderr, text.status, text.stdout], command).toEqual([2, '', 2, '']);
      const { code, message } = errorOf(json.stdout);
      expect([code, message.length > 0], command).toEqual(['CONFIG_INVALID', true]);
      expect(text.stderr, command).toContain(`${code}: ${message}`);
    }
  });

  it('is told of it as of everything else: events by commands that print events', async () => {
    const told = new Set<string>();
    for (const command of commands)
      if (errorOf((await bpr([...command.split(' '), '--json', '--no-such-option'])).stdout).event === 'error') told.add(command);
    expect([...told].toSorted()).toEqual(['control-plane', 'dev', 'gateway', 'wasm serve', 'worker']);
  });

  it.each([
    [[]],
    [['nope']],
    [['topology']],
    [['topology', 'nope']],
    [['worker', 'bundle']],
    [['worker', '--once=7']],
    [['worker', '--job', 'x']],
  ])('%j --json', async (args) => {
    const { status, stdout, stderr } = await bpr([...args, '--json']);
    expect([errorOf(stdout).code, stderr]).toEqual(['CONFIG_INVALID', '']);
    expect((await bpr(args)).status).toBe(status);
  });
});

describe('a command that fails', () => {
  it.each([
    ['build nope.ts', undefined],
    ['why 7', undefined],
    ['queue stats', undefined],
    ['topology up --option 1 --workers 999', undefined],
    ['worker --once --job nope.json', 'error'],
    ['worker --data /dev/null/x', 'error'],
    ['topology up --option 1 --data /dev/null/x', undefined],
    ['topology render --option 1 --format systemd --out /dev/null/x', undefined],
    ['topology matrix --file /', undefined],
    ['operations export --out /dev/null/x', undefined],
    ['control-plane --data /dev/null/x --port 0', 'error'],
    ['gateway --data-dir /dev/null/x --port 0', 'error'],
    ['gateway keys list --data-dir /dev/null/x', undefined],
    ['worker image --out /dev/null/x', undefined],
    ['control-plane --tls-cert nope.pem', 'error'],
    ['gateway --tls-cert nope.pem', 'error'],
    ['dev nope.ts', 'error'],
    ['init /proc/x', undefined],
    ['plugin new acme --dir /proc/x/y', undefined],
    ['operations export --out /proc/x', undefined],
    ['gateway --data-dir /proc/x --port 0', 'error'],
    ['control-plane --data /proc/x --port 0', 'error'],
  ])('%s', async (line, event) => {
    const args = line.split(' ');
    const [json, text] = [await bpr([...args, '--json']), await bpr(args)];
    const { code, message, ...rest } = errorOf(json.stdout);
    expect([json.status, json.stderr, text.status, text.stdout]).toEqual([1, '', 1, '']);
    expect(rest.event).toBe(event);
    // Those are of programs that went wrong.
    expect(code).not.toBe('INTERNAL');
    expect(text.stderr).toContain(`${code}: ${message}`);
  });
});
