/** The environment variables that a deployment reads, and a file with those that are known. Secrets are named, never copied. */

import { writeFileSync } from 'node:fs';
import { RunnerError } from '../errors.ts';
import type { Configurable } from './cloud-config.ts';
import { credentialVariables } from './credentials.ts';
import type { CredentialReport } from './credentials.ts';
import type { Environment } from './policy-file.ts';
import { PROVIDER_FIELDS, TARGET_OF, providerFields } from './policy-model.ts';
import type { FaasProvider, FaasType } from './policy-model.ts';

export interface NeededVariable {
  readonly name: string;
  /** What it is, for people. */
  readonly meaning: string;
  readonly isSecret: boolean;
  /** A deployment goes on without it. */
  readonly isOptional: boolean;
  /** Where its value is from; `missing`: nobody knows it. */
  readonly from: 'environment' | 'policy' | 'default' | 'missing';
  /** Of a secret never. */
  readonly value?: string;
}

export interface EnvironmentAim {
  readonly target: Configurable;
  /** Of the policy, when it is for this target. */
  readonly provider: FaasProvider | undefined;
  readonly env: Environment;
  readonly credentials: CredentialReport;
}

type Description = Pick<NeededVariable, 'name' | 'meaning'> & { readonly others?: readonly string[]; readonly isOptional?: boolean };

/** What the orchestrator of a service reads, whatever its functions run on. */
const RUNNER: readonly Description[] = [
  { name: 'HTTP_RPC_URL', others: ['RPC_URL'], meaning: 'JSON-RPC endpoint of the chain' },
  { name: 'WS_RPC_URL', meaning: 'WebSocket endpoint of the chain', isOptional: true },
  { name: 'TANGLE_CONTRACT', others: ['TANGLE_CONTRACT_ADDRESS'], meaning: 'address of the Tangle contract' },
  { name: 'SERVICE_ID', meaning: 'the service to follow; several, comma-separated' },
  { name: 'OPERATOR_PRIVATE_KEY', meaning: 'key of the operator, 0x and 64 digits' },
  { name: 'BPR_DATA_DIR', meaning: 'where the ledger lies', isOptional: true },
];

/** Rather one too many: a URL of a chain often holds a key, but the file needs it, and only its owner reads that. */
const SECRET = /SECRET|TOKEN(?!_FILE)|KEY|PASSWORD/;

/** All of them, in the order in which they are best filled in. Reads no secret. */
export function neededVariables({ target, provider, env, credentials }: EnvironmentAim): readonly NeededVariable[] {
  const type = provider?.type ?? (Object.keys(TARGET_OF) as FaasType[]).find((each) => TARGET_OF[each] === target);
  const said: Readonly<Record<string, string>> = provider ? providerFields(provider) : {};
  const place = Object.entries(type === undefined ? {} : PROVIDER_FIELDS[type]).flatMap(([field, { env: names, fallback }]) => {
    const [name, ...others] = names;
    return name === undefined ? [] : [variable({ name, others, meaning: `${field} of ${target}` }, env, { policy: said[field], fallback })];
  });
  // Another way to sign in may be there already.
  const signIn = credentials.found && !credentialVariables(target).some((name) => env[name]) ? [] : credentialVariables(target);
  return [
    ...place,
    ...signIn.map((name) => variable({ name, meaning: `credentials of ${target}` }, env)),
    ...RUNNER.map((each) => variable(each, env)),
  ];
}

function variable(
  { name, others = [], meaning, isOptional = false }: Description,
  env: Environment,
  { policy, fallback }: { readonly policy?: string | undefined; readonly fallback?: string | undefined } = {},
): NeededVariable {
  const base = { name, meaning, isOptional, isSecret: SECRET.test(name) };
  const set = [name, ...others].map((each) => env[each]).find(Boolean);
  if (base.isSecret) return { ...base, from: set === undefined ? 'missing' : 'environment' };
  // What is deployed by is the policy.
  if (policy) return { ...base, from: 'policy', value: policy };
  if (set !== undefined) return { ...base, from: 'environment', value: set };
  return fallback ? { ...base, from: 'default', value: fallback } : { ...base, from: 'missing' };
}

/** For `node --env-file`, `docker --env-file`, systemd, and a shell after `set -a`. */
function envFileText(variables: readonly NeededVariable[]): string {
  const lines = variables.map((each) => {
    const { name, meaning, isSecret, isOptional, from, value } = each;
    const note = `# ${meaning}${isSecret ? '; a secret' : ''}${isOptional ? '; optional' : ''}`;
    // An empty assignment would hide what is set elsewhere.
    if (isSecret && from === 'environment') return `${note}, set where this was written and not copied\n#${name}=`;
    return `${note}\n${value === undefined && isOptional ? '#' : ''}${name}=${value === undefined ? '' : quoted(value, name)}`;
  });
  return `# What a deployment reads. Fill in what is empty; keep this file from others.\n\n${lines.join('\n\n')}\n`;
}

/** Without quotes where they are not needed: Docker would take them as part of the value. Throws `CONFIG_INVALID`. */
function quoted(value: string, name: string): string {
  if (/^[\w@%+=:,./~-]*$/.test(value)) return value;
  if (/['\r\n]/.test(value))
    throw new RunnerError('CONFIG_INVALID', `the value of ${name} holds a quote or a line end; no file can hold it`);
  return `'${value}'`;
}

/** Only for its owner, and only when there is no such file: `CONFIG_INVALID`. */
export function writeEnvFile(path: string, variables: readonly NeededVariable[]): void {
  const text = envFileText(variables);
  try {
    writeFileSync(path, text, { mode: 0o600, flag: 'wx' });
  } catch (cause) {
    const isThere = cause instanceof Error && 'code' in cause && cause.code === 'EEXIST';
    const message = isThere
      ? `${path} is there already and is not overwritten; choose another file`
      : `${path} cannot be written: ${String(cause)}`;
    throw new RunnerError('CONFIG_INVALID', message, { cause, details: { path } });
  }
}
