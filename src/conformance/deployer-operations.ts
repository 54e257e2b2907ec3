/** Deployers: calling functions, reading their logs, listing them; and what a platform says that cannot. */

import assert from 'node:assert/strict';
import type { FaasDeployer, FunctionState, LogEntry } from '../executor/deployer.ts';
import { NAME, all, answerIn, deploy, essence, eventOf, logsWith, rejects, say, writesNothing } from './deployer-trial.ts';
import type { DeployerCapability, DeployerCase, DeployerTrial } from './deployer.ts';
import { SCHEDULES } from './deployer-life.ts';

/** More than one page of every platform. */
const MANY = 130;
const AT_ONCE = 8;

async function deployMany(trial: DeployerTrial, names: readonly string[]): Promise<void> {
  const deployer = trial.connect();
  const code = await trial.platform.codeOf('a');
  const waiting = names.values();
  const work = async (): Promise<void> => {
    for (const name of waiting) await deployer.deploy(name, code, trial.config);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
}

function messages(entries: readonly LogEntry[], pattern: RegExp): string[] {
  return entries.flatMap(({ message }) => pattern.exec(message)?.[0] ?? []);
}

const invokeCases: readonly DeployerCase[] = [
  {
    name: 'invokes and waits for the answer',
    capabilities: ['execution'],
    async run(trial) {
      await deploy(trial, 'a');
      const deployer = trial.connect();
      assert.deepEqual(answerIn(await deployer.invoke(NAME, eventOf({ variable: 'COLOUR' }))), { tag: 'a', value: 'blue' });
      assert.deepEqual(answerIn(await deployer.invoke(NAME, eventOf({ waitMs: 50 }), { type: 'sync' })), { tag: 'a', value: null });
    },
  },
  {
    name: 'a function that fails is told as such, with what it said',
    capabilities: ['execution'],
    async run(trial) {
      await deploy(trial, 'a');
      const { failed, body } = await trial.connect().invoke(NAME, eventOf({ fail: 'the oven is cold' }));
      assert.equal(failed, true);
      assert.match(Buffer.from(body).toString('utf8'), /the oven is cold/);
    },
  },
  {
    name: 'invokes without waiting for the answer',
    capabilities: ['async'],
    async run(trial) {
      await deploy(trial, 'a');
      const deployer = trial.connect();
      const { failed, body } = await deployer.invoke(NAME, eventOf({ say: 'said later' }), { type: 'async' });
      assert.deepEqual({ failed, bytes: body.length }, { failed: false, bytes: 0 });
      if (trial.lacks.logs === undefined && trial.lacks.execution === undefined) await logsWith(deployer, 'said later');
    },
  },
  {
    name: 'a dry run of an invocation runs nothing',
    capabilities: ['dry-run'],
    async run(trial) {
      await deploy(trial, 'a');
      const deployer = trial.connect();
      const { failed, body } = await deployer.invoke(NAME, eventOf({ say: 'said never' }), { type: 'dry-run' });
      assert.deepEqual({ failed, bytes: body.length }, { failed: false, bytes: 0 });
      if (trial.lacks.logs !== undefined) return;
      await say(trial, ['said once']);
      const entries = await logsWith(deployer, 'said once');
      assert.deepEqual(messages(entries, /said never/), []);
    },
  },
  {
    name: 'what is not there is FUNCTION_NOT_FOUND',
    async run(trial) {
      const { lacks, platform } = trial;
      const deployer = trial.connect();
      const code = await platform.codeOf('a');
      await rejects(deployer.invoke(NAME, eventOf({})), 'FUNCTION_NOT_FOUND');
      if (lacks.code === undefined) await writesNothing(trial, () => rejects(deployer.updateCode(NAME, code), 'FUNCTION_NOT_FOUND'));
      if (lacks.configuration === undefined)
        await writesNothing(trial, () => rejects(deployer.updateConfiguration(NAME, trial.change), 'FUNCTION_NOT_FOUND'));
      if (lacks.logs === undefined) await rejects(all(deployer.logs(NAME)), 'FUNCTION_NOT_FOUND');
      if (lacks.versions === undefined) await rejects(deployer.versions(NAME), 'FUNCTION_NOT_FOUND');
      if (lacks.rollback === undefined) await rejects(deployer.rollback(NAME), 'FUNCTION_NOT_FOUND');
    },
  },
];

const logCases: readonly DeployerCase[] = [
  {
    name: 'reads the log, oldest first, the newest so many',
    capabilities: ['logs'],
    async run(trial) {
      await deploy(trial, 'a');
      const startedAt = Date.now();
      const lines = Array.from({ length: 5 }, (_, index) => `line ${index}`);
      for (const line of lines) {
        await say(trial, [line]);
        await logsWith(trial.connect(), line);
      }
      const entries = await logsWith(trial.connect(), 'line 4');
      assert.deepEqual(messages(entries, /line \d/), lines);
      for (const { at } of entries) assert.ok(Math.abs(at - startedAt) < 3_600_000, `${at} is no time in milliseconds`);
      assert.deepEqual(
        entries.map(({ at }) => at),
        entries.map(({ at }) => at).toSorted((first, second) => first - second),
      );
      const newest = await all(trial.connect().logs(NAME, { limit: 3 }));
      assert.deepEqual(
        newest.map(({ message }) => message),
        entries.slice(-3).map(({ message }) => message),
      );
    },
  },
  {
    name: 'reads the log of a span of time, and what holds a text',
    capabilities: ['logs'],
    async run(trial) {
      await deploy(trial, 'a');
      for (const line of ['early pear', 'middle plum', 'late pear']) {
        await say(trial, [line]);
        await logsWith(trial.connect(), line);
      }
      const entries = await logsWith(trial.connect(), 'late pear');
      const middle = entries.find(({ message }) => message.includes('middle plum'))?.at ?? 0;
      const since = messages(await all(trial.connect().logs(NAME, { sinceMs: middle })), /early|middle|late/);
      assert.ok(since.includes('middle') && since.includes('late'), `since the middle: ${since.join(', ')}`);
      assert.equal(since.includes('early'), (entries.find(({ message }) => message.includes('early pear'))?.at ?? 0) >= middle);
      const until = messages(await all(trial.connect().logs(NAME, { untilMs: middle - 1 })), /middle|late/);
      assert.deepEqual(until, [], 'until just before the middle');
      const found = messages(await all(trial.connect().logs(NAME, { search: 'pear' })), /early|middle|late/);
      assert.deepEqual(found, ['early', 'late']);
    },
  },
  {
    name: 'follows the log until its signal fires',
    capabilities: ['logs', 'follow'],
    async run(trial) {
      await deploy(trial, 'a');
      await say(trial, ['before']);
      await logsWith(trial.connect(), 'before');
      const controller = new AbortController();
      const seen: string[] = [];
      let said = false;
      for await (const { message } of trial.connect().logs(NAME, { follow: true, search: 'o', signal: controller.signal })) {
        seen.push(message);
        if (message.includes('before') && !said) {
          said = true;
          await say(trial, ['now one', 'now two']);
        }
        if (message.includes('now two')) controller.abort();
      }
      const spoken = seen.flatMap((message) => /before|now one|now two/.exec(message)?.[0] ?? []);
      assert.deepEqual(spoken, ['before', 'now one', 'now two'], 'each line once, in order');
    },
  },
];

const listCases: readonly DeployerCase[] = [
  {
    name: `lists ${MANY} functions`,
    capabilities: ['list'],
    timeoutMs: 180_000,
    async run(trial) {
      assert.deepEqual(await all(trial.connect().list()), []);
      const names = Array.from({ length: MANY }, (_, index) => `many-${String(index).padStart(3, '0')}`);
      await deployMany(trial, names);
      const listed = await all(trial.connect().list());
      assert.deepEqual(listed.map(({ name }) => name).toSorted(), names);
      assert.ok(listed.every(({ status }) => status === 'active'));
      const last: FunctionState | undefined = listed.find(({ name }) => name === names.at(-1));
      assert.equal(last?.id, (await trial.connect().describe(names.at(-1) ?? ''))?.id);
    },
  },
  {
    name: 'lists ours only, and with `all` what others made',
    capabilities: ['list'],
    switches: ['makeForeign'],
    async run(trial) {
      await trial.platform.makeForeign?.('foreign-one');
      await deploy(trial, 'a');
      assert.deepEqual(
        (await all(trial.connect().list())).map(({ name, status }) => [name, status]),
        [[NAME, 'active']],
      );
      const everything = await all(trial.connect().list({ all: true }));
      assert.deepEqual(everything.map(({ name, status }) => `${name} ${status}`).toSorted(), [`${NAME} active`, 'foreign-one foreign']);
      assert.deepEqual(essence(await trial.connect().describe('foreign-one')), essence(everything.find(({ name }) => name !== NAME)));
    },
  },
];

export const operationCases: readonly DeployerCase[] = [...invokeCases, ...logCases, ...listCases];

type Ask = (deployer: FaasDeployer, trial: DeployerTrial) => Promise<unknown>;

/** How each operation is asked for. */
const ASK: readonly (readonly [DeployerCapability, Ask])[] = [
  ['async', (deployer) => deployer.invoke(NAME, eventOf({}), { type: 'async' })],
  ['dry-run', (deployer) => deployer.invoke(NAME, eventOf({}), { type: 'dry-run' })],
  ['code', async (deployer, { platform }) => deployer.updateCode(NAME, await platform.codeOf('b'))],
  ['configuration', (deployer, { change }) => deployer.updateConfiguration(NAME, change)],
  ['logs', (deployer) => all(deployer.logs(NAME))],
  ['follow', (deployer) => all(deployer.logs(NAME, { follow: true, signal: AbortSignal.timeout(5_000) }))],
  ['list', (deployer) => all(deployer.list())],
  ['versions', (deployer) => deployer.versions(NAME)],
  ['rollback', (deployer) => deployer.rollback(NAME)],
  [
    'schedules',
    async (deployer, { platform, config }) => deployer.deploy(NAME, await platform.codeOf('a'), { ...config, schedules: SCHEDULES }),
  ],
];

export const unsupportedCases: readonly DeployerCase[] = ASK.map(([capability, ask]) => ({
  name: `OPERATION_UNSUPPORTED: ${capability}`,
  lacking: capability,
  async run(trial) {
    await deploy(trial, 'a');
    const error = await writesNothing(trial, () => rejects(ask(trial.connect(), trial), 'OPERATION_UNSUPPORTED'));
    assert.ok(error.message.length > 20, `the message says why: ${error.message}`);
  },
}));
