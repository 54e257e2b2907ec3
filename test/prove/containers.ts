/**
 * Proves on a real engine that a gateway, a process of its own, holds what it promises: many first calls at once, its death under load,
 * new code under load, and functions that attack it.
 *
 * `npm run prove:containers -- [--backend docker|runc|process] [--seed n] [--round first-calls|redeploy|attacks|kill] [--attack part of a name]`; exit status 1 when
 * something does not hold.
 */

import { chmod, mkdtemp, readFile, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import Docker from 'dockerode';
import { Random } from '../../src/testing/testing.ts';
import { attacksRound } from './containers-attacks.ts';
import { GatewayProcess, familyOf, processesOf, quantile } from './containers-gateway.ts';
import type { CallResult } from './containers-gateway.ts';
import { echo } from './containers-handlers.ts';
import { Load, Watch, until } from './containers-load.ts';
import type { Check } from './containers-load.ts';

const { values } = parseArgs({
  options: {
    backend: { type: 'string', default: 'docker' },
    seed: { type: 'string', default: '1' },
    round: { type: 'string' },
    attack: { type: 'string' },
    kills: { type: 'string', default: '5' },
    updates: { type: 'string', default: '50' },
  },
});
const { backend } = values;
const seed = Number(values.seed);
const KILLS = Number(values.kills);
const UPDATES = Number(values.updates);
const random = new Random(seed);

const FIRST_CALLS = 200;
const FUNCTIONS = 20;
/** Those of the gateway. */
const INSTANCES_PER_FUNCTION_MAX = 100;
const STARTS_MAX = 8;
const LABEL = 'dev.blueprint-runner.owner';
const docker = new Docker();

/** Containers, running or not, of the gateway with this folder. */
async function containersOf(folder: string): Promise<string[]> {
  if (backend !== 'docker') return [];
  const owner = await readFile(join(folder, 'gateway', 'docker', 'owner'), 'utf8');
  const found = await docker.listContainers({ all: true, filters: { label: [`${LABEL}=${owner}`] } });
  return found.map(({ Id }) => Id);
}

/** Sockets of instances. */
async function socketsOf(folder: string): Promise<number> {
  return (await readdir(join(folder, 'gateway', backend))).filter((name) => name.startsWith('i-')).length;
}

const msOf = (times: readonly number[]): string =>
  `p50 ${quantile(times, 0.5).toFixed(0)}, p99 ${quantile(times, 0.99).toFixed(0)}, max ${Math.max(...times).toFixed(0)} ms`;

function answers(name: string, given: unknown): (result: CallResult) => boolean {
  return ({ status, body }) => {
    if (status !== 200) return false;
    const answer = JSON.parse(body) as { name: string; given: unknown };
    return answer.name === name && JSON.stringify(answer.given) === JSON.stringify(given);
  };
}

/** 200 calls at once, of so many functions that nobody has called before. */
async function firstCalls(gateway: GatewayProcess, folder: string, functions: number): Promise<Check[]> {
  const names = Array.from({ length: functions }, (_, index) => `first-${functions}-${index}`);
  for (const name of names) await gateway.deploy(name, echo(1, 20), { memory_mb: 128, timeout_ms: 30_000 });
  const idleFiles = gateway.openFiles;
  const watch = new Watch(async () => {
    const [instances, containers] = await Promise.all([gateway.instances(), containersOf(folder)]);
    const byName = Object.groupBy(instances, (instance) => instance.function);
    return {
      instances: Math.max(0, ...Object.values(byName).map((these) => these?.length ?? 0)),
      all: instances.length,
      starting: instances.filter(({ state }) => state === 'starting').length,
      containers: containers.length,
    };
  });
  const times: number[] = [];
  const startedMs = performance.now();
  const results = await Promise.all(
    Array.from({ length: FIRST_CALLS }, async (_, call) => {
      const name = names[call % functions] ?? '';
      const result = await gateway.call(name, { call }).catch((error: unknown) => String(error));
      times.push(performance.now() - startedMs);
      return { call, name, result };
    }),
  );
  const peaks = await watch.end();
  const right = results.filter(({ call, name, result }) => typeof result === 'object' && answers(name, { call })(result)).length;
  const cold = results.filter(({ result }) => typeof result === 'object' && result.isCold).length;
  const wrong = results.find(({ call, name, result }) => typeof result === 'string' || !answers(name, { call })(result));
  const title = `${FIRST_CALLS} first calls of ${functions} function${functions === 1 ? '' : 's'}`;
  console.log(`${title}: ${msOf(times)}; ${cold} cold, ${FIRST_CALLS - cold} warm; at most ${JSON.stringify(peaks)}`);
  for (const name of names) await gateway.remove(name);
  const goneMs = await until(
    async () => (await containersOf(folder)).length + (await socketsOf(folder)) + (await gateway.instances()).length === 0,
  );
  const filesMs = await until(() => gateway.openFiles <= idleFiles + FIRST_CALLS + 10);
  return [
    [`${title}: all answered`, right === FIRST_CALLS, `${right}${wrong ? ` ${JSON.stringify(wrong.result).slice(0, 200)}` : ''}`],
    [
      `${title}: instances within the limit`,
      (peaks['instances'] ?? 0) <= INSTANCES_PER_FUNCTION_MAX && cold <= (peaks['all'] ?? 0),
      `${peaks['instances']} of a function`,
    ],
    [`${title}: starts bounded`, (peaks['starting'] ?? 0) <= STARTS_MAX, `${peaks['starting']} of ${STARTS_MAX}`],
    [
      `${title}: nothing stays`,
      goneMs !== undefined && filesMs !== undefined,
      goneMs === undefined ? 'something is left' : `after ${goneMs.toFixed(0)} ms`,
    ],
  ];
}

async function firstCallsRound(gateway: GatewayProcess, folder: string): Promise<Check[]> {
  return [...(await firstCalls(gateway, folder, 1)), ...(await firstCalls(gateway, folder, FUNCTIONS))];
}

interface Kills {
  lost: Record<string, number>;
  met: number[];
  orphans: number;
  neighbours: number;
  forgotten: number;
  wrong: string[];
  restartMs: number[];
}

/** Kills the gateway at any moment, cold starts included, and starts it again. Resolves with the one that runs then. */
async function killRound(first: GatewayProcess, folder: string): Promise<{ checks: Check[]; gateway: GatewayProcess }> {
  const otherFolder = await shortFolder();
  const other = await GatewayProcess.start({ folder: otherFolder, backend });
  await other.deploy('other', echo(1), { memory_mb: 128 });
  await other.call('other', 0);
  const otherInstances = (await other.instances()).map(({ id }) => id).join();
  const names = Array.from({ length: 4 }, (_, index) => `kept-${index}`);
  for (const name of names) await first.deploy(name, echo(1, 5), { memory_mb: 128, timeout_ms: 30_000 });
  const seen: Kills = { lost: {}, met: [], orphans: 0, neighbours: 0, forgotten: 0, wrong: [], restartMs: [] };
  let gateway = first;
  for (let kill = 0; kill < KILLS; kill += 1) {
    const load = new Load(gateway, {
      clients: 32,
      name: (client) => names[client % names.length] ?? '',
      check: (result, _) => (result.status === 200 ? undefined : `${result.status} ${result.body.slice(0, 200)}`),
    });
    // The first ones meet the first starts.
    await sleep(kill % 2 === 0 ? random.int(200, 2_000) : random.int(1_000, 5_000));
    const before = await containersOf(folder);
    await gateway.end('SIGKILL');
    await load.end();
    seen.met.push(processesOf(folder, []).length);
    for (const [code, count] of Object.entries(load.lost)) seen.lost[code] = (seen.lost[code] ?? 0) + count;
    seen.wrong.push(...load.wrong);
    const startedMs = performance.now();
    gateway = await GatewayProcess.start({ folder, backend });
    seen.restartMs.push(performance.now() - startedMs);
    const known = await gateway.functions();
    seen.forgotten += names.filter((name) => !known.includes(name)).length;
    const after = await containersOf(folder);
    seen.orphans += before.filter((id) => after.includes(id)).length;
    for (const name of names) {
      const result = await gateway.call(name, { kill });
      if (!answers(name, { kill })(result)) seen.wrong.push(`after the restart: ${result.status} ${result.body.slice(0, 200)}`);
    }
    if ((await other.call('other', kill)).isCold || (await other.instances()).map(({ id }) => id).join() !== otherInstances)
      seen.neighbours += 1;
  }
  for (const name of names) await gateway.remove(name);
  // What an engine was asked for before the kill may come up after the restart. Processes that wait for the next function are the gateway's own.
  const found = async (): Promise<unknown[]> => [
    ...(await containersOf(folder)),
    ...(await gateway.instances()),
    ...processesOf(folder, familyOf(gateway.pid)),
  ];
  const cleanMs = await until(async () => (await found()).length === 0);
  const left = await found();
  await other.end('SIGTERM');
  await rm(otherFolder, { recursive: true, force: true });
  console.log(
    `${KILLS} kills: processes left behind ${seen.met.join(', ')}; restarted in ${seen.restartMs.map((ms) => ms.toFixed(0)).join(', ')} ms`,
  );
  const clear = Object.keys(seen.lost).every((code) =>
    ['UND_ERR_SOCKET', 'ECONNRESET', 'ECONNREFUSED', 'EPIPE', 'UND_ERR_DESTROYED'].includes(code),
  );
  const checks: Check[] = [
    [`${KILLS} kills: functions are there again`, seen.forgotten === 0, `${seen.forgotten} forgotten`],
    [
      `${KILLS} kills: nothing of the dead one is left`,
      seen.orphans === 0 && cleanMs !== undefined,
      `${seen.orphans} containers; in the end ${left.length} things`,
    ],
    [`${KILLS} kills: another owner's untouched`, seen.neighbours === 0, otherInstances],
    [`${KILLS} kills: calls that ran lost their connection`, clear && Object.keys(seen.lost).length > 0, JSON.stringify(seen.lost)],
    [`${KILLS} kills: calls after the restart work`, seen.wrong.length === 0, seen.wrong[0] ?? 'all'],
  ];
  return { checks, gateway };
}

/** New code while clients call. */
async function redeployRound(gateway: GatewayProcess, folder: string): Promise<Check[]> {
  const name = 'changing';
  const settings = { memory_mb: 128, timeout_ms: 30_000 };
  let acknowledged = 0;
  let newest = 0;
  let old = 0;
  await gateway.deploy(name, echo(0), settings);
  await gateway.call(name, 0);
  const load = new Load(gateway, {
    clients: 16,
    name: () => name,
    begin: () => acknowledged,
    api: (call) => (call % 2 === 0 ? 'v1' : 'lambda'),
    check: ({ status, body, failure }, begun) => {
      if (failure !== undefined) return `${status} ${failure} ${body.slice(0, 200)}`;
      const { version } = JSON.parse(body) as { version: number };
      newest = Math.max(newest, version);
      if (version < begun) old += 1;
      return undefined;
    },
  });
  const startedMs = performance.now();
  for (let version = 1; version <= UPDATES; version += 1) {
    await gateway.deploy(name, echo(version), settings);
    acknowledged = version;
    // Half of them come before the one before has served anybody.
    if (version % 2 === 0) await until(() => newest >= version);
    await sleep(random.int(0, 30));
  }
  const seconds = (performance.now() - startedMs) / 1_000;
  const reached = await until(() => newest === UPDATES);
  await load.end();
  console.log(`${UPDATES} updates in ${seconds.toFixed(1)} s, ${load.answered} calls: ${msOf(load.times)}`);
  await gateway.remove(name);
  const goneMs = await until(async () => (await containersOf(folder)).length + (await socketsOf(folder)) === 0);
  return [
    [`${UPDATES} updates: no answer of old code`, old === 0 && reached !== undefined, `${old} of ${load.answered}`],
    [
      `${UPDATES} updates: no failure`,
      load.wrong.length + load.lostCount === 0,
      load.wrong[0] ?? (load.lostCount === 0 ? '0' : JSON.stringify(load.lost)),
    ],
    [
      `${UPDATES} updates: nothing of old code stays`,
      goneMs !== undefined,
      goneMs === undefined ? 'something is left' : `after ${goneMs.toFixed(0)} ms`,
    ],
  ];
}

/** Its path is part of the address of sockets. */
async function shortFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'pc-'));
  await chmod(folder, 0o711);
  return folder;
}

async function main(): Promise<readonly Check[]> {
  const folder = await shortFolder();
  console.log(`backend ${backend}, seed ${seed}, ${folder}`);
  let gateway = await GatewayProcess.start({ folder, backend });
  const checks: Check[] = [];
  const rounds = {
    'first-calls': async () => checks.push(...(await firstCallsRound(gateway, folder))),
    redeploy: async () => checks.push(...(await redeployRound(gateway, folder))),
    attacks: async () => checks.push(...(await attacksRound(gateway, folder, values.attack))),
    kill: async () => {
      const result = await killRound(gateway, folder);
      gateway = result.gateway;
      checks.push(...result.checks);
    },
  };
  try {
    for (const [name, round] of Object.entries(rounds)) if (values.round === undefined || values.round === name) await round();
  } finally {
    await gateway.end('SIGTERM');
  }
  const left = [...(await containersOf(folder)), ...processesOf(folder, [])];
  checks.push(['after the end nothing is left', left.length === 0, `${left.length} containers and processes`]);
  if (checks.some(([, holds]) => !holds)) console.log(`the gateway said:\n${gateway.stderr.slice(-4_000)}`);
  await rm(folder, { recursive: true, force: true });
  return checks;
}

const checks = await main();
for (const [name, holds, figure] of checks) console.log(`${holds ? 'ok   ' : 'FAILS'} ${name.padEnd(60)} ${figure}`);
process.exitCode = checks.every(([, holds]) => holds) ? 0 : 1;
