/** The execution role that functions may share: made once, then named by its ARN as the platform setting `role`. */

import { RunnerError } from '../../src/plugin.ts';
import type { DeployChange } from '../../src/plugin.ts';
import type { Changes } from './changes.ts';
import type { Session } from './client.ts';
import { BASIC_POLICY, ensureRole, managedPolicyArn, readRole, tagsOf, trustOf } from './role.ts';
import type { RoleSpec } from './role.ts';

export interface SharedRole {
  readonly name: string;
  /** Absent after a dry run that would make it. */
  readonly arn?: string;
  /** ARNs of the managed policies that it has by this tool. */
  readonly policies: readonly string[];
  /** Empty: it was as it should be, and nothing was written. */
  readonly changes: readonly DeployChange[];
}

/** What OWNER_TAG says: no function of its own. */
const OWNER = 'any';
/** https://docs.aws.amazon.com/IAM/latest/APIReference/API_CreateRole.html */
const NAME = /^[\w+=,.@-]{1,64}$/;

/** Throws `CONFIG_INVALID`. */
export function sharedRoleSpec(name: string, region: string): RoleSpec {
  if (!NAME.test(name))
    throw new RunnerError('CONFIG_INVALID', `${JSON.stringify(name)} cannot be the name of a role: up to 64 letters, digits and _+=,.@-`);
  return { name, owner: OWNER, service: 'lambda.amazonaws.com', policies: [managedPolicyArn(BASIC_POLICY, region)], statements: [] };
}

export async function ensureSharedRole(session: Session, changes: Changes, spec: RoleSpec): Promise<SharedRole> {
  const { name, policies } = spec;
  const present = await readRole(session, name, spec.owner);
  const arn = await ensureRole(changes, spec, present);
  return { name, ...((present || !changes.isDry) && { arn }), policies, changes: changes.report().changes };
}

/** The same as commands of the AWS CLI, for people who may not let a tool near their IAM. */
export function sharedRoleCommands(spec: RoleSpec): readonly string[] {
  const { name, policies, service } = spec;
  const tags = Object.entries(tagsOf(spec)).map(([key, value]) => quoted(`Key=${key},Value=${value}`));
  const role = `--role-name ${quoted(name)}`;
  return [
    `aws iam create-role ${role} --assume-role-policy-document ${quoted(JSON.stringify(trustOf(service)))} --tags ${tags.join(' ')}`,
    ...policies.map((arn) => `aws iam attach-role-policy ${role} --policy-arn ${quoted(arn)}`),
    `aws iam get-role ${role} --query Role.Arn --output text`,
  ];
}

/** For a POSIX shell; nothing in it is a quote. */
function quoted(text: string): string {
  return /^[\w./:=@-]+$/.test(text) ? text : `'${text}'`;
}
