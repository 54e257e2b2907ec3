/** What goes wrong with deployments, as the command line tells it and as it is put right by running it again. */

import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ServiceRecords } from '../../src/deploy/record.ts';
import { startLocalChain } from '../../src/testing/local-chain.ts';
import type { LocalChain } from '../../src/testing/local-chain.ts';
import { deployTangle } from '../../src/testing/tangle.ts';
import type { LocalService, LocalTangle } from '../../src/testing/tangle.ts';
import { CliUser } from '../support/cli-user.ts';
import { reservedPort } from '../support/reserved-port.ts';

const JOBS = new URL('../fixtures/deploy/jobs.ts', import.meta.url).pathname;

let folder: string;
let chain: LocalChain;
let tangle: LocalTangle;
let service: LocalService;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'cloud-errors-'));
  chain = await startLocalChain();
  tangle = await deployTangle(chain);
  service = await tangle.startService({ jobs: ['quick', 'small', 'stateful', 'long'].map((name) => ({ name })) });
}, 240_000);

const users: User[] = [];

afterAll(async () => {
  for (const pid of users.flatMap(orchestratorsOf)) process.kill(pid, 'SIGKILL');
  await chain.stop();
  rmSync(folder, { recursive: true });
});

class User extends CliUser {
  constructor(more: Record<string, string | undefined> = {}) {
    super(folder, more);
    users.push(this);
  }
}

const operator = (): User =>
  new User({ HTTP_RPC_URL: chain.rpcUrl, TANGLE_CONTRACT: tangle.contract, OPERATOR_PRIVATE_KEY: service.operators[0]?.privateKey });
const id = (): string => String(service.serviceId);
const deployment = (): string[] => ['service', 'deploy', JOBS, '--service-id', id(), '--from-block', '0', '--confirmations', '0'];
const name = (): string => `blueprint-${id()}-orchestrator`;

/** Orchestrators that run in the folder of this user. */
function orchestratorsOf({ machines }: User): number[] {
  return readdirSync('/proc')
    .filter((entry) => /^\d+$/.test(entry))
    .filter((pid) => {
      try {
        return readlinkSync(`/proc/${pid}/cwd`).startsWith(machines);
      } catch {
        return false;
      }
    })
    .map(Number);
}

function listens(server: Server, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    server.once('error', () => resolve(false)).listen(port, '127.0.0.1', () => resolve(true));
  });
}

describe('a command that is called in a wrong way', () => {
  it.each([
    [['service', 'deploy'], "required option '--service-id <id>' not specified"],
    [['service', 'deploy', '--service-id', 'seven'], 'seven'],
    [['service', 'deploy', '--service-id', '1', '--target', 'moon'], 'Allowed choices are process, container, kubernetes, ec2'],
    [['service', 'deploy', '--service-id', '1', '--deployer-option', 'region'], 'name=value'],
    [['cloud', 'deploy', 'jobs.ts'], "required option '--name <name>' not specified"],
    [['cloud', 'list', '--provider', 'moon'], 'aws-lambda'],
    [['cloud', 'deploy', 'jobs.ts', '--name', 'a', '--memory', '-1'], '-1'],
    [['cloud', 'list', '--all-of-them'], "unknown option '--all-of-them'"],
  ])('%j ends with 2 and says why', async (args, message) => {
    const { code, stderr } = await new User().bpr(...args);
    expect(stderr).toContain(message);
    expect(code).toBe(2);
  });
});

describe('a platform that cannot be used', () => {
  it.each([
    ['gcp-functions', { GCP_PROJECT_ID: 'project-one' }, /GOOGLE_/],
    ['digitalocean', {}, /DIGITALOCEAN_/],
    ['cloudflare', { CLOUDFLARE_ACCOUNT_ID: 'a'.repeat(32) }, /CLOUDFLARE_API_TOKEN/],
    ['azure-functions', { AZURE_SUBSCRIPTION_ID: '00000000-0000-0000-0000-000000000001' }, /AZURE_/],
    ['aws-lambda', {}, /AWS_/],
  ])('%s without credentials says what to set', async (provider, env, what) => {
    const { error } = (await new User(env).json('cloud', 'list', '--provider', provider)) as {
      error?: { code: string; message: string; remedy: string };
    };
    expect(error?.code).toBe('CREDENTIALS_MISSING');
    expect(`${error?.message} ${error?.remedy}`).toMatch(what);
  });

  it('that does not answer is told to be unreachable', async () => {
    const port = await reservedPort();
    const user = new User();
    await user.bpr(
      'cloud',
      'policy',
      '--serverless',
      'true',
      '--faas-provider',
      'custom',
      '--faas-custom-endpoint',
      `http://127.0.0.1:${port}`,
    );
    const { code, stderr } = await user.bpr('cloud', 'list');
    expect(stderr).toMatch(/^PLATFORM_UNREACHABLE: /);
    expect(code).toBe(1);
  }, 240_000);

  it('a damaged policy is named, and stays as it is', async () => {
    const user = new User();
    const file = join(user.home, 'policy.json');
    writeFileSync(file, '{"version": 1, "serverless": {');
    const { code, stderr } = await user.bpr('cloud', 'list', '--config', file);
    expect(stderr).toMatch(/^CONFIG_INVALID/);
    expect(stderr).toContain(file);
    expect(code).toBe(1);
    expect(readFileSync(file, 'utf8')).toBe('{"version": 1, "serverless": {');
  });
});

describe('a service that cannot be deployed', () => {
  it('a stopped chain, an unknown service and jobs that do not compile change nothing', async () => {
    const user = operator();
    const stopped = await new User({ ...user.env, HTTP_RPC_URL: 'http://127.0.0.1:1' }).bpr(...deployment());
    expect([stopped.code, stopped.stderr]).toEqual([1, expect.stringMatching(/^RPC_/)]);
    const unknown = await user.bpr('service', 'deploy', JOBS, '--service-id', '999');
    expect([unknown.code, unknown.stderr]).toEqual([1, expect.stringMatching(/^SERVICE_NOT_FOUND/)]);
    const broken = join(user.home, 'broken.ts');
    writeFileSync(broken, 'export const router = {');
    const failed = await user.bpr('service', 'deploy', broken, '--service-id', id());
    expect([failed.code, failed.stderr]).toEqual([1, expect.stringMatching(/^BUILD_FAILED[^]*broken\.ts/)]);
    expect(existsSync(user.machines)).toBe(false);
  }, 240_000);

  it('a damaged record and a lock are told, and no runner is started', async () => {
    const user = operator();
    const record = new ServiceRecords(user.records);
    const key = { serviceId: id(), chainId: chain.chainId, contract: tangle.contract };
    const unlock = record.lock(key);
    const locked = await user.bpr(...deployment());
    unlock();
    expect([locked.code, locked.stderr]).toEqual([1, expect.stringMatching(/^STATE_INVALID: another process is deploying/)]);
    const file = join(user.records, readdirSync(user.records).map((entry) => entry.replace(/\.lock.*$/, ''))[0] ?? '');
    for (const text of ['{"version":1,"jo', 'null', '{"version":1}']) {
      writeFileSync(file, text);
      const damaged = await user.bpr(...deployment());
      expect([damaged.code, damaged.stderr]).toEqual([1, expect.stringMatching(/^STORE_FAILED[^]*damaged/)]);
      expect(readFileSync(file, 'utf8')).toBe(text);
    }
    expect(existsSync(user.machines)).toBe(false);
  }, 240_000);

  it('a record of a process that cannot be read does not start a second one', async () => {
    const user = operator();
    mkdirSync(join(user.machines, name()), { recursive: true });
    writeFileSync(join(user.machines, name(), 'machine.json'), '{');
    const { code, stderr } = await user.bpr(...deployment());
    expect([code, stderr]).toEqual([1, expect.stringMatching(/^STORE_FAILED/)]);
    expect(orchestratorsOf(user)).toEqual([]);
  }, 240_000);
});

describe('a deployment that stopped', () => {
  it('at any moment goes on when it is run again: one runner, and no secret anywhere', async () => {
    const user = operator();
    const key = service.operators[0]?.privateKey.slice(2) ?? '';
    const said: string[] = [];
    for (const killAfterMs of [300, 900, 1_400, 2_000]) {
      const { child, ended } = user.start(deployment());
      const timer = setTimeout(() => child.kill('SIGKILL'), killAfterMs);
      const { stdout, stderr } = await ended;
      clearTimeout(timer);
      said.push(stdout, stderr);
      expect(orchestratorsOf(user).length).toBeLessThanOrEqual(1);
    }
    const { record, machine } = (await user.json(...deployment())) as {
      record: { status: string };
      machine: { id: string; status: string };
    };
    expect([record.status, machine.status]).toEqual(['deployed', 'running']);
    expect(orchestratorsOf(user)).toEqual([Number(machine.id)]);
    expect(await user.json(...deployment())).toMatchObject({ changes: [], machine: { id: machine.id } });
    said.push((await user.bpr('service', 'logs', '--service-id', id())).stdout);
    expect([...user.files()].filter(([, text]) => text.includes(key)).map(([file]) => file)).toEqual([]);
    expect(said.filter((text) => text.includes(key))).toEqual([]);

    // Its port is somebody else's when it is started again.
    const { orchestrator } = new ServiceRecords(user.records).list(id())[0] ?? {};
    process.kill(Number(machine.id), 'SIGKILL');
    await expect.poll(() => orchestratorsOf(user)).toEqual([]);
    const squatter = createServer((_, response) => response.end());
    // The kernel takes the port from a killed process a moment after it is gone.
    await expect.poll(() => listens(squatter, orchestrator?.healthPort ?? 0)).toBe(true);
    expect((await user.bpr('service', 'status', '--service-id', id())).code).toBe(1);
    const again = (await user.json(...deployment())) as { machine: { status: string; healthUrl: string } };
    squatter.close();
    expect(again.machine.status).toBe('running');
    expect(again.machine.healthUrl).not.toBe(`http://127.0.0.1:${orchestrator?.healthPort}`);
    expect((await user.bpr('service', 'remove', '--service-id', id())).code).toBe(0);
    expect(orchestratorsOf(user)).toEqual([]);
    expect((await user.json('service', 'list'))['services']).toEqual([]);
  });
});
