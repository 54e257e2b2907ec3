/** Deployers: interruptions, foreign functions, limits, and platforms that do not answer as they should. */

import assert from 'node:assert/strict';
import type { DeployReport, FaasDeployer, LimitViolation } from '../executor/deployer.ts';
import { SCHEDULES } from './deployer-life.ts';
import { NAME, all, deploy, essence, eventOf, outline, rejects, runs, writesNothing } from './deployer-trial.ts';
import type { DeployerCase, DeployerTrial } from './deployer.ts';

/** No deployment of one function takes as many writes. */
const WRITES_MAX = 60;
/** Retries included. */
const PATIENCE_MS = 120_000;

/** Everything about a function at once. */
async function deployAll(trial: DeployerTrial, tag: string, deployer: FaasDeployer): Promise<DeployReport> {
  const code = await trial.platform.codeOf(tag);
  const schedules = tag === 'a' ? SCHEDULES : SCHEDULES.slice(1);
  const change = tag === 'a' ? {} : trial.change;
  return deployer.deploy(NAME, code, { ...trial.config, ...change, ...(trial.lacks.schedules === undefined && { schedules }) });
}

/**
 * Starts again and again, is cut off after one write more each time, and is repeated by somebody who remembers nothing. The end must be
 * what it is without a cut.
 */
async function converges(
  trial: DeployerTrial,
  prepare: () => Promise<unknown>,
  work: (deployer: FaasDeployer) => Promise<unknown>,
): Promise<void> {
  const { platform } = trial;
  const look = async (): Promise<unknown> => [await platform.snapshot(), essence(await trial.connect().describe(NAME))];
  await prepare();
  await work(trial.connect());
  const wanted = await look();
  for (let writes = 1; ; writes += 1) {
    assert.ok(writes < WRITES_MAX, `more than ${WRITES_MAX} writes`);
    await trial.connect().remove(NAME);
    await prepare();
    platform.cutAfter?.(writes);
    const whole = await work(trial.connect()).then(
      () => true,
      () => false,
    );
    platform.cutAfter?.(undefined);
    await work(trial.connect());
    assert.deepEqual(await look(), wanted, `after a cut behind write ${writes}`);
    await writesNothing(trial, () => work(trial.connect()));
    if (whole) break;
  }
}

const interruptionCases: readonly DeployerCase[] = [
  {
    name: 'a first deployment that is cut off after every write converges when it is run again',
    switches: ['cutAfter'],
    timeoutMs: PATIENCE_MS,
    async run(trial) {
      await converges(
        trial,
        async () => {},
        (deployer) => deployAll(trial, 'a', deployer),
      );
      await runs(trial, 'a');
    },
  },
  {
    name: 'an update that is cut off after every write converges when it is run again',
    switches: ['cutAfter'],
    timeoutMs: PATIENCE_MS,
    async run(trial) {
      await converges(
        trial,
        () => deployAll(trial, 'a', trial.connect()),
        (deployer) => deployAll(trial, 'b', deployer),
      );
      await runs(trial, 'b');
    },
  },
  {
    name: 'a removal that is cut off after every write converges when it is run again',
    switches: ['cutAfter'],
    timeoutMs: PATIENCE_MS,
    async run(trial) {
      const bare = await trial.platform.snapshot();
      await converges(
        trial,
        () => deployAll(trial, 'a', trial.connect()),
        (deployer) => deployer.remove(NAME),
      );
      assert.deepEqual(await trial.platform.snapshot(), bare);
    },
  },
];

/** All operations that write. */
function writers(trial: DeployerTrial): readonly (readonly [string, (deployer: FaasDeployer) => Promise<unknown>])[] {
  const { lacks, platform, config, change } = trial;
  return [
    ['deploy', async (deployer) => deployer.deploy(NAME, await platform.codeOf('b'), config)],
    ...(lacks.code === undefined
      ? [['updateCode', async (deployer: FaasDeployer) => deployer.updateCode(NAME, await platform.codeOf('b'))] as const]
      : []),
    ...(lacks.configuration === undefined
      ? [['updateConfiguration', (deployer: FaasDeployer) => deployer.updateConfiguration(NAME, change)] as const]
      : []),
    ...(lacks.rollback === undefined ? [['rollback', (deployer: FaasDeployer) => deployer.rollback(NAME)] as const] : []),
    ['remove', (deployer) => deployer.remove(NAME)],
  ];
}

/** A dry run names the changes and makes none; the same in earnest makes just these. */
async function dryThenReal(trial: DeployerTrial, work: (dryRun: boolean) => Promise<DeployReport>): Promise<void> {
  const planned = await writesNothing(trial, () => work(true));
  assert.ok(planned.changes.length > 0, 'a dry run with something to do names no change');
  const done = await work(false);
  assert.deepEqual(outline(planned.changes), outline(done.changes), 'planned and done');
}

const carefulCases: readonly DeployerCase[] = [
  {
    name: 'a dry run writes nothing, and names what a real run then does',
    async run(trial) {
      await dryThenReal(trial, async (dryRun) => {
        const report = await trial.connect().deploy(NAME, await trial.platform.codeOf('a'), trial.config, { dryRun });
        assert.equal(report.state === undefined, dryRun);
        return report;
      });
      const b = await trial.platform.codeOf('b');
      await dryThenReal(trial, (dryRun) => trial.connect().deploy(NAME, b, { ...trial.config, ...trial.change }, { dryRun }));
      const c = await trial.platform.codeOf('c');
      if (trial.lacks.code === undefined) await dryThenReal(trial, (dryRun) => trial.connect().updateCode(NAME, c, { dryRun }));
      if (trial.lacks.configuration === undefined)
        await dryThenReal(trial, (dryRun) => trial.connect().updateConfiguration(NAME, trial.config, { dryRun }));
      if (trial.lacks.rollback === undefined) await dryThenReal(trial, (dryRun) => trial.connect().rollback(NAME, undefined, { dryRun }));
      await dryThenReal(trial, (dryRun) => trial.connect().remove(NAME, { dryRun }));
    },
  },
  {
    name: 'does not touch what others made',
    switches: ['makeForeign'],
    async run(trial) {
      await trial.platform.makeForeign?.(NAME);
      for (const [, work] of writers(trial)) await writesNothing(trial, () => rejects(work(trial.connect()), 'RESOURCE_FOREIGN'));
      assert.equal((await trial.connect().describe(NAME))?.status, 'foreign');
      await deploy(trial, 'a', 'conformance-two');
      const snapshot = await trial.platform.snapshot();
      await writesNothing(trial, () => rejects(trial.connect().remove(NAME), 'RESOURCE_FOREIGN'));
      assert.deepEqual(await trial.platform.snapshot(), snapshot);
    },
  },
  {
    name: 'tells all limits that are broken at once, before anything is written',
    async run(trial) {
      const code = await trial.platform.codeOf('a');
      const violations = trial.connect().violations(NAME, code, trial.excess);
      assert.ok(violations.length >= 2, `violations: ${JSON.stringify(violations)}`);
      for (const { limit, allowed, message } of violations) assert.ok(limit.length > 0 && allowed.length > 0 && message.length > 0);
      const told = async (work: () => Promise<unknown>): Promise<readonly LimitViolation[]> => {
        const { details } = await writesNothing(trial, () => rejects(work(), 'LIMIT_EXCEEDED'));
        // What is thrown with this code carries them.
        return details['violations'] as readonly LimitViolation[];
      };
      assert.deepEqual(await told(() => trial.connect().deploy(NAME, code, trial.excess)), violations);
      assert.deepEqual(await told(() => trial.connect().deploy(NAME, code, trial.excess, { dryRun: true })), violations);
      await deploy(trial, 'a');
      if (trial.lacks.configuration === undefined)
        assert.ok((await told(() => trial.connect().updateConfiguration(NAME, trial.excess))).length >= 2);
    },
  },
  {
    name: 'an abort before the start is ABORTED, and nothing is written',
    async run(trial) {
      const code = await trial.platform.codeOf('a');
      const signal = AbortSignal.abort();
      await writesNothing(trial, () => rejects(trial.connect().deploy(NAME, code, trial.config, { signal }), 'ABORTED'));
      await deploy(trial, 'a');
      await writesNothing(trial, () => rejects(trial.connect().remove(NAME, { signal }), 'ABORTED'));
      await rejects(trial.connect().describe(NAME, { signal }), 'ABORTED');
    },
  },
  {
    name: 'tells what it does',
    async run(trial) {
      const steps: string[] = [];
      const code = await trial.platform.codeOf('a');
      await trial.connect().deploy(NAME, code, trial.config, {
        onProgress(progress) {
          assert.equal(progress.function, NAME);
          assert.equal(progress.done === undefined, progress.total === undefined);
          if (progress.done !== undefined) assert.ok(progress.done >= 0 && progress.done <= (progress.total ?? 0));
          assert.doesNotMatch(JSON.stringify(progress), /\bblue\b|\bround\b/);
          steps.push(progress.step);
        },
      });
      assert.ok(steps.length > 0 && steps.every((step) => step.trim() !== ''));
    },
  },
];

const refusals =
  (code: 'PLATFORM_UNREACHABLE' | 'CREDENTIALS_MISSING', connection: 'nowhere' | 'nameless') => async (trial: DeployerTrial) => {
    const deployer = trial.connect(connection);
    const operations = [
      ...writers(trial),
      ['describe', () => deployer.describe(NAME)] as const,
      ['invoke', () => deployer.invoke(NAME, eventOf({}))] as const,
      ...(trial.lacks.list === undefined ? [['list', () => all(deployer.list())] as const] : []),
      ...(trial.lacks.logs === undefined ? [['logs', () => all(deployer.logs(NAME))] as const] : []),
      ...(trial.lacks.versions === undefined ? [['versions', () => deployer.versions(NAME)] as const] : []),
    ];
    await Promise.all(
      operations.map(async ([name, operation]) => {
        const error = await rejects(operation(deployer), code);
        assert.ok(error.message.length > 10, name);
      }),
    );
  };

export const faultCases: readonly DeployerCase[] = [
  ...interruptionCases,
  ...carefulCases,
  {
    name: 'nobody listens at the address: PLATFORM_UNREACHABLE',
    timeoutMs: PATIENCE_MS,
    run: refusals('PLATFORM_UNREACHABLE', 'nowhere'),
  },
  {
    name: 'no credentials: CREDENTIALS_MISSING',
    capabilities: ['credentials'],
    run: refusals('CREDENTIALS_MISSING', 'nameless'),
  },
  {
    name: 'is patient with a platform that has too many requests',
    switches: ['throttle'],
    timeoutMs: PATIENCE_MS,
    async run(trial) {
      trial.platform.throttle?.(2);
      await deploy(trial, 'a');
      await runs(trial, 'a');
      trial.platform.throttle?.(2);
      await deploy(trial, 'b');
      await runs(trial, 'b');
    },
  },
  {
    name: 'a platform that has too many requests for ever is PLATFORM_THROTTLED',
    switches: ['throttle'],
    timeoutMs: PATIENCE_MS,
    async run(trial) {
      await deploy(trial, 'a');
      trial.platform.throttle?.(Number.POSITIVE_INFINITY);
      await rejects(trial.connect().describe(NAME), 'PLATFORM_THROTTLED');
      await rejects(deploy(trial, 'b'), 'PLATFORM_THROTTLED');
      trial.platform.throttle?.(0);
      await deploy(trial, 'b');
    },
  },
];
