import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { systemClock } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import type { DeployReport, FaasDeployer, FunctionState } from '../executor/deployer.ts';
import type { MachineHost, ProgramSpec } from '../executor/machine.ts';
import { ServiceRecords } from './record.ts';
import type { ServiceRecord } from './record.ts';
import { ServiceOperator } from './service.ts';
import type { ServiceParts, ServiceTools } from './service-run.ts';
import type { ServicePlan } from './service-plan.ts';

const CONTRACT = `0x${'ab'.repeat(20)}`;
const unused = (): never => {
  throw new Error('unused');
};

/** A platform and a host in memory, that tell in which order they were asked. */
class World {
  readonly place: string;
  readonly functions = new Map<string, FunctionState>();
  readonly programs = new Map<string, ProgramSpec>();
  readonly log: string[] = [];
  readonly foreign = new Set<string>();
  failing = new Set<string>();

  constructor(place = '') {
    this.place = place;
  }

  deployer(use: string): FaasDeployer {
    const report = (state: FunctionState | undefined, action: 'create' | 'delete' | undefined, name: string): DeployReport => ({
      ...(state && { state }),
      changes: action ? [{ action, resource: 'function', id: name }] : [],
      warnings: [],
    });
    return {
      name: use,
      deploy: async (name, { sha256 }, config, { dryRun = false } = {}) => {
        if (this.failing.has(name)) throw new RunnerError('PLATFORM_UNREACHABLE', `${use} does not answer`);
        const known = this.functions.get(name);
        if (known?.sha256 === sha256) return report(known, undefined, name);
        if (dryRun) return report(known, 'create', name);
        this.log.push(`${use} deploys ${name}`);
        const state: FunctionState = {
          name,
          id: `${use}:${this.place}${name}`,
          status: 'active',
          sha256,
          config,
          executor: { use, options: { name } },
          resources: [],
        };
        this.functions.set(name, state);
        return report(state, 'create', name);
      },
      describe: async (name) => this.functions.get(name),
      remove: async (name, { dryRun = false } = {}) => {
        if (this.failing.has(name)) throw new RunnerError('PLATFORM_UNREACHABLE', `${use} does not answer`);
        if (this.foreign.has(name)) throw new RunnerError('RESOURCE_FOREIGN', `${name} is not ours`);
        if (!this.functions.has(name)) return report(undefined, undefined, name);
        if (!dryRun) this.log.push(`${use} removes ${name}`);
        if (!dryRun) this.functions.delete(name);
        return report(undefined, 'delete', name);
      },
      violations: unused,
      updateCode: unused,
      updateConfiguration: unused,
      list: unused,
      invoke: unused,
      logs: unused,
      versions: unused,
      rollback: unused,
    };
  }

  host(use: string): MachineHost {
    return {
      name: use,
      dataFolder: () => '/data',
      run: async (spec, { dryRun = false } = {}) => {
        const known = this.programs.get(spec.name);
        const isSame = JSON.stringify(known) === JSON.stringify(spec);
        if (!isSame && !dryRun) this.log.push(`${use} runs ${spec.name}`);
        if (!dryRun) this.programs.set(spec.name, spec);
        const changes = isSame ? [] : [{ action: known ? 'update' : 'create', resource: 'process', id: spec.name } as const];
        return { machine: { name: spec.name, id: `${use}-1`, status: 'running' }, changes, warnings: [] };
      },
      describe: async (name) => (this.programs.has(name) ? { name, id: `${use}-1`, status: 'running' } : undefined),
      terminate: async (name, { dryRun = false } = {}) => {
        const isThere = this.programs.has(name);
        if (isThere && !dryRun) this.log.push(`${use} ends ${name}`);
        if (!dryRun) this.programs.delete(name);
        return { changes: isThere ? [{ action: 'delete', resource: 'process', id: name }] : [], warnings: [] };
      },
      list: unused,
      logs: unused,
    };
  }
}

let folder: string;
let world: World;
let records: ServiceRecords;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'service-'));
  world = new World();
  records = new ServiceRecords(folder);
});
afterEach(() => rmSync(folder, { recursive: true }));

const AWS = { use: 'aws-lambda', options: { region: 'us-east-1' } };
const PLAN: ServicePlan = {
  serviceId: '7',
  blueprintId: '3',
  blueprintName: 'squares',
  chainId: 31_337,
  contract: CONTRACT,
  strategy: 'hybrid',
  reasons: ['job 2 keeps state'],
  jobs: [
    { id: '0', name: 'a', place: 'function', reason: 'fits', deployer: AWS, config: { memoryMb: 512 } },
    { id: '1', name: 'b', place: 'function', reason: 'fits', deployer: AWS },
    { id: '2', name: 'c', place: 'runner', reason: 'keeps state' },
  ],
  fallback: true,
  warnings: [],
};

function operator(change: Partial<ServiceTools> = {}): ServiceOperator {
  const plugins = { deployer: async (use: string) => world.deployer(use), host: async (use: string) => world.host(use) };
  return new ServiceOperator({ plugins, records, clock: systemClock, ...change });
}

const PARTS: ServiceParts = {
  functionPackage: async () => ({ zip: Buffer.from('zip'), sha256: 'aa' }),
  program: async (given) => ({
    files: { 'deployment.json': Buffer.from(JSON.stringify(given)) },
    args: ['deployment.json'],
    environment: {},
    healthPort: given.metricsPort,
  }),
  host: { use: 'process', options: {} },
  manifest: { version: 1, serviceIds: ['7'], rpcUrls: ['http://rpc'], contract: CONTRACT, metricsPort: 9_100 },
  entry: '/jobs.ts',
};

function manifest(): { jobs: Record<string, { executor?: { options: { name: string } }; fallback?: string }> } {
  const program = world.programs.get('blueprint-7-orchestrator');
  return JSON.parse(Buffer.from(program?.files['deployment.json'] ?? '').toString());
}

function read(): ServiceRecord {
  const record = records.read(PLAN);
  if (!record) throw new Error('there is no record');
  return record;
}

describe('a deployment', () => {
  test('puts functions on their platform, then starts the orchestrator with what each job runs on', async () => {
    const { changes, machine } = await operator().deploy(PLAN, PARTS);
    expect(changes.map(({ action, id }) => `${action} ${id}`)).toEqual([
      'create blueprint-7-job-0',
      'create blueprint-7-job-1',
      'create blueprint-7-orchestrator',
    ]);
    expect(machine?.status).toBe('running');
    expect(world.log.at(-1)).toBe('process runs blueprint-7-orchestrator');
    expect(manifest().jobs).toEqual({
      0: { name: 'a', executor: { use: 'aws-lambda', options: { name: 'blueprint-7-job-0' } }, fallback: 'in-process' },
      1: { name: 'b', executor: { use: 'aws-lambda', options: { name: 'blueprint-7-job-1' } }, fallback: 'in-process' },
      2: { name: 'c' },
    });
    expect(read()).toMatchObject({
      status: 'deployed',
      orchestrator: { id: 'process-1' },
      jobs: { 0: { function: { id: 'aws-lambda:blueprint-7-job-0' } } },
    });
  });

  test.each([true, false])('options that a plugin refuses are not recorded, with a fallback (%s)', async (fallback) => {
    const token = 'a-literal-token-9c2';
    const refuse = async (use: string, options: Readonly<Record<string, unknown>> = {}) => {
      if (options['token'] !== undefined) throw new RunnerError('CONFIG_INVALID', 'a secret is given as text');
      return world.deployer(use);
    };
    const plugins = { deployer: refuse, host: async (use: string) => world.host(use) };
    const jobs = PLAN.jobs.map((job) => (job.deployer ? { ...job, deployer: { use: 'aws-lambda', options: { token } } } : job));
    const deployed = operator({ plugins }).deploy({ ...PLAN, jobs, fallback }, PARTS);
    if (fallback) expect((await deployed).warnings).toHaveLength(2);
    else await expect(deployed).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    expect(JSON.stringify(read())).not.toContain(token);
    expect(read().status).toBe(fallback ? 'deployed' : 'failed');
  });

  test('changes nothing when it is run again', async () => {
    await operator().deploy(PLAN, PARTS);
    world.log.length = 0;
    expect((await operator().deploy(PLAN, PARTS)).changes).toEqual([]);
    expect(world.log).toEqual([]);
  });

  test('writes nothing in a dry run, and says what it would do', async () => {
    const { changes } = await operator().deploy(PLAN, PARTS, { dryRun: true });
    expect(changes).toHaveLength(3);
    expect([world.log, records.list()]).toEqual([[], []]);
  });

  test('goes on after a death at any write of its record, without a function or a program too many', async () => {
    class Mortal extends ServiceRecords {
      left = 0;
      override write(record: ServiceRecord): void {
        this.left -= 1;
        if (this.left < 0) throw new Error('the process died');
        super.write(record);
      }
    }
    for (let writes = 0; ; writes += 1) {
      world = new World();
      const mortal = new Mortal(mkdtempSync(join(folder, 'run-')));
      mortal.left = writes;
      const died = await operator({ records: mortal })
        .deploy(PLAN, PARTS)
        .then(
          () => false,
          () => true,
        );
      mortal.left = Number.MAX_SAFE_INTEGER;
      await operator({ records: mortal }).deploy(PLAN, PARTS);
      expect(mortal.read(PLAN)).toMatchObject({ status: 'deployed', leftovers: [] });
      expect([...world.functions.keys()].toSorted()).toEqual(['blueprint-7-job-0', 'blueprint-7-job-1']);
      expect(world.log.filter((line) => line.includes('deploys blueprint-7-job-0'))).toHaveLength(1);
      expect([...world.programs.keys()]).toEqual(['blueprint-7-orchestrator']);
      if (died) continue;
      expect(writes).toBeGreaterThan(8);
      break;
    }
  });

  test('what the host refuses is told before anything is deployed', async () => {
    const refusing: MachineHost = {
      ...world.host('process'),
      run: () => Promise.reject(new RunnerError('CONFIG_INVALID', 'no such secret')),
    };
    const plugins = { deployer: async (use: string) => world.deployer(use), host: async () => refusing };
    await expect(operator({ plugins }).deploy(PLAN, PARTS)).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    expect(world.log).toEqual([]);
  });

  test('a job whose platform fails runs in the orchestrator, and moves when the platform is back', async () => {
    world.failing.add('blueprint-7-job-1');
    const { warnings } = await operator().deploy(PLAN, PARTS);
    expect(warnings).toEqual([
      expect.stringContaining('job 1 runs in the orchestrator, because its platform failed: PLATFORM_UNREACHABLE'),
    ]);
    expect(manifest().jobs['1']).toEqual({ name: 'b' });
    expect(read().jobs['1']?.fellBack?.code).toBe('PLATFORM_UNREACHABLE');
    world.failing.clear();
    await operator().deploy(PLAN, PARTS);
    expect(manifest().jobs['1']?.executor?.options.name).toBe('blueprint-7-job-1');
    expect(read().jobs['1']?.fellBack).toBeUndefined();
  });

  test('without fallback the error surfaces, the record says so, and no orchestrator is started', async () => {
    world.failing.add('blueprint-7-job-1');
    await expect(operator().deploy({ ...PLAN, fallback: false }, PARTS)).rejects.toMatchObject({ code: 'PLATFORM_UNREACHABLE' });
    expect(read()).toMatchObject({ status: 'failed', error: { code: 'PLATFORM_UNREACHABLE' } });
    expect(world.programs.size).toBe(0);
    world.failing.clear();
    await operator().deploy({ ...PLAN, fallback: false }, PARTS);
    expect(read()).toMatchObject({ status: 'deployed' });
    expect(read().error).toBeUndefined();
    expect(manifest().jobs['0']?.fallback).toBeUndefined();
  });

  test('what is no longer wanted goes after the orchestrator knows of it', async () => {
    await operator().deploy(PLAN, PARTS);
    world.log.length = 0;
    const moved = { use: 'gcp', options: {} };
    const [first, second, third] = PLAN.jobs;
    if (!first || !second || !third) throw new Error('three jobs');
    await operator().deploy(
      {
        ...PLAN,
        jobs: [{ id: '0', name: 'a', place: 'runner', reason: 'asked' }, { ...second, deployer: moved }, third],
      },
      PARTS,
    );
    expect(world.log).toEqual([
      'process runs blueprint-7-orchestrator',
      'aws-lambda removes blueprint-7-job-0',
      'aws-lambda removes blueprint-7-job-1',
    ]);
    expect(read().leftovers).toEqual([]);
  });

  test('the function of a job that the blueprint has no more is removed', async () => {
    await operator().deploy(PLAN, PARTS);
    world.log.length = 0;
    await operator().deploy({ ...PLAN, jobs: PLAN.jobs.filter(({ id }) => id !== '1') }, PARTS);
    expect(world.log).toEqual(['process runs blueprint-7-orchestrator', 'aws-lambda removes blueprint-7-job-1']);
    expect([Object.keys(read().jobs), read().leftovers, [...world.functions.keys()]]).toEqual([['0', '2'], [], ['blueprint-7-job-0']]);
  });

  test.each([true, false])('what was begun with other options, and is the function of now, stays (fallback: %s)', async (fallback) => {
    world.failing.add('blueprint-7-job-1');
    await operator()
      .deploy({ ...PLAN, fallback }, PARTS)
      .catch(() => undefined);
    world.failing.clear();
    const corrected = { ...AWS, options: { ...AWS.options, bucket: 'packages' } };
    const jobs = PLAN.jobs.map((job) => (job.deployer ? { ...job, deployer: corrected } : job));
    await operator().deploy({ ...PLAN, jobs, fallback }, PARTS);
    expect([...world.functions.keys()].toSorted()).toEqual(['blueprint-7-job-0', 'blueprint-7-job-1']);
    expect([read().status, read().leftovers]).toEqual(['deployed', []]);
  });

  test('what was begun elsewhere goes, also when its job runs in the orchestrator now', async () => {
    const elsewhere = new World('eu-central-1:');
    const plugins = {
      deployer: async (use: string, options?: unknown) =>
        (JSON.stringify(options) === JSON.stringify(AWS.options) ? world : elsewhere).deployer(use),
      host: async (use: string) => world.host(use),
    };
    await operator({ plugins }).deploy(PLAN, PARTS);
    // Its answer was lost: the record does not know that it is there.
    const { id: _, sha256: __, executor: ___, ...begun } = read().jobs['1']?.function ?? { deployer: AWS, name: '' };
    records.write({ ...read(), jobs: { ...read().jobs, 1: { name: 'b', place: 'function', reason: 'fits', function: begun } } });
    elsewhere.failing.add('blueprint-7-job-1');
    const moved = { ...AWS, options: { region: 'eu-central-1' } };
    const jobs = PLAN.jobs.map((job) => (job.deployer ? { ...job, deployer: moved } : job));
    await operator({ plugins }).deploy({ ...PLAN, jobs }, PARTS);
    expect([...world.functions.keys()]).toEqual([]);
    expect([...elsewhere.functions.keys()]).toEqual(['blueprint-7-job-0']);
  });

  test('an orchestrator that moves to another host ends before the new one starts', async () => {
    await operator().deploy(PLAN, PARTS);
    world.log.length = 0;
    await operator().deploy(PLAN, { ...PARTS, host: { use: 'container', options: {} } });
    expect(world.log).toEqual(['process ends blueprint-7-orchestrator', 'container runs blueprint-7-orchestrator']);
  });

  test('only one process deploys a service at a time; the lock of a dead one counts for nothing', async () => {
    const unlock = records.lock(PLAN);
    await expect(operator().deploy(PLAN, PARTS)).rejects.toMatchObject({ code: 'STATE_INVALID' });
    unlock();
    await expect(operator().deploy(PLAN, PARTS)).resolves.toMatchObject({ record: { status: 'deployed' } });
  });
});

describe('a deployed service', () => {
  test('says what is not as it was deployed', async () => {
    await operator().deploy(PLAN, PARTS);
    expect((await operator().status(read())).drift).toEqual([]);
    world.functions.delete('blueprint-7-job-0');
    const other = world.functions.get('blueprint-7-job-1');
    if (other) world.functions.set('blueprint-7-job-1', { ...other, sha256: 'bb' });
    world.programs.clear();
    expect((await operator().status(read())).drift).toEqual([
      'function blueprint-7-job-0 of job a is gone',
      'function blueprint-7-job-1 of job b runs another package than was deployed',
      'the orchestrator blueprint-7-orchestrator is gone',
    ]);
  });

  test('ends from its orchestrator to its record, and a second end finds nothing', async () => {
    await operator().deploy(PLAN, PARTS);
    world.log.length = 0;
    const record = read();
    const { changes } = await operator().remove(record);
    expect(changes).toHaveLength(3);
    expect(world.log[0]).toBe('process ends blueprint-7-orchestrator');
    expect([records.read(PLAN), world.functions.size]).toEqual([undefined, 0]);
    expect(await operator().remove(record)).toEqual({ changes: [], left: [] });
  });

  test('ends when what it is made of belongs to somebody else now: that stays', async () => {
    await operator().deploy(PLAN, PARTS);
    world.foreign.add('blueprint-7-job-0');
    const { changes, left } = await operator().remove(read());
    expect([changes.map(({ id }) => id), left]).toEqual([['blueprint-7-orchestrator', 'blueprint-7-job-1'], []]);
    expect([...world.functions.keys()]).toEqual(['blueprint-7-job-0']);
    expect(records.read(PLAN)).toBeUndefined();
  });

  test('keeps its record while a platform is down, and is forgotten when asked, with what may still be there', async () => {
    await operator().deploy(PLAN, PARTS);
    world.failing.add('blueprint-7-job-0');
    await expect(operator().remove(read())).rejects.toMatchObject({ code: 'PLATFORM_UNREACHABLE' });
    // The others are gone, and the record says of what it is.
    expect([...world.functions.keys()]).toEqual(['blueprint-7-job-0']);
    expect(read().status).toBe('removing');
    const left = [{ what: 'function blueprint-7-job-0', place: AWS, problem: 'PLATFORM_UNREACHABLE: aws-lambda does not answer' }];
    expect(await operator().remove(read(), { forget: true, dryRun: true })).toMatchObject({ left });
    expect(read().status).toBe('removing');
    expect(await operator().remove(read(), { forget: true })).toMatchObject({ changes: [], left });
    expect(records.read(PLAN)).toBeUndefined();
  });

  test('a host that does not answer keeps the functions: the orchestrator may call them', async () => {
    await operator().deploy(PLAN, PARTS);
    const down = { terminate: () => Promise.reject(new RunnerError('PLATFORM_UNREACHABLE', 'the host does not answer')) };
    const plugins = {
      deployer: async (use: string) => world.deployer(use),
      host: async (use: string) => ({ ...world.host(use), ...down }),
    };
    await expect(operator({ plugins }).remove(read())).rejects.toMatchObject({ code: 'PLATFORM_UNREACHABLE' });
    expect(world.functions.size).toBe(2);
    const { changes, left } = await operator({ plugins }).remove(read(), { forget: true });
    expect([changes.length, left.map(({ what }) => what)]).toEqual([2, ['orchestrator blueprint-7-orchestrator']]);
  });

  test('tells the rest when a platform and the host cannot be asked', async () => {
    await operator().deploy(PLAN, PARTS);
    const silent = new RunnerError('PLATFORM_UNREACHABLE', 'nobody answers');
    const deployer = (use: string): FaasDeployer => {
      const known = world.deployer(use);
      return { ...known, describe: async (name) => (name.endsWith('0') ? Promise.reject(silent) : known.describe(name)) };
    };
    const plugins = { deployer: async (use: string) => deployer(use), host: () => Promise.reject(silent) };
    const { drift, functions, orchestrator } = await operator({ plugins }).status(read());
    expect(drift).toEqual([
      'function blueprint-7-job-0 of job a cannot be asked: PLATFORM_UNREACHABLE: nobody answers',
      'the orchestrator blueprint-7-orchestrator cannot be asked: PLATFORM_UNREACHABLE: nobody answers',
    ]);
    expect([functions['1']?.state?.status, orchestrator]).toEqual(['active', undefined]);
  });

  test('its record is readable by its owner alone', async () => {
    await operator().deploy(PLAN, PARTS);
    const [name] = records.list('7').map(({ serviceId }) => serviceId);
    expect(name).toBe('7');
    expect(statSync(folder).mode & 0o077).toBe(0);
  });
});
