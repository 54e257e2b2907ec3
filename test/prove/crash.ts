/**
 * Proves that a runner that is killed again and again, at any moment, loses no result, settles none twice, and never executes a call
 * whose result is in the ledger. Calls of three jobs: in the runner, in a handler process, on a FaaS platform.
 *
 * `npm run prove:crash -- [--seed n] [--jobs n] [--kills n]`; exit status 1 when something does not hold.
 */

import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { encodeAbiParameters } from 'viem/utils';
import { startHandler, startNode } from '../../examples/demo/processes.ts';
import type { NodeProcess } from '../../examples/demo/processes.ts';
import { HttpFaasDeployer } from '../../plugins/http/index.ts';
import { buildHandler } from '../../src/deploy/package.ts';
import type { BuiltHandler } from '../../src/deploy/package.ts';
import { isRunnerError } from '../../src/errors.ts';
import type { CallState } from '../../src/ledger/ledger.ts';
import { SqliteLedger } from '../../src/ledger/sqlite.ts';
import { Random, deployTangle, startFaasServer, startLocalChain } from '../../src/testing/testing.ts';
import type { LocalService, LocalTangle } from '../../src/testing/testing.ts';
import { GivenTransactions } from './given-transactions.ts';
import type { GivenReport, Hold } from './given-transactions.ts';

const { values } = parseArgs({
  options: { seed: { type: 'string', default: '1' }, jobs: { type: 'string', default: '500' }, kills: { type: 'string', default: '50' } },
});
const seed = Number(values.seed);
const JOBS = Number(values.jobs);
const KILLS = Number(values.kills);
const random = new Random(seed);
const BLOCK_MS = 250;
/** A life of the runner, counted from when it runs. */
const LIFE_MS_MAX = 900;
/** When a life ends: mostly at any time. */
const MOMENTS: readonly ('before' | 'any' | Hold)[] = ['before', 'late', 'unheard', 'any', 'any', 'any', 'any', 'any', 'any', 'any'];
/** After the last kill. */
const DEADLINE_MS = 120_000;

const path = (name: string): string => fileURLToPath(new URL(name, import.meta.url));
const encode = (value: bigint): `0x${string}` => encodeAbiParameters([{ type: 'uint64' }], [value]);
const inputOf = (index: number): bigint => BigInt(index + 1);

type Check = [name: string, holds: boolean, figure: string];

interface Line {
  readonly tangle: LocalTangle;
  readonly service: LocalService;
  readonly ledgerFile: string;
  /** Where the jobs write down that they ran. */
  readonly logFile: string;
  readonly given: GivenTransactions;
  readonly startRunner: () => NodeProcess;
}

interface Kills {
  /** Kills that met at least one call in this state. */
  readonly met: Partial<Record<CallState | 'before it ran' | Hold, number>>;
  readonly ids: readonly bigint[];
}

/** Submits the calls over all lives of the runner, and ends each life with SIGKILL. */
async function killAndSubmit(line: Line): Promise<Kills> {
  const ids: bigint[] = [];
  const met: Kills['met'] = {};
  for (let kill = 1; kill <= KILLS; kill += 1) {
    const runner = line.startRunner();
    const share = Math.floor((JOBS * kill) / KILLS) - ids.length;
    const lifeMs = random.int(0, LIFE_MS_MAX);
    const submitted = submit(line, { from: ids.length, count: share, pauseMs: random.int(0, lifeMs) });
    const release = await untilTheKill(line, runner, lifeMs, (moment) => (met[moment] = (met[moment] ?? 0) + 1));
    const ended = await runner.end('SIGKILL');
    release?.();
    if (ended !== 'SIGKILL') throw new Error(`the runner ended by itself with ${ended}\n${runner.stderr()}`);
    for (const state of statesOf(line.ledgerFile)) met[state] = (met[state] ?? 0) + 1;
    ids.push(...(await submitted));
    if (kill % 10 === 0)
      console.log(`${kill} kills, ${ids.length} calls submitted, ${(await line.tangle.results(line.service.serviceId)).length} results`);
  }
  return { met, ids };
}

/** Before the runner runs, at any time of its life, or while a transaction is between it and the node. */
async function untilTheKill(
  { given }: Line,
  runner: NodeProcess,
  lifeMs: number,
  note: (moment: 'before it ran' | Hold) => void,
): Promise<(() => void) | undefined> {
  const moment = random.pick(MOMENTS);
  if (moment === 'before') {
    await sleep(random.int(0, 300));
    note('before it ran');
    return undefined;
  }
  await runner.logged('the runner runs');
  if (moment === 'any') {
    await sleep(lifeMs);
    return undefined;
  }
  const { held, release } = given.holdNext(moment);
  // Without calls to answer nothing is sent.
  if (await Promise.race([held, sleep(LIFE_MS_MAX * 2)])) note(moment);
  return release;
}

/** In two parts: some calls wait for the runner, some come while it lives, or after. */
async function submit({ tangle, service }: Line, part: { from: number; count: number; pauseMs: number }): Promise<bigint[]> {
  const calls = Array.from({ length: part.count }, (_, position) => part.from + position).map((index) => ({
    jobIndex: index % 3,
    inputs: encode(inputOf(index)),
  }));
  const half = Math.floor(calls.length / 2);
  const ids = await tangle.submitMany(service.serviceId, calls.slice(0, half));
  await sleep(part.pauseMs);
  return [...ids, ...(await tangle.submitMany(service.serviceId, calls.slice(half)))];
}

function statesOf(path: string): CallState[] {
  let ledger: SqliteLedger;
  try {
    ledger = SqliteLedger.open({ path, readonly: true });
  } catch (error) {
    // The first life ended before it made the file.
    if (isRunnerError(error)) return [];
    throw error;
  }
  const { byState } = ledger.stats();
  void ledger.close();
  return (Object.keys(byState) as CallState[]).filter((state) => byState[state] > 0);
}

async function finish({ tangle, service, startRunner }: Line): Promise<void> {
  const runner = startRunner();
  const startedMs = performance.now();
  const settled = async (): Promise<number> => new Set((await tangle.results(service.serviceId)).map(({ callId }) => callId)).size;
  while ((await settled()) < JOBS) {
    if (performance.now() - startedMs > DEADLINE_MS) {
      console.log(`only ${await settled()} of ${JOBS} have a result ${DEADLINE_MS / 1000} s after the last start\n${runner.stderr()}`);
      break;
    }
    const ended = await Promise.race([sleep(BLOCK_MS), runner.exit]);
    if (ended !== undefined) throw new Error(`the runner ended by itself with ${ended}\n${runner.stderr()}`);
  }
  await runner.end('SIGTERM');
}

/** Executions that began after the ledger had the result, from what the jobs wrote down themselves. */
async function executions(logFile: string, ledgerFile: string): Promise<{ all: number; calls: number; late: number; unjournaled: number }> {
  const lines = (await readFile(logFile, 'utf8'))
    .trimEnd()
    .split('\n')
    .map((line) => line.split(' '));
  const ledger = SqliteLedger.open({ path: ledgerFile, readonly: true });
  const journaledAt = new Map<string, number>();
  for (const { seq, call } of ledger.find({ limit: JOBS * 2 })) {
    const executed = ledger.events(seq).filter(({ kind }) => kind === 'executed');
    const [first] = executed;
    if (first) journaledAt.set(String(BigInt(`0x${Buffer.from(call.body).toString('hex')}`)), first.at);
  }
  await ledger.close();
  const late = lines.filter(([input, at]) => Number(at) > (journaledAt.get(String(input)) ?? Number.POSITIVE_INFINITY));
  return { all: lines.length, calls: new Set(lines.map(([input]) => input)).size, late: late.length, unjournaled: JOBS - journaledAt.size };
}

/**
 * That the contract would refuse a second result is not relied on. A transaction is journaled before it is sent, so a kill between the
 * two, or before the node's answer was heard, makes the next life give the node the same bytes again: one transaction still.
 */
function checksOfGiven({ transactions, again, againAnswers, refused, twice, reverted }: GivenReport, held: number): Check[] {
  const answers = Object.entries(againAnswers).map(([answer, count]) => `${answer} ${count}`);
  console.log(`${transactions} transactions with results reached the node`);
  console.log(
    `${again} times it was given the bytes of one it had been given before (killed after the journal, before the answer: the next life sends them again)${answers.length > 0 ? `; it said: ${answers.join(', ')}` : ''}`,
  );
  return [
    ['kills between the signature and the answer of the node', KILLS < 50 || held > 0, `${held}`],
    ['calls in transactions of more than one nonce', twice === 0 && transactions > 0, `${twice}`],
    ['transactions that were mined and reverted', reverted === 0, `${reverted}`],
    ['new transactions that the node refused', refused.length === 0, refused.join('; ') || '0'],
  ];
}

async function report(line: Line, { ids, met }: Kills, given: GivenReport): Promise<boolean> {
  const { logFile } = line;
  const results = await line.tangle.results(line.service.serviceId);
  const byCall = Map.groupBy(results, ({ callId }) => callId);
  const right = ids.filter((callId, index) => {
    const output = byCall.get(callId)?.[0]?.output;
    return output !== undefined && `0x${Buffer.from(output).toString('hex')}` === encode(inputOf(index) ** 2n);
  });
  const missing = ids.filter((callId) => !byCall.has(callId)).length;
  const duplicate = ids.filter((callId) => (byCall.get(callId)?.length ?? 0) > 1).length;
  const ran = await executions(logFile, line.ledgerFile);
  const kills = Object.entries(met)
    .filter(([state]) => state !== 'late' && state !== 'unheard')
    .map(([state, count]) => `${state} ${count}`);
  console.log(`seed ${seed}: ${JOBS} calls, ${KILLS} kills; kills that met calls in a state: ${kills.join(', ')}`);
  console.log(`${ran.all} executions of ${ran.calls} calls`);
  console.log(
    `kills while a transaction was on its way to the node: ${met.late ?? 0}; while its answer was on its way back: ${met.unheard ?? 0}`,
  );
  const phases = (['executing', 'executed', 'submitted'] as const).map((state) => met[state] ?? 0);
  const checks: Check[] = [
    ...checksOfGiven(given, (met.late ?? 0) + (met.unheard ?? 0)),
    ['kills met calls executing, executed, submitted', KILLS < 50 || Math.min(...phases) > 0, phases.join(', ')],
    ['results', results.length === JOBS && ids.length === JOBS, `${results.length} of ${JOBS}`],
    ['with the right output', right.length === JOBS, `${right.length}`],
    ['duplicate', duplicate === 0, `${duplicate}`],
    ['missing', missing === 0, `${missing}`],
    ['executions after the output was journaled', ran.late === 0 && ran.unjournaled === 0 && ran.calls === JOBS, `${ran.late}`],
  ];
  for (const [name, holds, figure] of checks) console.log(`${holds ? 'ok  ' : 'FAIL'}  ${name.padEnd(46)} ${figure}`);
  return checks.every(([, holds]) => holds);
}

async function deployToPlatform(url: string, built: BuiltHandler, logFile: string): Promise<void> {
  const deployer = new HttpFaasDeployer(url);
  const zip = await readFile(built.zipFile);
  await deployer.deploy('job2', { zip, sha256: built.sha256 }, { environment: { PROVE_EXECUTION_LOG: logFile } });
  await deployer.close();
}

async function main(): Promise<boolean> {
  const folder = await mkdtemp(join(tmpdir(), 'prove-crash-'));
  const logFile = join(folder, 'executions');
  const ledgerFile = join(folder, 'ledger.sqlite');
  const chain = await startLocalChain({ blockTimeMs: BLOCK_MS });
  const given = new GivenTransactions();
  const node = await given.watch(chain);
  const platform = await startFaasServer();
  const processes: NodeProcess[] = [];
  try {
    const built = await buildHandler({ entry: path('../fixtures/prove/jobs.ts'), outDir: folder });
    await deployToPlatform(platform.url, built, logFile);
    const handler = await startHandler(built.file, { PROVE_EXECUTION_LOG: logFile });
    processes.push(handler);
    const tangle = await deployTangle(chain);
    const service = await tangle.startService({ jobs: [{ name: 'here' }, { name: 'handler' }, { name: 'platform' }] });
    const startRunner = (): NodeProcess => {
      const runner = startNode(path('../fixtures/prove/runner.ts'), {
        HTTP_RPC_URL: node.url,
        WS_RPC_URL: node.wsUrl,
        CHAIN_ID: String(chain.chainId),
        SERVICE_ID: String(service.serviceId),
        BLUEPRINT_ID: String(service.blueprintId),
        TANGLE_CONTRACT: tangle.contract,
        OPERATOR_PRIVATE_KEY: service.operators[0]?.privateKey ?? '',
        BPR_DATA_DIR: folder,
        PROVE_EXECUTION_LOG: logFile,
        PROVE_HANDLER_URL: handler.url,
        PROVE_PLATFORM_URL: platform.url,
        PROVE_LEDGER: ledgerFile,
      });
      processes.push(runner);
      return runner;
    };
    const line: Line = { tangle, service, ledgerFile, logFile, given, startRunner };
    console.log(`seed ${seed}`);
    const kills = await killAndSubmit(line);
    await finish(line);
    return await report(line, kills, await given.report(chain));
  } finally {
    await Promise.all(processes.map((each) => each.end('SIGKILL')));
    await platform.close();
    await node.close();
    await chain.stop();
    await rm(folder, { recursive: true, force: true });
  }
}

process.exitCode = (await main()) ? 0 : 1;
