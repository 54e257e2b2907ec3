import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { main } from '../../src/cli/main.ts';
import { startLocalChain } from '../../src/testing/local-chain.ts';
import type { LocalChain } from '../../src/testing/local-chain.ts';
import { deployTangle } from '../../src/testing/tangle.ts';
import type { LocalService, LocalTangle } from '../../src/testing/tangle.ts';

const PROFILE = { avgDurationMs: 12, p95DurationMs: 30, peakMemoryMb: 64, stateful: false, persistentConnections: false };

let chain: LocalChain;
let tangle: LocalTangle;
let service: LocalService;
let home: string;

beforeAll(async () => {
  home = mkdtempSync(join(tmpdir(), 'bpr-cloud-analyze-'));
  chain = await startLocalChain();
  tangle = await deployTangle(chain);
  service = await tangle.startService({
    jobs: [{ name: 'square', profile: PROFILE }, { name: 'feed', profile: { ...PROFILE, persistentConnections: true } }, { name: 'new' }],
  });
});

afterAll(async () => {
  await chain.stop();
  rmSync(home, { recursive: true, force: true });
});

async function analyze(...args: readonly string[]): Promise<{ readonly status: number; readonly document: unknown }> {
  let stdout = '';
  const env = { XDG_CONFIG_HOME: home, BPR_SERVERLESS: 'true', RPC_URL: chain.rpcUrl, TANGLE_CONTRACT: tangle.contract };
  const sink = { write: (text: string) => (stdout += text) };
  const status = await main(['cloud', 'analyze', '--json', ...args], { stdout: sink, stderr: { write: () => true }, env, cwd: home });
  return { status, document: JSON.parse(stdout) };
}

describe('bpr cloud analyze reads the chain', () => {
  const expected = {
    source: 'chain',
    strategy: 'hybrid',
    faasJobs: [0],
    localJobs: [1, 2],
    jobs: [{ reasons: [] }, { reasons: [{ code: 'connections' }] }, { reasons: [{ code: 'unprofiled' }] }],
  };

  it('by service', async () => {
    expect(await analyze('--service-id', String(service.serviceId))).toMatchObject({ status: 0, document: expected });
  });

  it('by blueprint, and jobs without a profile as asked', async () => {
    const id = String(service.blueprintId);
    expect(await analyze('--blueprint-id', id)).toMatchObject({ status: 0, document: expected });
    expect(await analyze('--blueprint-id', id, '--assume', 'function')).toMatchObject({ document: { faasJobs: [0, 2], localJobs: [1] } });
  });

  it('a real chain is never replaced by a made-up blueprint', async () => {
    expect(await analyze('--blueprint-id', '99', '--mock')).toMatchObject({
      status: 1,
      document: { error: { code: 'BLUEPRINT_NOT_FOUND' } },
    });
  });

  it('an endpoint that nobody serves is an error, and made up only when asked', async () => {
    const nowhere = ['--rpc-url', 'http://127.0.0.1:9', '--blueprint-id', '0'];
    expect(await analyze(...nowhere)).toMatchObject({ status: 1, document: { error: { code: 'RPC_UNREACHABLE' } } });
    expect(await analyze(...nowhere, '--mock')).toMatchObject({ status: 0, document: { source: 'mock', strategy: 'serverless' } });
  });
});
