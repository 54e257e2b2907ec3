import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

const ROOT = join(import.meta.dirname, '..', '..');

/** Runs the fixture in a vitest of its own, as the suite would. */
function run(required: string): { readonly status: number | null; readonly output: string } {
  const args = [
    join(ROOT, 'node_modules', 'vitest', 'vitest.mjs'),
    'run',
    '--root',
    join(ROOT, 'test', 'fixtures', 'require'),
    '--reporter',
    'verbose',
  ];
  const env = { PATH: process.env['PATH'] ?? '', NO_COLOR: '1', REQUIRE: required };
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { env, encoding: 'utf8', timeout: 50_000 });
  return { status, output: `${stdout}${stderr}` };
}

describe('a test that needs a peer', () => {
  it('is skipped with the reason where the peer is missing, and runs where it is there', () => {
    const { status, output } = run('anvil, node');
    expect(status).toBe(0);
    expect(output).toMatch(/↓ .*needs the missing peer.*no-such-peer is not available: spawnSync no-such-peer-of-any-machine ENOENT/);
    expect(output).toContain('the body ran');
    expect(output).toMatch(/Tests\s+1 passed \| 1 skipped/);
  });

  it('fails where the peer is missing and demanded', () => {
    const { status, output } = run('anvil, no-such-peer');
    expect(status).toBe(1);
    expect(output).toContain('no-such-peer is not available: spawnSync no-such-peer-of-any-machine ENOENT, and REQUIRE lists it');
    expect(output).not.toContain('this body must not run');
  });
});
