/** Puts functions on AWS Lambda. */

import { RunnerError } from '../../src/plugin.ts';
import type {
  DeployOptions,
  DeployReport,
  FaasDeployer,
  FunctionConfig,
  FunctionInvocation,
  FunctionPackage,
  FunctionState,
  FunctionVersionInfo,
  InvocationType,
  LimitViolation,
  LogEntry,
  LogQuery,
} from '../../src/plugin.ts';
import { ifTold, readPermitted, readQueue, removeQueue } from './attached.ts';
import { Changes } from './changes.ts';
import { Aws, Session } from './client.ts';
import { removeLayers, removePackages } from './code.ts';
import type { Bucket } from './code.ts';
import { isNotFound } from './failure.ts';
import { readLogs, readMetrics, runInsights } from './logs.ts';
import type { InsightsQuery } from './logs.ts';
import { foreign, lastOf, ownerOf, queueName, roleName } from './names.ts';
import type { LambdaDeployerOptions } from './options.ts';
import { limitError, violationsOf } from './plan.ts';
import { PHASES, Reconciliation } from './reconcile.ts';
import type { Wish } from './reconcile.ts';
import { parseLogTail } from './report.ts';
import type { FunctionMetrics } from './report.ts';
import { readRole, removeRole } from './role.ts';
import { ensureSharedRole, sharedRoleCommands, sharedRoleSpec } from './shared-role.ts';
import type { SharedRole } from './shared-role.ts';
import { removeAll } from './schedule-work.ts';
import { readEntries } from './schedules.ts';
import { hasOwnRole, listStates, notFound, placesIn, readFunction, readLive, stateOf } from './state.ts';
import type { PresentFunction, Where } from './state.ts';
import { aim, readVersions, versionInfo, whenIdle } from './versions.ts';

type SignalOptions = { readonly signal?: AbortSignal };

const INVOCATION_TYPES = { sync: 'RequestResponse', async: 'Event', 'dry-run': 'DryRun' } as const;
const METRICS_MS = 3_600_000;

/**
 * A deployer of Lambda functions. Calls go to an alias (`live`), which leads to a published version: an update is seen by calls at once and
 * as a whole, and a rollback moves the alias. Tags of the function are the only state.
 *
 * Roles, queues, schedules and layers that are made for a function are named after it and marked as made by this tool; what has such a name
 * without the mark is `RESOURCE_FOREIGN`. `FunctionConfig.platform` is a `LambdaPlatform`.
 *
 * @example
 * const deployer = new LambdaDeployer({ region: 'eu-central-1' });
 * const { state } = await deployer.deploy('squaring', { zip, sha256 }, { memoryMb: 512, timeoutMs: 30_000 });
 */
export class LambdaDeployer implements FaasDeployer {
  readonly name = 'aws-lambda';
  readonly #options: LambdaDeployerOptions;
  readonly #aws: Aws;

  /** Does no I/O. */
  constructor(options: LambdaDeployerOptions = {}) {
    this.#options = options;
    this.#aws = new Aws(options);
  }

  violations(name: string, code: FunctionPackage, config: FunctionConfig): readonly LimitViolation[] {
    return violationsOf(name, { code, hasBucket: this.#options.bucket !== undefined }, config);
  }

  // oxlint-disable-next-line max-params -- the signature of the contract
  deploy(name: string, code: FunctionPackage, config: FunctionConfig, options: DeployOptions = {}): Promise<DeployReport> {
    return this.#reconcile(name, { kind: 'deploy', code, config }, options);
  }

  /** Only the code. `FUNCTION_NOT_FOUND` when it was never deployed. */
  updateCode(name: string, code: FunctionPackage, options: DeployOptions = {}): Promise<DeployReport> {
    return this.#reconcile(name, { kind: 'code', code, config: {} }, options);
  }

  /** Only what `config` names. `STATE_INVALID` after a rollback of the code: it would bring the code back that was rolled back. */
  updateConfiguration(name: string, config: FunctionConfig, options: DeployOptions = {}): Promise<DeployReport> {
    return this.#reconcile(name, { kind: 'configuration', config }, options);
  }

  async describe(name: string, { signal }: SignalOptions = {}): Promise<FunctionState | undefined> {
    const session = this.#session(signal);
    const present = await readFunction(session, name);
    return present && stateOf(session, present, await this.#where());
  }

  /** What the list itself tells; `describe` tells schedules, URL and log retention, too. */
  async *list({ all = false, signal }: SignalOptions & { readonly all?: boolean } = {}): AsyncGenerator<FunctionState, void, void> {
    yield* listStates(this.#session(signal), await this.#where(), all);
  }

  async invoke(
    name: string,
    event: Uint8Array,
    { type = 'sync', version, signal }: SignalOptions & { readonly type?: InvocationType; readonly version?: string } = {},
  ): Promise<FunctionInvocation> {
    const session = this.#session(signal);
    const { aliases } = await this.#present(session, name);
    const Qualifier = version ?? aliases[0];
    const answer = await session
      .write('lambda', (lambda, request) =>
        lambda.invoke(
          {
            FunctionName: name,
            InvocationType: INVOCATION_TYPES[type],
            Payload: event,
            ...(Qualifier !== undefined && { Qualifier }),
            ...(type === 'sync' && { LogType: 'Tail' as const }),
          },
          request,
        ),
      )
      .catch(async (error: unknown) => {
        if (!isNotFound(error)) throw error;
        throw new RunnerError('NOT_FOUND', `function ${name} has no version ${Qualifier}`, { cause: error });
      });
    const report = parseLogTail(answer.LogResult);
    const requestId = report?.requestId ?? answer.$metadata.requestId;
    return {
      body: type === 'sync' ? (answer.Payload ?? new Uint8Array()) : new Uint8Array(),
      failed: answer.FunctionError !== undefined,
      ...(requestId !== undefined && { requestId }),
      ...(answer.ExecutedVersion !== undefined && { version: answer.ExecutedVersion }),
      ...(report && {
        report: {
          durationMs: report.durationMs,
          ...(report.billedMs !== undefined && { billedMs: report.billedMs }),
          ...(report.memoryUsedMb !== undefined && { memoryUsedMb: report.memoryUsedMb }),
          ...(report.initMs !== undefined && { initMs: report.initMs }),
        },
      }),
    };
  }

  /** Of the log group of the function, which stays when the function is removed. */
  async *logs(name: string, query: LogQuery = {}): AsyncGenerator<LogEntry, void, void> {
    const session = this.#session(query.signal);
    let isEmpty = true;
    if (query.follow) await this.#present(session, name);
    for await (const entry of readLogs(session, name, query)) {
      isEmpty = false;
      yield entry;
    }
    // No log: it was never called, or it never was.
    if (isEmpty && !query.signal?.aborted) await this.#present(session, name);
  }

  async versions(name: string, { signal }: SignalOptions = {}): Promise<readonly FunctionVersionInfo[]> {
    const session = this.#session(signal);
    const { aliases } = await this.#present(session, name);
    const [versions, live] = await Promise.all([
      readVersions(session, name),
      aliases[0] === undefined ? undefined : readLive(session, name, aliases[0]),
    ]);
    return versions.map((version) => versionInfo(version, live?.Version));
  }

  /** Moves the alias. The version that was left stays; `deploy` and `updateCode` go forward again. */
  async rollback(name: string, version?: string, options: DeployOptions = {}): Promise<DeployReport> {
    const session = this.#telling(name, options);
    const changes = new Changes(session, name, { ...options, phases: 2 });
    changes.phase('reading the versions');
    const present = await this.#own(session, name);
    const [alias] = present.aliases;
    const versions = await this.versions(name, options);
    const current = versions.find((one) => one.current)?.version;
    const target = versions.find((one) => (version === undefined ? Number(one.version) < Number(current) : one.version === version));
    if (alias === undefined || !target)
      throw new RunnerError(
        'NOT_FOUND',
        version === undefined
          ? `function ${name} has no version before ${current ?? 'the first'}`
          : `function ${name} has no version ${version}`,
        { details: { name, current, versions: versions.map((one) => one.version) } },
      );
    changes.phase(`directing calls to version ${target.version}`);
    if (target.version !== current)
      await changes.make({ action: 'update', resource: 'alias', id: alias, fields: ['version'] }, () =>
        whenIdle(session, changes, () => aim(session, name, { name: alias, version: target.version, exists: current !== undefined })),
      );
    return changes.report(await stateOf(session, present, await this.#where()));
  }

  /** The function with its versions, alias and URL, its schedules, role, queue and layers; the log group stays. */
  async remove(name: string, options: DeployOptions = {}): Promise<DeployReport> {
    const session = this.#telling(name, options);
    const changes = new Changes(session, name, { ...options, phases: 3 });
    changes.phase('reading what is there');
    const present = await readFunction(session, name);
    if (present && !present.isOurs) throw foreign('function', name);
    if (present) await this.#removeFunction(session, changes, present);
    changes.phase('removing what was made for the function');
    await this.#removeRest(session, changes, present);
    return changes.report();
  }

  /** Sums over the REPORT lines of the log; default: of the last hour. */
  async metrics(
    name: string,
    { sinceMs, untilMs, signal }: SignalOptions & { readonly sinceMs?: number; readonly untilMs?: number } = {},
  ): Promise<FunctionMetrics> {
    const end = untilMs ?? this.#aws.clock.now();
    return readMetrics(this.#session(signal), name, { sinceMs: sinceMs ?? end - METRICS_MS, untilMs: end });
  }

  /** Asks CloudWatch Logs Insights. */
  insights(name: string, { signal, ...query }: SignalOptions & InsightsQuery = {}): Promise<readonly Readonly<Record<string, string>>[]> {
    return runInsights(this.#session(signal), name, query);
  }

  /**
   * Makes the role that functions may share, with the policy that lets them write logs; the setting `role` of a function takes its ARN.
   * Idempotent. Rejects with `RESOURCE_FOREIGN` for a role of this name that this tool did not make.
   */
  async bootstrapRole(name: string, options: DeployOptions = {}): Promise<SharedRole> {
    const spec = sharedRoleSpec(name, (await this.#where()).region);
    const session = this.#telling(name, options);
    return ensureSharedRole(session, new Changes(session, name, { ...options, phases: 1 }), spec);
  }

  /** What `bootstrapRole` does, as commands of the AWS CLI. Asks nobody. */
  async bootstrapRoleCommands(name: string): Promise<readonly string[]> {
    return sharedRoleCommands(sharedRoleSpec(name, (await this.#where()).region));
  }

  close(): Promise<void> {
    return this.#aws.close();
  }

  async #reconcile(name: string, wish: Wish, options: DeployOptions): Promise<DeployReport> {
    const { code, config } = wish;
    const bucket = this.#bucket();
    const violations = violationsOf(name, { code, hasBucket: bucket !== undefined }, config);
    if (violations.length > 0) throw limitError(name, violations);
    const session = this.#telling(name, options);
    const changes = new Changes(session, name, { ...options, phases: PHASES });
    return new Reconciliation(session, changes, { where: await this.#where(), wish: { ...wish, ...(bucket && { bucket }) } }).run();
  }

  async #removeFunction(session: Session, changes: Changes, present: PresentFunction): Promise<void> {
    const name = changes.function;
    const { aliases, parts, configuration } = present;
    const places = placesIn(parts);
    const [alias = 'live'] = aliases;
    changes.phase('removing the schedules');
    const permitted = places.some(({ kind }) => kind === 'rules')
      ? await readPermitted(session, { FunctionName: name, Qualifier: alias })
      : [];
    const found = await Promise.all(places.map(async (place) => ({ place, entries: await readEntries(session, name, place) })));
    for (const one of found) await removeAll(session, changes, { ...one, aim: { functionName: name, alias }, permitted });
    const { region } = await this.#where();
    if (places.some(({ kind }) => kind === 'scheduler'))
      await removeRole(session, changes, await readRole(session, roleName(name, region, 'schedules'), ownerOf(name, region)));
    const layers = (configuration.Layers ?? []).flatMap(({ Arn }) => Arn ?? []);
    await removeLayers(changes, layers, this.#bucket());
    // The queue is known by the function: it goes before.
    if (lastOf(configuration.DeadLetterConfig?.TargetArn ?? '') === queueName(name))
      await removeQueue(session, changes, await readQueue(session, name, ownerOf(name, region)));
    await changes.make({ action: 'delete', resource: 'function', id: name }, () =>
      whenIdle(session, changes, () =>
        session.write('lambda', (lambda, request) => lambda.deleteFunction({ FunctionName: name }, request)),
      ),
    );
  }

  /** The role goes last: Lambda needs it to give network interfaces back. It is found by its name when the function is gone. */
  async #removeRest(session: Session, changes: Changes, present: PresentFunction | undefined): Promise<void> {
    const name = changes.function;
    const { region } = await this.#where();
    const bucket = this.#bucket();
    if (bucket) await removePackages(changes, bucket, { folder: name });
    const own = roleName(name, region, 'role');
    if (present && !hasOwnRole(present, own)) return;
    const owner = ownerOf(name, region);
    const role = await ifTold(unlessForeign(readRole(session, own, owner)));
    // It is made before the role is.
    if (!present) await removeQueue(session, changes, await ifTold(unlessForeign(readQueue(session, name, owner))));
    await removeRole(session, changes, role);
  }

  #bucket(): Bucket | undefined {
    const { bucket, bucketPrefix = 'blueprint-runner/' } = this.#options;
    return bucket === undefined ? undefined : { name: bucket, prefix: bucketPrefix };
  }

  #session(signal: AbortSignal | undefined): Session {
    return new Session(this.#aws, signal);
  }

  /** Of an operation that tells how far it is. */
  #telling(name: string, { signal, onProgress }: DeployOptions): Session {
    return new Session(this.#aws, signal, onProgress && ((step) => onProgress({ step, function: name })));
  }

  async #where(): Promise<Where> {
    return { region: await this.#aws.region(), options: this.#options };
  }

  async #present(session: Session, name: string): Promise<PresentFunction> {
    const present = await readFunction(session, name);
    if (!present) throw notFound(name, await this.#aws.region());
    return present;
  }

  async #own(session: Session, name: string): Promise<PresentFunction> {
    const present = await this.#present(session, name);
    if (!present.isOurs) throw foreign('function', name);
    return present;
  }
}

/** What others made under such a name is none of ours. */
async function unlessForeign<T>(work: Promise<T | undefined>): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'RESOURCE_FOREIGN') return undefined;
    throw error;
  }
}
