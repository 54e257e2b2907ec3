/** Functions that attack what they run in, while a neighbour is called all the time. */

import { setTimeout as sleep } from 'node:timers/promises';
import type { Api, GatewayProcess } from './containers-gateway.ts';
import { processesOf } from './containers-gateway.ts';
import { ATTACKS, echo } from './containers-handlers.ts';
import type { Attack } from './containers-handlers.ts';
import { Load, Watch, until } from './containers-load.ts';
import type { Check } from './containers-load.ts';

/** What the log and the answers of hostile functions may take of the gateway: the heap that it was given, and buffers beside it. */
const GROWTH_MB_MAX = 256;
/** The init of a function may take 10 s. */
const TOLD_MS_MAX = 15_000;
/** Limits of processes per instance, with some for the neighbour and for what makes instances. */
const PROCESSES_MAX = 400;
const NEIGHBOUR = 'neighbour';

function neighbourLoad(gateway: GatewayProcess): Load {
  return new Load(gateway, {
    clients: 2,
    name: () => NEIGHBOUR,
    pauseMs: 5,
    check: ({ status, body }) => (status === 200 ? undefined : `${status} ${body.slice(0, 200)}`),
  });
}

/** One attack by one API: how it was told. */
async function attack(gateway: GatewayProcess, { name, code, errorType, says, settings }: Attack, api: Api): Promise<Check> {
  const startedMs = performance.now();
  const { status, failure, body } = await gateway.call(name, {}, api);
  const tookMs = performance.now() - startedMs;
  const expected = api === 'v1' ? code : errorType;
  // Our own API says it in words of its own.
  const isSaid =
    says === undefined || body.toLowerCase().includes(says.toLowerCase()) || (api === 'v1' && says === 'abrt' && body.includes('SIGABRT'));
  const isInTime = tookMs <= Math.max(TOLD_MS_MAX, (settings.timeout_ms ?? 0) + 5_000);
  const figure = `${status} ${failure ?? 'answered'} after ${(tookMs / 1_000).toFixed(1)} s, gateway ${gateway.residentMb.toFixed(0)} MB`;
  return [
    `${name} by ${api}`,
    failure === expected && isSaid && isInTime,
    failure === expected && isSaid ? figure : `${figure}, expected ${expected}: ${body.slice(0, 300)}`,
  ];
}

export async function attacksRound(gateway: GatewayProcess, folder: string, only = ''): Promise<Check[]> {
  const attacks = ATTACKS.filter(({ name }) => name.includes(only));
  await gateway.deploy(NEIGHBOUR, echo(1), { memory_mb: 256, timeout_ms: 30_000 });
  for (const { name, source, settings } of attacks) await gateway.deploy(name, source, settings);
  const alone = neighbourLoad(gateway);
  await sleep(3_000);
  await alone.end();
  const before = gateway.residentMb;
  const watch = new Watch(async () => ({ processes: processesOf(folder, [gateway.pid]).length, residentMb: gateway.residentMb }), 200);
  const neighbour = neighbourLoad(gateway);
  const checks: Check[] = [];
  for (const each of attacks) for (const api of ['v1', 'lambda'] as const) checks.push(await attack(gateway, each, api));
  await neighbour.end();
  const { processes = 0, residentMb = 0 } = await watch.end();
  for (const name of [NEIGHBOUR, ...attacks.map((each) => each.name)]) await gateway.remove(name);
  const goneMs = await until(async () => (await gateway.instances()).length === 0);
  console.log(
    `attacks: the neighbour's p99 ${neighbour.p99.toFixed(1)} ms over ${neighbour.answered} calls, alone ${alone.p99.toFixed(1)} ms over ${alone.answered}`,
  );
  return [
    ...checks,
    [
      'attacks: the neighbour never fails',
      neighbour.wrong.length + neighbour.lostCount === 0 && neighbour.answered > 100,
      neighbour.wrong[0] ?? `${neighbour.answered} calls`,
    ],
    ['attacks: processes stay bounded', processes <= PROCESSES_MAX, `${processes} at most`],
    [
      'attacks: the gateway stays small',
      residentMb - before <= GROWTH_MB_MAX,
      `${before.toFixed(0)} MB before, at most ${residentMb.toFixed(0)} MB`,
    ],
    ['attacks: nothing stays', goneMs !== undefined, goneMs === undefined ? 'instances are left' : `after ${goneMs.toFixed(0)} ms`],
  ];
}
