/** Whether the credentials of a cloud are there, by name: nothing here ever reads one. */

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Environment } from './policy-file.ts';
import type { Configurable } from './cloud-config.ts';

/** All of these together are one way to sign in. */
interface Way {
  readonly env?: readonly string[];
  /** A variable that names a file, which must be there. */
  readonly fileOf?: string;
  /** Below the home directory, or absolute. */
  readonly file?: string;
}

export interface CredentialReport {
  readonly found: boolean;
  /** Names of variables and files. */
  readonly by: readonly string[];
  /** Every way there is, in words. Empty: the cloud needs none. */
  readonly ways: readonly string[];
}

/** Those that deployers take when their options say nothing. */
const WAYS: Readonly<Record<Configurable, readonly Way[]>> = {
  aws: [
    { env: ['AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY'] },
    { env: ['AWS_ROLE_ARN'], fileOf: 'AWS_WEB_IDENTITY_TOKEN_FILE' },
    { env: ['AWS_CONTAINER_CREDENTIALS_RELATIVE_URI'] },
    { fileOf: 'AWS_SHARED_CREDENTIALS_FILE' },
    { file: '.aws/credentials' },
    { file: '.aws/config' },
  ],
  gcp: [{ fileOf: 'GOOGLE_APPLICATION_CREDENTIALS' }, { env: ['CLOUDSDK_AUTH_ACCESS_TOKEN'] }],
  azure: [{ env: ['AZURE_CLIENT_ID', 'AZURE_CLIENT_SECRET', 'AZURE_TENANT_ID'] }, { env: ['IDENTITY_ENDPOINT', 'IDENTITY_HEADER'] }],
  digitalocean: [{ env: ['DIGITALOCEAN_TOKEN'] }],
  cloudflare: [{ env: ['CLOUDFLARE_API_TOKEN'] }],
  kubernetes: [{ fileOf: 'KUBECONFIG' }, { file: '.kube/config' }, { file: '/var/run/secrets/kubernetes.io/serviceaccount/token' }],
  vultr: [{ env: ['VULTR_API_KEY'] }],
  hetzner: [{ env: ['HCLOUD_TOKEN'] }],
  runpod: [{ env: ['RUNPOD_API_KEY'] }],
  lambdalabs: [{ env: ['LAMBDA_LABS_API_KEY'] }],
  primeintellect: [{ env: ['PRIME_INTELLECT_API_KEY'] }],
  vastai: [{ env: ['VAST_AI_API_KEY'] }],
  crusoe: [{ env: ['CRUSOE_API_KEY'] }],
  custom: [],
};

/** The first way that is there. A cloud without any needs none. */
export function findCredentials(cloud: Configurable, env: Environment, home: string): CredentialReport {
  const ways = WAYS[cloud];
  const there = ways.find((way) => isThere(way, env, home));
  return {
    found: ways.length === 0 || there !== undefined,
    by: there ? namesOf(there) : [],
    ways: ways.map((way) => namesOf(way).join(' and ')),
  };
}

/** Names of the variables of the first way to sign in: what has to be set where nothing is there. */
export function credentialVariables(cloud: Configurable): readonly string[] {
  const { env = [], fileOf } = WAYS[cloud][0] ?? {};
  return fileOf === undefined ? env : [...env, fileOf];
}

function isThere({ env: variables = [], fileOf, file }: Way, env: Environment, home: string): boolean {
  const named = fileOf === undefined ? undefined : env[fileOf];
  return (
    variables.every((name) => Boolean(env[name])) &&
    (fileOf === undefined || (Boolean(named) && existsSync(firstOf(named ?? '')))) &&
    (file === undefined || existsSync(file.startsWith('/') ? file : join(home, file)))
  );
}

/** KUBECONFIG may name several. */
function firstOf(files: string): string {
  return files.split(process.platform === 'win32' ? ';' : ':')[0] ?? '';
}

function namesOf({ env = [], fileOf, file }: Way): string[] {
  return [...env, ...(fileOf === undefined ? [] : [fileOf]), ...(file === undefined ? [] : [file.startsWith('/') ? file : `~/${file}`])];
}
