/**
 * What every deployer must do, as data: each case gets a fresh platform that nobody has used, and a way to break it.
 *
 * The suite needs no test framework: `checkDeployer` runs it and reports, `runDeployerConformance` registers it with the `describe` and
 * `it` that it is given.
 */

import { RunnerError } from '../errors.ts';
import type { FaasDeployer, FunctionConfig, FunctionPackage } from '../executor/deployer.ts';
import { faultCases } from './deployer-faults.ts';
import { lifeCases } from './deployer-life.ts';
import { operationCases, unsupportedCases } from './deployer-operations.ts';
import { checkSuite, registerSuite } from './suite.ts';
import type { CaseOutcome, Suite, TestFramework } from './suite.ts';

/**
 * What not every platform can do. All but `execution` and `credentials` are operations, and a platform without them must say
 * `OPERATION_UNSUPPORTED`:
 * - `async`, `dry-run`: these types of invocation
 * - `code`: to change the code without sending the configuration
 * - `configuration`: to change the configuration without sending the code
 * - `logs`, `follow`; `list`; `versions`, `rollback`; `schedules`
 * - `execution`: the platform runs what it is given (an emulator may not)
 * - `credentials`: the platform asks who it talks to
 */
export type DeployerCapability =
  | 'async'
  | 'dry-run'
  | 'code'
  | 'configuration'
  | 'logs'
  | 'follow'
  | 'list'
  | 'versions'
  | 'rollback'
  | 'schedules'
  | 'execution'
  | 'credentials';

/** How a deployer is to meet its platform: as it should, at an address where nobody listens, without knowing who it is. */
export type Connection = 'well' | 'nowhere' | 'nameless';

/**
 * One platform, with nothing on it. A member that may be left out is a switch: without it, the cases that need it fail until they are
 * skipped with a reason.
 */
export interface DeployerPlatform {
  /**
   * A new deployer that remembers nothing. The suite closes it. Its retries and its waits may be made fast by a clock; they must end
   * within seconds of the time of the test.
   */
  connect(how: Connection): FaasDeployer;
  /**
   * A package that differs for each tag. The function in it behaves as `conformanceFunction(tag)` says; where nothing is executed, any
   * package will do.
   */
  codeOf(tag: string): FunctionPackage | Promise<FunctionPackage>;
  /**
   * Everything that is on the platform now besides logs, as JSON: whose parts are in a fixed order, without times, ids that the platform
   * makes up, numbers of versions, and versions that no calls go to.
   */
  snapshot(): unknown;
  /** Write requests that the platform has carried out. What only invokes a function is no write. */
  writes?(): number;
  /** The platform carries out so many writes more; the answer to the last of them, and everything after it, is lost. Undefined: all is well again. */
  cutAfter?(writes: number | undefined): void;
  /** The next so many requests are refused because there are too many, with the advice to come again after one second. */
  throttle?(requests: number): void;
  /** Somebody else makes a function of this name. */
  makeForeign?(name: string): Promise<void>;
  /** How many schedules the platform holds, whatever they belong to. */
  schedules?(): number | Promise<number>;
  /** Writes lines to the log of a function, as if it had. Default: it is invoked once for each line with `{ "say": line }`. */
  say?(name: string, lines: readonly string[]): Promise<void>;
  /** The event of a call, where the platform wants calls in a form of its own. Default: as it is. */
  wrap?(event: Uint8Array): Uint8Array;
  /** The answer of the function out of what the platform sends. Default: as it is. */
  unwrap?(body: Uint8Array): Uint8Array;
  close(): Promise<void>;
}

export interface DeployerUnderTest {
  readonly name: string;
  /** Makes a platform for each case. */
  create(): DeployerPlatform | Promise<DeployerPlatform>;
  /** What the platform cannot do, each with the reason, for people. */
  readonly lacks?: Readonly<Partial<Record<DeployerCapability, string>>>;
  /** Default: 256 MB, 30 s and two variables, `COLOUR=blue` and `SHAPE=round`. The environment must hold these two. */
  readonly config?: FunctionConfig;
  /** Fields of the configuration that differ from `config`, besides the environment. Default: 512 MB. */
  readonly change?: FunctionConfig;
  /** A configuration with two or more violations of limits. Default: memory and timeout far above all. */
  readonly excess?: FunctionConfig;
  /** Cases that cannot be passed, each with the reason, for people. */
  readonly skip?: Readonly<Record<string, string>>;
}

/** What a case works with. */
export interface DeployerTrial {
  readonly platform: DeployerPlatform;
  readonly config: FunctionConfig;
  readonly change: FunctionConfig;
  readonly excess: FunctionConfig;
  readonly lacks: Readonly<Partial<Record<DeployerCapability, string>>>;
  /** A deployer that is closed after the case. */
  connect(how?: Connection): FaasDeployer;
}

export interface DeployerCase {
  readonly name: string;
  /** Without these the case makes no sense on a platform. */
  readonly capabilities?: readonly DeployerCapability[];
  /** The case makes sense only where the platform cannot do this. */
  readonly lacking?: DeployerCapability;
  readonly switches?: readonly ('writes' | 'cutAfter' | 'throttle' | 'makeForeign' | 'schedules')[];
  /** Default 30,000. */
  readonly timeoutMs?: number;
  run(trial: DeployerTrial): Promise<void>;
}

const TIMEOUT_MS = 30_000;

const CONFIG: FunctionConfig = { memoryMb: 256, timeoutMs: 30_000, environment: { COLOUR: 'blue', SHAPE: 'round' } };
const CHANGE: FunctionConfig = { memoryMb: 512 };
const EXCESS: FunctionConfig = { memoryMb: 50_000_000, timeoutMs: 50_000_000_000 };

export const deployerCases: readonly DeployerCase[] = [...lifeCases, ...operationCases, ...unsupportedCases, ...faultCases];

/**
 * The function of the package `tag`: the text of an async function of an event and an environment, which an author wraps as the
 * platform wants it. It answers `{ tag, value }`, where `value` is the environment variable that `event.variable` names or null, after
 * `event.waitMs`; it logs `event.say` as a line; it throws an Error with the message `event.fail`.
 *
 * @example
 * const source = `exports.handler = (event) => (${conformanceFunction('a')})(event, process.env);`;
 */
export function conformanceFunction(tag: string): string {
  return `async (event, environment) => {
  if (event.say !== undefined) console.log(event.say);
  if (event.waitMs !== undefined) await new Promise((resolve) => setTimeout(resolve, event.waitMs));
  if (event.fail !== undefined) throw new Error(event.fail);
  return { tag: ${JSON.stringify(tag)}, value: environment[event.variable] ?? null };
}`;
}

/** Runs the suite; a failure is an outcome, it is not thrown. Throws `CONFIG_INVALID` when a skip names no case that applies. */
export async function checkDeployer(subject: DeployerUnderTest): Promise<CaseOutcome[]> {
  return checkSuite(suiteOf(subject));
}

/**
 * Registers the suite. A skipped case shows its reason in its name.
 *
 * @example
 * import { describe, it } from 'vitest';
 * runDeployerConformance({ describe, it }, { name: 'my-cloud', create: () => startMyEmulator(), lacks: { 'dry-run': 'it has none' } });
 */
export function runDeployerConformance(framework: TestFramework, subject: DeployerUnderTest): void {
  registerSuite(framework, suiteOf(subject));
}

/** The cases that make sense for the platform. */
function suiteOf(subject: DeployerUnderTest): Suite<DeployerCase> {
  const { lacks = {} } = subject;
  for (const [capability, reason] of Object.entries(lacks))
    if (reason.trim() === '') throw new RunnerError('CONFIG_INVALID', `${capability} is said to be lacking without a reason`);
  const cases = deployerCases.filter(
    ({ capabilities = [], lacking }) =>
      capabilities.every((capability) => lacks[capability] === undefined) && (lacking === undefined || lacks[lacking] !== undefined),
  );
  return {
    title: `deployer ${subject.name}`,
    cases,
    skip: subject.skip,
    run: (each) => runCase(each, subject),
    timeoutMs: ({ timeoutMs = TIMEOUT_MS }) => timeoutMs,
  };
}

async function runCase(each: DeployerCase, subject: DeployerUnderTest): Promise<void> {
  const platform = await subject.create();
  const deployers: FaasDeployer[] = [];
  try {
    for (const name of each.switches ?? [])
      if (platform[name] === undefined)
        throw new RunnerError('CONFIG_INVALID', `this case needs the switch ${name}: give it, or skip the case and say why`);
    const work = each.run({
      platform,
      config: subject.config ?? CONFIG,
      change: subject.change ?? CHANGE,
      excess: subject.excess ?? EXCESS,
      lacks: subject.lacks ?? {},
      connect(how = 'well') {
        const deployer = platform.connect(how);
        deployers.push(deployer);
        return wrapped(deployer, platform);
      },
    });
    await inTime(work, each.timeoutMs ?? TIMEOUT_MS);
  } finally {
    await Promise.allSettled(deployers.map(async (deployer) => deployer.close?.()));
    await platform.close();
  }
}

/** A deployer that waits for ever fails its case. */
async function inTime(work: Promise<void>, timeoutMs: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new RunnerError('INTERNAL', `the case is not over after ${timeoutMs} ms`)), timeoutMs - 100);
  });
  await Promise.race([work, late]).finally(() => clearTimeout(timer));
}

/** A deployer whose calls have the form that its platform wants. */
function wrapped(deployer: FaasDeployer, { wrap, unwrap }: DeployerPlatform): FaasDeployer {
  if (!wrap && !unwrap) return deployer;
  return new Proxy(deployer, {
    get(target, property) {
      if (property === 'invoke') {
        const invoke: FaasDeployer['invoke'] = async (name, event, options) => {
          const invocation = await target.invoke(name, wrap?.(event) ?? event, options);
          return unwrap && invocation.body.length > 0 ? { ...invocation, body: unwrap(invocation.body) } : invocation;
        };
        return invoke;
      }
      const value: unknown = Reflect.get(target, property, target);
      return typeof value === 'function' ? (value.bind(target) as unknown) : value;
    },
  });
}
