/** Deployers: from the first deployment to the removal. */

import assert from 'node:assert/strict';
import { setImmediate } from 'node:timers/promises';
import type { DeployReport, FaasDeployer, FunctionConfig, FunctionSchedule } from '../executor/deployer.ts';
import { NAME, all, answer, answerIn, checked, deploy, essence, eventOf, outline, rejects, runs, writesNothing } from './deployer-trial.ts';
import type { DeployerCase, DeployerTrial } from './deployer.ts';

const DAILY: FunctionSchedule = { name: 'daily', schedule: { kind: 'calendar', expression: '*-*-* 03:00:00' } };
const WEEKLY: FunctionSchedule = {
  name: 'weekly',
  schedule: { kind: 'calendar', expression: 'Mon *-*-* 09:30:00' },
  event: { say: 'weekly' },
};
const HOURLY: FunctionSchedule = { name: 'hourly', schedule: { kind: 'periodic', periodMs: 3_600_000 } };
export const SCHEDULES: readonly FunctionSchedule[] = [DAILY, WEEKLY, HOURLY];

/** Callers at the same time while code is replaced. */
const CALLERS = 4;

/** Invokes again and again while something goes on; gives the tags that answered. */
async function during(deployer: FaasDeployer, start: () => Promise<unknown>): Promise<unknown[]> {
  const tags: unknown[] = [];
  let over = false;
  const end = (): void => void (over = true);
  const call = async (): Promise<void> => {
    while (!over) {
      tags.push((await answer(deployer)).tag);
      // A platform inside this process must get a turn.
      await setImmediate();
    }
  };
  await Promise.all([start().then(end, end), ...Array.from({ length: CALLERS }, call)]);
  return tags;
}

async function names(trial: DeployerTrial): Promise<string[]> {
  const state = await trial.connect().describe(NAME);
  return (state?.config.schedules ?? []).map(({ name }) => name).toSorted();
}

function withSchedules(trial: DeployerTrial, schedules: readonly FunctionSchedule[]): FunctionConfig {
  return { ...trial.config, schedules };
}

async function scheduled(trial: DeployerTrial, schedules: readonly FunctionSchedule[]): Promise<DeployReport> {
  return trial.connect().deploy(NAME, await trial.platform.codeOf('a'), withSchedules(trial, schedules));
}

const scheduleCases: readonly DeployerCase[] = [
  {
    name: 'makes the schedules of a function, and again changes nothing',
    capabilities: ['schedules'],
    async run(trial) {
      await scheduled(trial, SCHEDULES);
      assert.deepEqual(await names(trial), ['daily', 'hourly', 'weekly']);
      const again = await writesNothing(trial, () => scheduled(trial, SCHEDULES));
      assert.deepEqual(again.changes, []);
    },
  },
  {
    name: 'three schedules become one, and no orphans stay',
    capabilities: ['schedules'],
    switches: ['schedules'],
    async run(trial) {
      await scheduled(trial, SCHEDULES);
      assert.equal(await trial.platform.schedules?.(), 3);
      const { changes } = await scheduled(trial, [WEEKLY]);
      assert.ok(changes.some(({ resource }) => resource === 'schedule'));
      assert.ok(
        changes.every(({ resource }) => resource === 'schedule'),
        `more than schedules changed: ${outline(changes).join(', ')}`,
      );
      assert.deepEqual(await names(trial), ['weekly']);
      assert.equal(await trial.platform.schedules?.(), 1);
      await scheduled(trial, []);
      assert.equal(await trial.platform.schedules?.(), 0);
    },
  },
  {
    name: 'a schedule that changed is changed, and a configuration that names none leaves them',
    capabilities: ['schedules', 'configuration'],
    switches: ['schedules'],
    async run(trial) {
      await scheduled(trial, SCHEDULES);
      const before = await trial.platform.snapshot();
      const later: FunctionSchedule = { ...DAILY, schedule: { kind: 'calendar', expression: '*-*-* 04:00:00' } };
      const { changes } = await trial.connect().updateConfiguration(NAME, { schedules: [later, WEEKLY, HOURLY] });
      assert.equal(changes.length, 1, outline(changes).join(', '));
      assert.notDeepEqual(await trial.platform.snapshot(), before);
      await trial.connect().updateConfiguration(NAME, trial.change);
      assert.deepEqual(await names(trial), ['daily', 'hourly', 'weekly']);
      assert.equal(await trial.platform.schedules?.(), 3);
    },
  },
  {
    name: 'an expression that means nothing is SCHEDULE_INVALID, before anything is written',
    capabilities: ['schedules'],
    async run(trial) {
      const bad: FunctionSchedule = { name: 'bad', schedule: { kind: 'calendar', expression: 'every now and then' } };
      await writesNothing(trial, () => rejects(scheduled(trial, [DAILY, bad]), 'SCHEDULE_INVALID'));
    },
  },
];

const updateCases: readonly DeployerCase[] = [
  {
    name: 'updates the code: calls go on without a failure, then all get the new one, the configuration stays',
    capabilities: ['code'],
    async run(trial) {
      await deploy(trial, 'a');
      const before = await trial.connect().describe(NAME);
      const code = await trial.platform.codeOf('b');
      const deployer = trial.connect();
      let update: Promise<DeployReport> | undefined;
      const start = (): Promise<DeployReport> => (update = deployer.updateCode(NAME, code));
      const executes = trial.lacks.execution === undefined;
      const long = executes ? answer(trial.connect(), { waitMs: 1_000 }) : undefined;
      const tags = executes ? await during(trial.connect(), start) : [];
      const report = checked(await (update ?? start()), code.sha256);
      await runs(trial, 'b');
      if (long) tags.push((await long).tag);
      assert.ok(
        tags.every((tag) => tag === 'a' || tag === 'b'),
        `others answered: ${JSON.stringify(tags)}`,
      );
      assert.ok(report.changes.length > 0);
      assert.deepEqual((await trial.connect().describe(NAME))?.config, before?.config);
      const again = await writesNothing(trial, () => trial.connect().updateCode(NAME, code));
      assert.deepEqual(again.changes, []);
    },
  },
  {
    name: 'updates the configuration: only what is named, and again changes nothing',
    capabilities: ['configuration'],
    async run(trial) {
      const { state: before } = await deploy(trial, 'a');
      const { changes, state } = await trial.connect().updateConfiguration(NAME, trial.change);
      assert.deepEqual(
        changes.map(({ action }) => action),
        changes.map(() => 'update'),
      );
      assert.ok(changes.length > 0);
      // The same keys with other values; a platform may tell more of a configuration than was asked for.
      assert.deepEqual(JSON.parse(JSON.stringify(state?.config)), JSON.parse(JSON.stringify({ ...before.config, ...trial.change })));
      await runs(trial, 'a');
      const again = await writesNothing(trial, () => trial.connect().updateConfiguration(NAME, trial.change));
      assert.deepEqual(again.changes, []);
    },
  },
  {
    name: 'the environment that is named takes the place of the one before, and no report tells values',
    capabilities: ['configuration'],
    async run(trial) {
      await deploy(trial, 'a');
      const update = trial.connect().updateConfiguration(NAME, { environment: { COLOUR: 'crimson-secret' } });
      const { changes } = await update;
      assert.ok(changes.length > 0);
      assert.doesNotMatch(JSON.stringify(changes), /crimson-secret|\bblue\b|\bround\b/);
      if (trial.lacks.execution !== undefined) return;
      assert.equal((await answer(trial.connect(), { variable: 'COLOUR' })).value, 'crimson-secret');
      assert.equal((await answer(trial.connect(), { variable: 'SHAPE' })).value, null);
    },
  },
  {
    name: 'deploys another package and another configuration at once',
    async run(trial) {
      await deploy(trial, 'a');
      const code = await trial.platform.codeOf('b');
      const wanted = { ...trial.config, ...trial.change, environment: { COLOUR: 'green', SHAPE: 'round' } };
      const report = checked(await trial.connect().deploy(NAME, code, wanted), code.sha256);
      assert.ok(report.changes.length > 0);
      await runs(trial, 'b');
      if (trial.lacks.execution === undefined) assert.equal((await answer(trial.connect(), { variable: 'COLOUR' })).value, 'green');
      const again = await writesNothing(trial, () => trial.connect().deploy(NAME, code, wanted));
      assert.deepEqual(again.changes, []);
    },
  },
];

const versionCases: readonly DeployerCase[] = [
  {
    name: 'tells the versions, the newest first, and which one is current',
    capabilities: ['versions'],
    async run(trial) {
      await deploy(trial, 'a');
      assert.equal((await trial.connect().versions(NAME)).filter(({ current }) => current).length, 1);
      const code = await trial.platform.codeOf('b');
      await trial.connect().deploy(NAME, code, trial.config);
      const versions = await trial.connect().versions(NAME);
      assert.ok(versions.length >= 2, JSON.stringify(versions));
      assert.deepEqual(
        versions.map(({ current }) => current),
        versions.map((_, index) => index === 0),
      );
      if (versions[0]?.sha256 !== undefined) assert.equal(versions[0].sha256, code.sha256);
      assert.equal(new Set(versions.map(({ version }) => version)).size, versions.length);
    },
  },
  {
    name: 'rolls back to the version before, to a named one, and not to one that never was',
    capabilities: ['versions', 'rollback'],
    async run(trial) {
      const { sha256 } = await trial.platform.codeOf('a');
      await deploy(trial, 'a');
      await rejects(trial.connect().rollback(NAME), 'NOT_FOUND');
      const code = await trial.platform.codeOf('b');
      await trial.connect().deploy(NAME, code, trial.config);
      const second = (await trial.connect().versions(NAME)).find(({ current }) => current);
      assert.ok(second);
      const report = checked(await trial.connect().rollback(NAME), sha256);
      assert.ok(report.changes.length > 0);
      await runs(trial, 'a');
      checked(await trial.connect().rollback(NAME, second.version), code.sha256);
      await runs(trial, 'b');
      await writesNothing(trial, () => rejects(trial.connect().rollback(NAME, '987654'), 'NOT_FOUND'));
    },
  },
  {
    name: 'deploys anew after a rollback',
    capabilities: ['rollback'],
    async run(trial) {
      await deploy(trial, 'a');
      await deploy(trial, 'b');
      await trial.connect().rollback(NAME);
      await runs(trial, 'a');
      const { changes } = await deploy(trial, 'b');
      assert.ok(changes.length > 0);
      await runs(trial, 'b');
    },
  },
];

export const lifeCases: readonly DeployerCase[] = [
  {
    name: 'has a name, and what is sound violates nothing',
    async run(trial) {
      const deployer = trial.connect();
      assert.ok(deployer.name.length > 0);
      assert.deepEqual(deployer.violations(NAME, await trial.platform.codeOf('a'), trial.config), []);
    },
  },
  {
    name: 'creates a function that can be described and called',
    async run(trial) {
      assert.equal(await trial.connect().describe(NAME), undefined);
      const { changes, state } = await deploy(trial, 'a');
      assert.ok(
        changes.some(({ action }) => action === 'create'),
        outline(changes).join(', '),
      );
      assert.ok(state.executor.use.length > 0);
      assert.deepEqual(JSON.parse(JSON.stringify(state.executor)), state.executor);
      const described = await trial.connect().describe(NAME);
      assert.deepEqual(essence(described), essence(state));
      await runs(trial, 'a');
      if (trial.lacks.execution === undefined) assert.equal((await answer(trial.connect(), { variable: 'SHAPE' })).value, 'round');
    },
  },
  {
    name: 'deploys again: no change, no write',
    async run(trial) {
      await deploy(trial, 'a');
      const { changes, state } = await writesNothing(trial, () => deploy(trial, 'a'));
      assert.deepEqual(changes, []);
      assert.deepEqual(essence(state), essence(await trial.connect().describe(NAME)));
    },
  },
  ...updateCases,
  ...scheduleCases,
  ...versionCases,
  {
    name: 'removes everything that was made, twice',
    async run(trial) {
      const bare = await trial.platform.snapshot();
      const config = trial.lacks.schedules === undefined ? withSchedules(trial, SCHEDULES) : trial.config;
      await trial.connect().deploy(NAME, await trial.platform.codeOf('a'), config);
      await deploy(trial, 'b');
      const { changes } = await trial.connect().remove(NAME);
      assert.ok(changes.length > 0);
      assert.ok(
        changes.every(({ action }) => action === 'delete'),
        outline(changes).join(', '),
      );
      assert.equal(await trial.connect().describe(NAME), undefined);
      assert.deepEqual(await trial.platform.snapshot(), bare, 'what is left');
      const again = await writesNothing(trial, () => trial.connect().remove(NAME));
      assert.deepEqual(again.changes, []);
      await deploy(trial, 'a');
      await runs(trial, 'a');
    },
  },
  {
    name: 'close can be repeated',
    async run(trial) {
      const deployer = trial.connect();
      await deployer.describe(NAME);
      await deployer.close?.();
      await deployer.close?.();
    },
  },
  {
    name: 'deploys several functions at the same time',
    async run(trial) {
      const deployer = trial.connect();
      const code = await trial.platform.codeOf('a');
      const several = Array.from({ length: 5 }, (_, index) => `conformance-${index}`);
      await Promise.all(several.map((name) => deployer.deploy(name, code, trial.config)));
      for (const name of several) {
        await runs(trial, 'a', name);
        assert.equal((await deployer.describe(name))?.name, name);
      }
      if (trial.lacks.list === undefined) assert.deepEqual((await all(deployer.list())).map(({ name }) => name).toSorted(), several);
      if (trial.lacks.execution === undefined) answerIn(await deployer.invoke('conformance-3', eventOf({})));
    },
  },
];
