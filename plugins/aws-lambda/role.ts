/** Roles that are made for a function: its own, and the one with which its schedules call it. */

import type { Role } from '@aws-sdk/client-iam';
import { RunnerError } from '../../src/plugin.ts';
import type { Changes } from './changes.ts';
import type { Session } from './client.ts';
import { isNotFound, rawOf, readFailure } from './failure.ts';
import { KEYS_TAG, MANAGED, OWNER_TAG, foreign, hasMark, isManaged, isSame, lastOf, marksOf, tagList, tagMap } from './names.ts';

export interface RoleSpec {
  readonly name: string;
  /** What OWNER_TAG says. */
  readonly owner: string;
  /** The service that may take the role. */
  readonly service: 'lambda.amazonaws.com' | 'scheduler.amazonaws.com' | 'ec2.amazonaws.com';
  /** ARNs of managed policies. */
  readonly policies: readonly string[];
  /** Statements of the policy of its own. */
  readonly statements: readonly Statement[];
}

export interface Statement {
  readonly Effect: 'Allow';
  readonly Action: readonly string[];
  readonly Resource: string | readonly string[];
}

/** A role of ours, as it is. */
export interface PresentRole {
  readonly name: string;
  readonly arn: string;
  readonly trust: unknown;
  readonly tags: Readonly<Record<string, string>>;
  readonly attached: readonly string[];
  /** The policy of its own. */
  readonly inline: unknown;
}

const POLICY = 'blueprint-runner';
const VERSION = '2012-10-17';
const PREFIX = 'service-role/';
export const BASIC_POLICY = `${PREFIX}AWSLambdaBasicExecutionRole`;
export const VPC_POLICY = `${PREFIX}AWSLambdaVPCAccessExecutionRole`;
export const TRACING_POLICY = 'AWSXRayDaemonWriteAccess';

/** China and GovCloud have partitions of their own. */
export function managedPolicyArn(name: string, region: string): string {
  const partition = region.startsWith('cn-') ? 'aws-cn' : region.startsWith('us-gov-') ? 'aws-us-gov' : 'aws';
  return `arn:${partition}:iam::aws:policy/${name}`;
}

/** Who may take the role. */
export const trustOf = (service: string): unknown => ({
  Version: VERSION,
  Statement: [{ Effect: 'Allow', Principal: { Service: service }, Action: 'sts:AssumeRole' }],
});
const policyOf = (statements: readonly Statement[]): unknown => ({ Version: VERSION, Statement: statements });

/** Undefined when there is none. Throws `RESOURCE_FOREIGN` for one that was not made for this owner. */
export const readRole = (session: Session, name: string, owner: string): Promise<PresentRole | undefined> =>
  session.known(`role ${name}`, () => roleOf(session, name, owner));

async function roleOf(session: Session, name: string, owner: string): Promise<PresentRole | undefined> {
  const [found, policies] = await Promise.allSettled([
    findRole(session, name),
    Promise.all([
      readAttached(session, name),
      session.find('iam', (iam, request) => iam.getRolePolicy({ RoleName: name, PolicyName: POLICY }, request), isNotFound),
    ]),
  ]);
  if (found.status === 'rejected') throw found.reason;
  const role = found.value;
  if (!role) return undefined;
  const tags = tagMap(role.Tags);
  if (!isManaged(tags) || tags[OWNER_TAG] !== owner) throw foreign('role', name);
  if (policies.status === 'rejected') throw policies.reason;
  const [attached, inline] = policies.value;
  return {
    name,
    arn: role.Arn ?? '',
    trust: parseDocument(role.AssumeRolePolicyDocument),
    tags,
    attached,
    inline: inline && parseDocument(inline.PolicyDocument),
  };
}

async function findRole(session: Session, name: string): Promise<Role | undefined> {
  const found = await session.find('iam', (iam, request) => iam.getRole({ RoleName: name }, request), isNotFound);
  return found?.Role;
}

async function readAttached(session: Session, name: string): Promise<readonly string[]> {
  const arns: string[] = [];
  let Marker: string | undefined;
  do {
    const page = await session.find(
      'iam',
      (iam, request) => iam.listAttachedRolePolicies({ RoleName: name, ...(Marker !== undefined && { Marker }) }, request),
      isNotFound,
    );
    arns.push(...(page?.AttachedPolicies ?? []).flatMap(({ PolicyArn }) => PolicyArn ?? []));
    Marker = page?.IsTruncated ? page.Marker : undefined;
  } while (Marker !== undefined);
  return arns;
}

/** Documents come as JSON in URL encoding. */
function parseDocument(text: string | undefined): unknown {
  try {
    return text === undefined ? undefined : (JSON.parse(decodeURIComponent(text)) as unknown);
  } catch {
    return text;
  }
}

/** What makes a role ours, and which of its managed policies are. */
export const tagsOf = ({ owner, policies }: RoleSpec): Readonly<Record<string, string>> => ({
  [MANAGED.key]: MANAGED.value,
  [OWNER_TAG]: owner,
  [KEYS_TAG]: marksOf(policies),
});

/** Makes the role what it should be. The ARN of one that a dry run would make is nobody's. */
export async function ensureRole(changes: Changes, spec: RoleSpec, present: PresentRole | undefined): Promise<string> {
  const { session } = changes;
  const { name } = spec;
  const tags = tagsOf(spec);
  if (!present) {
    const arn = await changes.make({ action: 'create', resource: 'role', id: name }, async () => {
      const { Role: made } = await session.write('iam', (iam, request) =>
        iam.createRole({ RoleName: name, AssumeRolePolicyDocument: JSON.stringify(trustOf(spec.service)), Tags: tagList(tags) }, request),
      );
      for (const PolicyArn of spec.policies) await attach(session, name, PolicyArn);
      if (spec.statements.length > 0) await putPolicy(session, spec);
      return made?.Arn ?? '';
    });
    return arn ?? `arn:aws:iam::000000000000:role/${name}`;
  }
  const work = differences(session, { spec, present, tags });
  const fields = Object.keys(work);
  if (fields.length > 0)
    await changes.make({ action: 'update', resource: 'role', id: name, fields }, async () => {
      for (const write of Object.values(work)) await write();
    });
  return present.arn;
}

type Work = Record<string, () => Promise<unknown>>;

interface Comparison {
  readonly spec: RoleSpec;
  readonly present: PresentRole;
  readonly tags: Readonly<Record<string, string>>;
}

function differences(session: Session, { spec, present, tags }: Comparison): Work {
  const { name } = spec;
  const work: Work = {};
  if (!isSame(present.trust, trustOf(spec.service)))
    work['trust'] = () =>
      session.write('iam', (iam, request) =>
        iam.updateAssumeRolePolicy({ RoleName: name, PolicyDocument: JSON.stringify(trustOf(spec.service)) }, request),
      );
  const missing = spec.policies.filter((arn) => !present.attached.includes(arn));
  // What somebody else attached stays.
  const stale = present.attached.filter((arn) => !spec.policies.includes(arn) && hasMark(present.tags[KEYS_TAG], arn));
  const isMarked = present.tags[KEYS_TAG] === tags[KEYS_TAG];
  const all = marksOf([...spec.policies, ...present.attached.filter((arn) => hasMark(present.tags[KEYS_TAG], arn))]);
  const tag = (marks: string): Promise<unknown> =>
    session.write('iam', (iam, request) => iam.tagRole({ RoleName: name, Tags: tagList({ [KEYS_TAG]: marks }) }, request));
  if (missing.length > 0 || stale.length > 0 || !isMarked)
    work['policies'] = async () => {
      // First the mark of all that is ours in between, so that an interruption forgets none.
      if (all !== present.tags[KEYS_TAG]) await tag(all);
      for (const arn of missing) await attach(session, name, arn);
      for (const PolicyArn of stale)
        await session.write('iam', (iam, request) => iam.detachRolePolicy({ RoleName: name, PolicyArn }, request));
      if (all !== tags[KEYS_TAG]) await tag(tags[KEYS_TAG] ?? '');
    };
  const wanted = spec.statements.length > 0 ? policyOf(spec.statements) : undefined;
  if (wanted !== undefined && !isSame(present.inline, wanted)) work['policy'] = () => putPolicy(session, spec);
  if (wanted === undefined && present.inline !== undefined) work['policy'] = () => deletePolicy(session, name);
  return work;
}

const attach = (session: Session, name: string, PolicyArn: string): Promise<unknown> =>
  session.write('iam', (iam, request) => iam.attachRolePolicy({ RoleName: name, PolicyArn }, request));
const putPolicy = (session: Session, { name, statements }: RoleSpec): Promise<unknown> =>
  session.write('iam', (iam, request) =>
    iam.putRolePolicy({ RoleName: name, PolicyName: POLICY, PolicyDocument: JSON.stringify(policyOf(statements)) }, request),
  );
const deletePolicy = (session: Session, name: string): Promise<unknown> =>
  session.write('iam', (iam, request) => iam.deleteRolePolicy({ RoleName: name, PolicyName: POLICY }, request));

export async function removeRole(session: Session, changes: Changes, present: PresentRole | undefined): Promise<void> {
  if (!present) return;
  const { name } = present;
  await changes.make({ action: 'delete', resource: 'role', id: name }, async () => {
    for (const PolicyArn of present.attached)
      await session.write('iam', (iam, request) => iam.detachRolePolicy({ RoleName: name, PolicyArn }, request));
    if (present.inline !== undefined) await deletePolicy(session, name);
    await session.write('iam', (iam, request) => iam.deleteRole({ RoleName: name }, request));
  });
}

/** How long a new role may take until the services know it. IAM says seconds; minutes have been seen. */
const ASSUMABLE_MS_MAX = 120_000;
const WAITS_MS = [1_000, 2_000, 3_000, 5_000] as const;

/** Does what needs a role of ours, again and again while the services do not know the role yet. */
export async function whenAssumable<T>(session: Session, changes: Changes, work: () => Promise<T>): Promise<T> {
  const { clock } = session.aws;
  const since = clock.now();
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await work();
    } catch (error) {
      if (!isRoleUnknown(error)) throw error;
      const waitedMs = clock.now() - since;
      if (waitedMs >= ASSUMABLE_MS_MAX) {
        const message = `the role is still not assumable after ${Math.round(waitedMs / 1_000)} s: ${readFailure(rawOf(error)).message}`;
        throw new RunnerError('DEPLOY_FAILED', message, { cause: error, details: { waitedMs } });
      }
      changes.tell(`waiting for the role to become assumable (${Math.round(waitedMs / 1_000)} s)`);
      await session.sleep(WAITS_MS[Math.min(attempt, WAITS_MS.length - 1)] ?? 5_000);
    }
  }
}

/**
 * What Lambda and EventBridge Scheduler say of a role, or of what a role allows, that was made a moment ago.
 * https://github.com/serverless/serverless/issues/4384 and the messages of the services.
 */
export function isRoleUnknown(thrown: unknown): boolean {
  const { name, message } = readFailure(rawOf(thrown));
  if (!/^(?:InvalidParameterValue|ValidationException|AccessDeniedException$)/.test(name)) return false;
  return /cannot be assumed|assume the role|unable to assume|role.*(?:does not exist|not.*assum)|execution role does not have permissions/i.test(
    message,
  );
}

export const isOwnRole = (arn: string | undefined, name: string): boolean => arn !== undefined && lastOf(arn) === name;

const ACTIONS: Readonly<Record<string, string>> = {
  sqs: 'sqs:SendMessage',
  sns: 'sns:Publish',
  lambda: 'lambda:InvokeFunction',
  events: 'events:PutEvents',
  s3: 's3:PutObject',
};

/** What the function's role must allow so that events get where they should. */
export function statementsFor(targets: readonly string[]): readonly Statement[] {
  return [...new Set(targets)].flatMap((arn) => {
    const service = arn.split(':')[2] ?? '';
    const action = ACTIONS[service];
    if (action === undefined) return [];
    return [{ Effect: 'Allow' as const, Action: [action], Resource: service === 's3' ? `${arn}/*` : arn }];
  });
}
