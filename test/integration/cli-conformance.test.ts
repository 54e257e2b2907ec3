import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { main } from '../../src/cli/main.ts';
import type { MatrixReport } from '../../src/conformance/matrix.ts';
import { vectors } from '../../src/conformance/vectors.ts';
import { DRIVERS } from '../support/container-engine.ts';

interface Ran {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

const BPR = join(import.meta.dirname, '../fixtures/cli/bpr.ts');
const TIMEOUT_MS = 180_000;

/** A process with an environment of its own, as a user starts it. */
function bpr(args: readonly string[], env: Record<string, string> = {}): Promise<Ran> {
  const environment = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', ...env };
  const child = spawn(process.execPath, ['--no-warnings', BPR, 'conformance', ...args], {
    env: environment,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let [stdout, stderr] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  return new Promise((resolve) => child.once('close', (status) => resolve({ status, stdout, stderr })));
}

async function report(args: readonly string[], env?: Record<string, string>): Promise<MatrixReport & { readonly status: number | null }> {
  const { status, stdout, stderr } = await bpr([...args, '--json'], env);
  expect(stderr).toBe('');
  // What is printed is what the test is about: every field that it uses is compared.
  return { ...(JSON.parse(stdout) as MatrixReport), status };
}

const different = ({ results }: MatrixReport): unknown[] => results.filter(({ status }) => status === 'differs');

function expectEqual(actual: MatrixReport & { readonly status: number | null }, backends: readonly string[]): void {
  expect(different(actual)).toEqual([]);
  expect(actual.backends.map(({ name, status, reason }) => ({ name, status, reason }))).toEqual(
    backends.map((name) => ({ name, status: 'equal', reason: undefined })),
  );
  expect(actual).toMatchObject({ schema: 1, ok: true, status: 0, vectors: vectors.length });
  expect(actual.results).toHaveLength(vectors.length * backends.length);
  for (const { status, reason } of actual.results) if (status === 'skipped') expect(reason).toMatch(/\w/);
}

describe('one artifact gives equal answers', () => {
  it(
    'in-process, over HTTP and over stdio',
    async () => {
      const actual = await report(['--backend', 'in-process,http,stdio']);
      expectEqual(actual, ['in-process', 'http', 'stdio']);
      expect(actual.artifact).toEqual({ sha256: expect.stringMatching(/^[0-9a-f]{64}$/) as string, bytes: expect.any(Number) as number });
      const crash = actual.results.find(({ backend, vector }) => backend === 'http' && vector === 'the process exits with 3');
      expect(crash).toMatchObject({ status: 'equal', reason: 'the caller sees that the connection broke, not why' });
    },
    TIMEOUT_MS,
  );

  it(
    'as processes of the function runtime, by either runtime client',
    async () => expectEqual(await report(['--backend', 'process,process-bootstrap']), ['process', 'process-bootstrap']),
    TIMEOUT_MS,
  );

  for (const { name, test } of DRIVERS) {
    const engine = process.env['DOCKER_HOST'];
    const run = (): Promise<MatrixReport & { status: number | null }> =>
      report(['--backend', name, '--require', name], engine === undefined ? {} : { DOCKER_HOST: engine });
    test(`in containers by ${name}`, async () => expectEqual(await run(), [name]), TIMEOUT_MS);
  }
});

describe('what is not here', () => {
  const nowhere = { DOCKER_HOST: 'unix:///nowhere/docker.sock' };

  it('is named with its reason', async () => {
    const actual = await report(['--backend', 'in-process,docker', '--vector', 'binary'], nowhere);
    expect(actual).toMatchObject({
      ok: true,
      status: 0,
      backends: [
        { name: 'docker', status: 'skipped', required: false, reason: expect.stringContaining('/nowhere/docker.sock') as string, equal: 0 },
        { name: 'in-process', status: 'equal' },
      ].toReversed(),
    });
  });

  it('fails when it is required', async () => {
    const { status, stdout } = await bpr(['--backend', 'in-process', '--require', 'docker', '--vector', 'binary'], nowhere);
    expect(status).toBe(1);
    expect(stdout).toMatch(/^docker +not here/m);
    expect(stdout).toMatch(/^docker is not here, but required: .*\/nowhere\/docker\.sock/m);
    expect(stdout).toMatch(/Not all answers are equal, or a backend is missing\.\n$/);
  });
});

describe('how it is called', () => {
  it('prints a table with a column for each group', async () => {
    const { status, stdout, stderr } = await bpr(['--backend', 'in-process,stdio', '--vector', 'binary']);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toMatch(
      /^handler\.mjs \d+ bytes, sha256 [0-9a-f]{64}\n\nBACKEND +STATUS +BINARY +TOOK\nin-process +equal +4\/4 .*\nstdio +equal +4\/4 /,
    );
    expect(stdout).toMatch(/\n4 vectors in [\d.]+ s\. All answers are equal\.\n$/);
  });

  it('is ended by a signal, with its status', async () => {
    let stderr = '';
    const write = (text: string): void => {
      stderr += text;
      if (text.startsWith('[1/')) process.emit('SIGTERM');
    };
    const io = { stdout: { write: () => {} }, stderr: { isTTY: true, write }, env: { PATH: '/usr/bin:/bin' }, cwd: '/' };
    expect(await main(['conformance', '--backend', 'in-process'], io)).toBe(143);
    expect(stderr).toContain('ABORTED: interrupted by SIGTERM');
  });

  it.each([
    [['--backend', 'lambada'], 1, /^CONFIG_INVALID: there is no backend lambada; known are in-process, http, stdio, .*process/],
    [['--backend', ','], 2, /^CONFIG_INVALID: option '--backend <names>' argument ',' is invalid. It must name at least one backend/],
    [['--vector', 'no such thing'], 1, /^CONFIG_INVALID: no vector has "no such thing" in its name or group/],
    [['--all', '--backend', 'stdio'], 2, /^CONFIG_INVALID: option '--all' cannot be used with option '--backend <names>'/],
  ])('%j is refused', async (args, expected, message) => {
    const { status, stderr } = await bpr(args);
    expect(status).toBe(expected);
    expect(stderr).toMatch(message);
  });
});
