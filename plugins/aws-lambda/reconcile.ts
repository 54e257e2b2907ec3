/** A deployment: reads what is there, compares it with what should be, writes what differs, in an order that any interruption survives. */

import type { Architecture, FunctionConfiguration } from '@aws-sdk/client-lambda';
import { RunnerError } from '../../src/plugin.ts';
import type { DeployReport, FunctionConfig, FunctionPackage } from '../../src/plugin.ts';
import {
  ensureAsync,
  ensureLogGroup,
  ensureProvisioned,
  ensureQueue,
  ensureReserved,
  ensureUrl,
  readAsync,
  readPermitted,
  readQueue,
  readRetention,
  readUrl,
  removeQueue,
} from './attached.ts';
import type { PresentQueue } from './attached.ts';
import type { Changes } from './changes.ts';
import type { Session } from './client.ts';
import { codeSource, ensureLayers, readLayers, readPackage, removePackages } from './code.ts';
import type { Bucket, LayerZip } from './code.ts';
import { codeHash, refuseOtherKind } from './image.ts';
import type { Executable } from './image.ts';
import { KEYS_TAG, foreign, hasMark, isSame, lastOf, ownerOf, queueName, roleName, toBase64 } from './names.ts';
import { parsePlatform } from './options.ts';
import type { LambdaPlatform } from './options.ts';
import { differing, presentSettings, requestOf, settingsOf } from './plan.ts';
import type { Settings } from './plan.ts';
import {
  BASIC_POLICY,
  TRACING_POLICY,
  VPC_POLICY,
  ensureRole,
  isOwnRole,
  managedPolicyArn,
  readRole,
  removeRole,
  statementsFor,
  whenAssumable,
} from './role.ts';
import type { PresentRole, RoleSpec } from './role.ts';
import { ScheduleWork } from './schedule-work.ts';
import { hasGroup } from './schedules.ts';
import { ROLE_PART, hasOwnRole, notFound, placesIn, readFunction, readLive, stateOf } from './state.ts';
import type { PresentFunction, Where } from './state.ts';
import { ownTags, setTags, tagFunction } from './tags.ts';
import { aim, hasAlias, versionOf, whenDone, whenIdle, whenReady } from './versions.ts';

export interface Wish {
  /** `code` and `configuration` leave the other alone, and need a function that is there. */
  readonly kind: 'deploy' | 'code' | 'configuration';
  readonly code?: FunctionPackage;
  readonly config: FunctionConfig;
  readonly bucket?: Bucket;
}

export const PHASES = 8;
const DEFAULT_ALIAS = 'live';

/** One deployment of one function. */
export class Reconciliation {
  readonly #session: Session;
  readonly #changes: Changes;
  readonly #where: Where;
  readonly #wish: Wish;
  readonly #platform: LambdaPlatform;
  readonly #name: string;
  readonly #owner: string;

  constructor(session: Session, changes: Changes, { where, wish }: { readonly where: Where; readonly wish: Wish }) {
    this.#session = session;
    this.#changes = changes;
    this.#where = where;
    this.#wish = wish;
    this.#platform = parsePlatform(wish.config.platform);
    this.#name = changes.function;
    this.#owner = ownerOf(this.#name, where.region);
  }

  get #executable(): Executable {
    return { code: this.#wish.code, image: this.#platform.image };
  }

  async run(): Promise<DeployReport> {
    const session = this.#session;
    const changes = this.#changes;
    const name = this.#name;
    const before = await this.#look();
    const layers = before.layers && (await ensureLayers(session, changes, { layers: before.layers, bucket: this.#wish.bucket }));
    const { logRetentionDays } = this.#wish.config;
    changes.phase('looking after the log group, dead letters and the role');
    if (logRetentionDays !== undefined) await ensureLogGroup(session, changes, { days: logRetentionDays, owner: this.#owner });
    const deadLetters = await this.#deadLetters(before);
    const role = await this.#role(before, deadLetters);
    const isNew = before.present === undefined;
    const named = settingsOf(this.#wish.config, this.#platform, {
      isNew,
      ...(role !== undefined && { role }),
      ...(layers && { layers }),
      ...(deadLetters !== undefined && { deadLetters }),
    });
    // What is not named stays as calls have it, whatever was left behind the alias.
    const settings = before.live ? { ...presentSettings(before.live), ...named } : named;
    changes.phase(isNew ? 'creating the function' : 'updating the function');
    const latest = before.present ? await this.#update(before.present, before, settings) : await this.#create(before, settings);
    changes.phase('directing calls to the new version');
    const isMoved = await this.#publish(before, settings, latest);
    const aliasArn = `${before.present?.configuration.FunctionArn ?? latest?.FunctionArn ?? `arn:aws:lambda:::function:${name}`}:${before.alias}`;
    await this.#attach(before);
    changes.phase('looking after the schedules');
    await before.schedules?.ensure({ functionName: name, alias: before.alias, aliasArn });
    changes.phase('tidying up');
    await this.#tidy(before, { deadLetters, isMoved });
    if (changes.isDry) return changes.report(before.present && (await stateOf(session, before.present, this.#where)));
    const after = await readFunction(session, name);
    return changes.report(after && (await stateOf(session, after, this.#where)));
  }

  /** Reads everything, and refuses before the first write what cannot be done. */
  async #look(): Promise<Before> {
    const session = this.#session;
    const { kind } = this.#wish;
    const name = this.#name;
    this.#changes.phase('reading what is there');
    let present = await readFunction(session, name);
    if (!present && kind !== 'deploy') throw notFound(name, this.#where.region);
    if (present && !present.isOurs) throw foreign('function', name);
    if (present) refuseOtherKind(present.configuration, this.#executable);
    if (present && !this.#changes.isDry) {
      const configuration = await whenReady(this.#changes, present.configuration);
      present = { ...present, configuration };
    }
    const alias = this.#platform.alias ?? present?.aliases[0] ?? DEFAULT_ALIAS;
    if (present) await this.#readAhead(present, alias);
    if (present && !present.aliases.includes(alias) && (await hasAlias(session, name, alias))) throw foreign('alias', `${name}:${alias}`);
    const live = present && (await readLive(session, name, alias));
    const calls = live ?? (present?.aliases[0] !== undefined ? await readLive(session, name, present.aliases[0]) : undefined);
    if (kind === 'configuration' && calls && calls.CodeSha256 !== present?.configuration.CodeSha256)
      throw new RunnerError(
        'STATE_INVALID',
        `calls of ${name} go to version ${calls.Version}, whose code is not what was deployed last: deploy code and configuration together`,
        { details: { name, version: calls.Version } },
      );
    const { code, bucket } = this.#wish;
    const isPackage = this.#platform.image === undefined;
    if (code && isPackage && present?.configuration.CodeSha256 !== toBase64(code.sha256))
      await readPackage(session, { code, bucket, folder: name });
    const common = { present, alias, hasAlias: live !== undefined, live: calls };
    if (kind === 'code')
      return { ...common, usesOwnRole: false, role: undefined, queue: undefined, layers: undefined, schedules: undefined };
    const ownRole = roleName(name, this.#where.region, 'role');
    const usesOwnRole =
      this.#platform.role === undefined &&
      (!present || isOwnRole(present.configuration.Role, ownRole) || this.#platform.rolePolicies !== undefined);
    const hadOwnRole = present !== undefined && hasOwnRole(present, ownRole);
    const hadQueue = lastOf(present?.configuration.DeadLetterConfig?.TargetArn ?? '') === queueName(name);
    const [role, queue, layers, schedules] = await Promise.all([
      usesOwnRole || hadOwnRole ? readRole(session, ownRole, this.#owner) : undefined,
      hadQueue || this.#platform.deadLetters === true ? readQueue(session, name, this.#owner) : undefined,
      this.#platform.layers && readLayers(this.#platform.layers),
      ScheduleWork.prepare(session, this.#changes, {
        region: this.#where.region,
        present,
        schedules: this.#wish.config.schedules,
        platform: this.#platform,
        alias,
      }),
    ]);
    return { ...common, usesOwnRole, role, queue, layers, schedules };
  }

  /** Side by side, what is looked at one after the other when there is a function. A failure is told where it is looked at. */
  async #readAhead(present: PresentFunction, alias: string): Promise<void> {
    const session = this.#session;
    const name = this.#name;
    const { kind, config } = this.#wish;
    const at = { FunctionName: name, Qualifier: alias };
    const role = (of: 'role' | 'schedules'): Promise<unknown> => readRole(session, roleName(name, this.#where.region, of), this.#owner);
    const isOwn = isOwnRole(present.configuration.Role, roleName(name, this.#where.region, 'role'));
    const places = config.schedules ? placesIn(present.parts) : [];
    await Promise.allSettled([
      stateOf(session, present, this.#where),
      readLive(session, name, alias),
      readAsync(session, at),
      ...(isOwn && kind !== 'code' ? [role('role')] : []),
      ...(places.some((place) => place.kind === 'scheduler') ? [role('schedules')] : []),
      ...places.flatMap((place) => (place.kind === 'scheduler' ? [hasGroup(session, place.group)] : [])),
      ...(this.#platform.url === undefined ? [] : [readPermitted(session, at)]),
      ...(config.logRetentionDays === undefined ? [] : [readRetention(session, name)]),
    ]);
  }

  /** The ARN; empty when there are to be none; undefined when that is left alone. */
  async #deadLetters({ queue }: Before): Promise<string | undefined> {
    const { deadLetters } = this.#platform;
    if (deadLetters === true) return ensureQueue(this.#session, this.#changes, { present: queue, owner: this.#owner });
    return deadLetters === false ? '' : deadLetters;
  }

  async #role(before: Before, deadLetters: string | undefined): Promise<string | undefined> {
    if (!before.usesOwnRole) return this.#platform.role;
    const spec = await this.#roleSpec(before, deadLetters);
    return ensureRole(this.#changes, spec, before.role);
  }

  async #roleSpec({ present, alias, role }: Before, deadLetters: string | undefined): Promise<RoleSpec> {
    const { region } = this.#where;
    const name = roleName(this.#name, region, 'role');
    const settings = present && presentSettings(present.configuration);
    const { vpc, tracing, rolePolicies } = this.#platform;
    const inVpc = vpc === undefined ? (settings?.VpcConfig.SubnetIds.length ?? 0) > 0 : vpc !== false;
    const isTraced = tracing ?? settings?.TracingConfig === 'Active';
    const standard = [BASIC_POLICY, VPC_POLICY, TRACING_POLICY].map((policy) => managedPolicyArn(policy, region));
    const kept = (role?.attached ?? []).filter((arn) => hasMark(role?.tags[KEYS_TAG], arn) && !standard.includes(arn));
    const { async: wanted } = this.#platform;
    const destinations =
      wanted === undefined
        ? present && (await readAsync(this.#session, { FunctionName: this.#name, Qualifier: alias }))?.DestinationConfig
        : wanted === false
          ? undefined
          : { OnSuccess: { Destination: wanted.onSuccess }, OnFailure: { Destination: wanted.onFailure } };
    const targets = [deadLetters ?? settings?.DeadLetterConfig, destinations?.OnSuccess?.Destination, destinations?.OnFailure?.Destination];
    return {
      name,
      owner: this.#owner,
      service: 'lambda.amazonaws.com',
      policies: [
        managedPolicyArn(BASIC_POLICY, region),
        ...(inVpc ? [managedPolicyArn(VPC_POLICY, region)] : []),
        ...(isTraced ? [managedPolicyArn(TRACING_POLICY, region)] : []),
        ...(rolePolicies ?? kept),
      ],
      statements: statementsFor(targets.flatMap((arn) => (arn ? [arn] : []))),
    };
  }

  async #create(before: Before, settings: Settings): Promise<FunctionConfiguration | undefined> {
    const { alias, usesOwnRole } = before;
    const { code, config, bucket } = this.#wish;
    if (!code) throw notFound(this.#name, this.#where.region);
    const FunctionName = this.#name;
    const { image } = this.#platform;
    const source = image === undefined && (await codeSource(this.#session, this.#changes, { code, bucket, folder: FunctionName }));
    const Tags = {
      ...config.tags,
      ...ownTags({ aliases: [alias], parts: this.#parts(before), keys: Object.keys(config.tags ?? {}) }),
    };
    const request = requestOf(settings, Object.keys(settings) as (keyof Settings)[]);
    const create = (): Promise<FunctionConfiguration> =>
      this.#session.write('lambda', (lambda, options) =>
        lambda.createFunction(
          {
            ...request,
            FunctionName,
            Role: settings.Role,
            ...(source ? { Code: source } : { Code: { ImageUri: image }, PackageType: 'Image' }),
            Tags,
            ...(config.architecture !== undefined && { Architectures: [config.architecture] }),
          },
          options,
        ),
      );
    const made = await this.#changes.make({ action: 'create', resource: 'function', id: FunctionName }, () =>
      usesOwnRole ? whenAssumable(this.#session, this.#changes, create) : create(),
    );
    return made && whenDone(this.#changes, made);
  }

  async #update(present: PresentFunction, before: Before, settings: Settings): Promise<FunctionConfiguration | undefined> {
    const { alias } = before;
    await tagFunction(this.#session, this.#changes, { present, alias, tags: this.#wish.config.tags, parts: this.#parts(before) });
    const session = this.#session;
    const changes = this.#changes;
    const FunctionName = this.#name;
    const { code, config, bucket } = this.#wish;
    const { image } = this.#platform;
    const wanted = codeHash(this.#executable);
    let latest = present.configuration;
    const Architectures: Architecture[] | undefined = config.architecture === undefined ? undefined : [config.architecture];
    const fields = [
      ...(wanted !== undefined && latest.CodeSha256 !== wanted ? [image === undefined ? 'package' : 'image'] : []),
      ...(Architectures && !isSame(Architectures, latest.Architectures ?? ['x86_64']) ? ['architecture'] : []),
    ];
    if (fields.length > 0) {
      if (wanted === undefined)
        throw new RunnerError('OPERATION_UNSUPPORTED', 'Lambda changes the architecture only with the code: use deploy');
      const source =
        image === undefined && code ? await codeSource(session, changes, { code, bucket, folder: FunctionName }) : { ImageUri: image };
      const input = { FunctionName, ...source, ...(Architectures && { Architectures }) };
      const made = await changes.make({ action: 'update', resource: 'code', id: FunctionName, fields }, () =>
        whenIdle(session, changes, () => session.write('lambda', (lambda, options) => lambda.updateFunctionCode(input, options))),
      );
      if (made) latest = await whenDone(changes, made);
    }
    const names = differing(settings, presentSettings(present.configuration));
    if (names.length > 0) {
      const input = { FunctionName, ...requestOf(settings, names) };
      const write = (): Promise<FunctionConfiguration> =>
        whenIdle(session, changes, () => session.write('lambda', (lambda, options) => lambda.updateFunctionConfiguration(input, options)));
      const made = await changes.make({ action: 'update', resource: 'configuration', id: FunctionName, fields: names }, () =>
        this.#platform.role === undefined ? whenAssumable(session, changes, write) : write(),
      );
      if (made) latest = await whenDone(changes, made);
    }
    return latest;
  }

  /** True when calls go elsewhere now. */
  async #publish(
    { present, alias, hasAlias: exists, live }: Before,
    settings: Settings,
    latest: FunctionConfiguration | undefined,
  ): Promise<boolean> {
    const sha256 = codeHash(this.#executable) ?? present?.configuration.CodeSha256;
    const architecture = this.#wish.config.architecture ?? present?.configuration.Architectures?.[0] ?? 'x86_64';
    const isRight =
      exists &&
      live !== undefined &&
      live.CodeSha256 === sha256 &&
      (live.Architectures?.[0] ?? 'x86_64') === architecture &&
      differing({ ...settings, Description: presentSettings(live).Description }, presentSettings(live)).length === 0;
    if (isRight) return false;
    const change = exists
      ? ({ action: 'update', resource: 'alias', id: alias, fields: ['version'] } as const)
      : ({ action: 'create', resource: 'alias', id: alias } as const);
    await this.#changes.make(change, async () => {
      const version = await versionOf(this.#session, this.#changes, latest ?? {});
      await whenIdle(this.#session, this.#changes, () => aim(this.#session, this.#name, { name: alias, version, exists }));
    });
    return true;
  }

  async #attach({ present, alias }: Before): Promise<void> {
    const session = this.#session;
    const changes = this.#changes;
    const { url: wish, async: asynchronous, unreserved } = this.#platform;
    const { concurrencyMax, instancesMin } = this.#wish.config;
    const at = { FunctionName: this.#name, Qualifier: alias };
    const isNew = !present;
    changes.phase('looking after the URL, queued calls and concurrency');
    if (wish !== undefined) {
      const [url, permitted] = isNew ? [undefined, []] : await Promise.all([readUrl(session, at), readPermitted(session, at)]);
      await ensureUrl(session, changes, { at, wish, present: url, permitted });
    }
    if (asynchronous !== undefined)
      await ensureAsync(session, changes, { at, wish: asynchronous, present: isNew ? undefined : await readAsync(session, at) });
    if (concurrencyMax !== undefined || unreserved)
      await ensureReserved(session, changes, { wanted: unreserved ? undefined : concurrencyMax, present: present?.reserved });
    if (instancesMin !== undefined && (instancesMin > 0 || present?.parts.includes('provisioned')))
      await ensureProvisioned(changes, at, instancesMin);
  }

  /** Takes away what is not needed any more, now that nothing leads to it. */
  async #tidy(
    before: Before,
    { deadLetters, isMoved }: { readonly deadLetters: string | undefined; readonly isMoved: boolean },
  ): Promise<void> {
    const { present, alias, role, usesOwnRole, queue } = before;
    const session = this.#session;
    const FunctionName = this.#name;
    for (const Name of present?.aliases ?? [])
      if (Name !== alias && (await hasAlias(session, FunctionName, Name)))
        await this.#changes.make({ action: 'delete', resource: 'alias', id: Name }, () =>
          session.write('lambda', (lambda, request) => lambda.deleteAlias({ FunctionName, Name }, request)),
        );
    if (deadLetters !== undefined && deadLetters !== queue?.arn && this.#platform.deadLetters !== true)
      await removeQueue(session, this.#changes, queue);
    if (!usesOwnRole) await removeRole(session, this.#changes, role);
    if (present && present.aliases.some((name) => name !== alias)) await setTags(this.#changes, present, ownTags({ aliases: [alias] }));
    const { bucket, code } = this.#wish;
    if (bucket && code && isMoved && present) await removePackages(this.#changes, bucket, { folder: FunctionName, keep: code.sha256 });
  }

  #parts({ schedules, usesOwnRole, role }: Before): readonly string[] {
    const { logRetentionDays, instancesMin = 0 } = this.#wish.config;
    return [
      ...(schedules?.part ?? []),
      ...(logRetentionDays === undefined ? [] : ['logs']),
      ...(instancesMin > 0 ? ['provisioned'] : []),
      ...(role && !usesOwnRole ? [ROLE_PART] : []),
    ];
  }
}

interface Before {
  readonly present: PresentFunction | undefined;
  readonly alias: string;
  /** The alias is there. */
  readonly hasAlias: boolean;
  /** What calls get now. */
  readonly live: FunctionConfiguration | undefined;
  readonly usesOwnRole: boolean;
  readonly role: PresentRole | undefined;
  readonly queue: PresentQueue | undefined;
  readonly layers: readonly (string | LayerZip)[] | undefined;
  readonly schedules: ScheduleWork | undefined;
}
