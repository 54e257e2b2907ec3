/**
 * Where a cluster is and who asks, from a kubeconfig or from the service account of a pod.
 *
 * https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/
 */

import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { delimiter, dirname, join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { parse } from 'yaml';
import { RunnerError } from '../../src/plugin.ts';
import type { Clock, SecretReference, TlsFiles } from '../../src/plugin.ts';
import type { ClusterOptions } from './options.ts';

export interface ClusterAccess {
  readonly server: string;
  readonly tls: TlsFiles;
  readonly bearer: SecretReference | undefined;
  /** Of a user whose token a program gives. */
  readonly program?: TokenProgram | undefined;
  readonly namespace: string;
}

/** It runs once for all who ask at the same time. Its token is kept until it ends, or is refused. */
export interface TokenProgram {
  readonly token: () => Promise<string>;
  /** Whether there is a token from before. */
  readonly keeps: () => boolean;
  /** After a refusal: it is asked again. */
  readonly forget: () => void;
}

export interface Surroundings {
  readonly clock: Clock;
  readonly environment: NodeJS.ProcessEnv;
  /** Of the service account that Kubernetes puts into pods. */
  readonly accountFolder?: string;
  /** Default 16. */
  readonly connectionsMax?: number;
}

type Fields = Readonly<Record<string, unknown>>;

const ACCOUNT_FOLDER = '/var/run/secrets/kubernetes.io/serviceaccount';
const EXEC_TIMEOUT_MS = 60_000;
/** A token is renewed this long before it ends. */
const RENEW_MS = 60_000;
const EXEC_VERSIONS = ['client.authentication.k8s.io/v1', 'client.authentication.k8s.io/v1beta1'];

/** Whether this program runs in a pod. */
export function isInCluster({ KUBERNETES_SERVICE_HOST: host }: NodeJS.ProcessEnv): boolean {
  return host !== undefined && host !== '';
}

/** Rejects with `CREDENTIALS_MISSING` when nothing says where the cluster is, `CONFIG_INVALID` for what cannot be used. */
export async function clusterAccess(options: ClusterOptions, surroundings: Surroundings): Promise<ClusterAccess> {
  const { environment } = surroundings;
  const named = options.kubeconfig ?? environment['KUBECONFIG'];
  if (!named && isInCluster(environment)) return inCluster(options, surroundings);
  const files = named ? named.split(delimiter).filter((file) => file !== '') : [join(environment['HOME'] ?? homedir(), '.kube', 'config')];
  const configs = (await Promise.all(files.map(readConfig))).filter((config) => config !== undefined);
  if (configs.length === 0)
    throw missing(`there is no kubeconfig at ${files.join(', ')}: name it in KUBECONFIG, or as the option kubeconfig`);
  return accessOf(configs, options, surroundings);
}

async function inCluster(
  { namespace }: ClusterOptions,
  { environment, accountFolder = ACCOUNT_FOLDER }: Surroundings,
): Promise<ClusterAccess> {
  const { KUBERNETES_SERVICE_HOST: host = '', KUBERNETES_SERVICE_PORT: port = '443' } = environment;
  const own = await readFile(join(accountFolder, 'namespace'), 'utf8').catch(() => {
    throw missing(`this pod has no service account at ${accountFolder}`);
  });
  return {
    server: `https://${host.includes(':') ? `[${host}]` : host}:${port}`,
    tls: { caFile: join(accountFolder, 'ca.crt') },
    // The kubelet renews it.
    bearer: `file:${join(accountFolder, 'token')}`,
    namespace: namespace ?? own.trim(),
  };
}

interface Config {
  readonly fields: Fields;
  /** Paths in it are relative to it. */
  readonly folder: string;
}

async function readConfig(file: string): Promise<Config | undefined> {
  const text = await readFile(file, 'utf8').catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === 'ENOENT') return undefined;
    throw new RunnerError('CONFIG_INVALID', `the kubeconfig ${file} cannot be read: ${cause.message}`, { cause });
  });
  if (text === undefined) return undefined;
  const fields = fieldsIn(parseYaml(text, file));
  if (!fields) throw new RunnerError('CONFIG_INVALID', `the kubeconfig ${file} is no YAML object`);
  return { fields, folder: dirname(resolve(file)) };
}

function parseYaml(text: string, file: string): unknown {
  try {
    return parse(text) as unknown;
  } catch (cause) {
    // What the parser says may quote the file, which holds secrets.
    throw new RunnerError('CONFIG_INVALID', `the kubeconfig ${file} is no YAML`, {
      details: { file, cause: cause instanceof Error ? cause.name : '' },
    });
  }
}

function accessOf(configs: readonly Config[], options: ClusterOptions, surroundings: Surroundings): ClusterAccess {
  const current = options.context ?? configs.map(({ fields }) => textIn(fields, 'current-context')).find((each) => each);
  if (!current) throw missing('the kubeconfig has no current context: name one as the option context');
  const context = named(configs, 'contexts', current)?.entry;
  if (!context) throw missing(`the kubeconfig has no context ${current}`);
  const clusterName = textIn(context, 'cluster') ?? '';
  const cluster = named(configs, 'clusters', clusterName);
  const server = cluster && textIn(cluster.entry, 'server');
  if (!server) throw missing(`the context ${current} names the cluster ${JSON.stringify(clusterName)}, which the kubeconfig does not have`);
  if (cluster.entry['insecure-skip-tls-verify'] === true)
    throw invalid(
      `the cluster ${clusterName} is not to be verified (insecure-skip-tls-verify): give its certificate-authority-data instead`,
    );
  if (cluster.entry['proxy-url'] !== undefined)
    throw invalid(`the cluster ${clusterName} is behind a proxy (proxy-url), which is not supported`);
  const user = named(configs, 'users', textIn(context, 'user') ?? '');
  const bearer = user && bearerOf(user);
  const program = user && bearer === undefined ? programOf(user, { ...surroundings, server }) : undefined;
  return {
    server,
    tls: { ...authorityOf(cluster), ...(user && certificateOf(user)) },
    bearer: program?.token ?? bearer,
    program,
    namespace: options.namespace ?? textIn(context, 'namespace') ?? 'default',
  };
}

interface Named {
  readonly entry: Fields;
  readonly folder: string;
}

/** The first file that has it wins. */
function named(configs: readonly Config[], list: 'clusters' | 'contexts' | 'users', name: string): Named | undefined {
  for (const { fields, folder } of configs) {
    const entries: unknown = fields[list];
    const found = (Array.isArray(entries) ? entries : []).map(fieldsIn).find((each) => each?.['name'] === name);
    const entry = fieldsIn(found?.[list.slice(0, -1)]);
    if (entry) return { entry, folder };
  }
  return undefined;
}

function authorityOf({ entry, folder }: Named): TlsFiles {
  const data = pemIn(entry, 'certificate-authority-data');
  const file = textIn(entry, 'certificate-authority');
  const serverName = textIn(entry, 'tls-server-name');
  return {
    ...(data !== undefined ? { ca: data } : file !== undefined && { caFile: resolve(folder, file) }),
    ...(serverName !== undefined && { serverName }),
  };
}

function certificateOf({ entry, folder }: Named): TlsFiles {
  const [cert, key] = [pemIn(entry, 'client-certificate-data'), pemIn(entry, 'client-key-data')];
  const [certFile, keyFile] = [textIn(entry, 'client-certificate'), textIn(entry, 'client-key')];
  return {
    ...(cert !== undefined ? { cert } : certFile !== undefined && { certFile: resolve(folder, certFile) }),
    ...(key !== undefined ? { key } : keyFile !== undefined && { keyFile: resolve(folder, keyFile) }),
  };
}

function bearerOf({ entry, folder }: Named): SecretReference | undefined {
  for (const gone of ['auth-provider', 'username', 'password'])
    if (entry[gone] !== undefined) throw invalid(`the kubeconfig uses ${gone}, which clusters no longer take: use exec`);
  const file = textIn(entry, 'tokenFile');
  if (file !== undefined) return `file:${resolve(folder, file)}`;
  const token = textIn(entry, 'token');
  return token === undefined ? undefined : () => token;
}

/** https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins */
function programOf({ entry, folder }: Named, surroundings: Surroundings & { readonly server: string }): TokenProgram | undefined {
  const exec = fieldsIn(entry['exec']);
  if (!exec) return undefined;
  const run = runOf(exec, folder, surroundings);
  let held: ReturnType<typeof run> | undefined;
  return {
    async token() {
      const kept = held;
      const given = await kept?.catch(() => undefined);
      if (given && surroundings.clock.now() < given.until) return given.token;
      // Who comes first runs it; those who waited with it wait for its token.
      held = held === undefined || held === kept ? run() : held;
      return (await held).token;
    },
    keeps: () => held !== undefined,
    forget: () => (held = undefined),
  };
}

function runOf(
  exec: Fields,
  folder: string,
  { environment, server }: Surroundings & { readonly server: string },
): () => Promise<{ readonly token: string; readonly until: number }> {
  const apiVersion = textIn(exec, 'apiVersion') ?? '';
  const command = textIn(exec, 'command') ?? '';
  if (!EXEC_VERSIONS.includes(apiVersion))
    throw invalid(`the kubeconfig runs ${command} in version ${apiVersion}; ${EXEC_VERSIONS.join(' and ')} are known`);
  const args = Array.isArray(exec['args']) ? exec['args'].map(String) : [];
  const variables = Array.isArray(exec['env'])
    ? exec['env'].map(fieldsIn).map((each) => [String(each?.['name']), String(each?.['value'])])
    : [];
  const info = {
    apiVersion,
    kind: 'ExecCredential',
    spec: { interactive: false, ...(exec['provideClusterInfo'] === true && { cluster: { server } }) },
  };
  return async () => {
    const env = { ...environment, ...Object.fromEntries(variables), KUBERNETES_EXEC_INFO: JSON.stringify(info) } as NodeJS.ProcessEnv;
    const { stdout } = await promisify(execFile)(command.includes('/') ? resolve(folder, command) : command, args, {
      env,
      timeout: EXEC_TIMEOUT_MS,
    }).catch((cause: Error & { stderr?: string }) => {
      throw missing(
        `the program ${command}, which gives the token of the cluster, failed: ${cause.stderr?.trim().split('\n')[0] || cause.message.split('\n')[0]}`,
      );
    });
    return tokenIn(stdout, command);
  };
}

function tokenIn(stdout: string, command: string): { readonly token: string; readonly until: number } {
  const status = fieldsIn(fieldsIn(parseYaml(stdout, `from ${command}`))?.['status']);
  const token = status && textIn(status, 'token');
  if (!token) throw missing(`the program ${command} gives no token; client certificates from programs are not supported`);
  const expires = Date.parse(textIn(status, 'expirationTimestamp') ?? '');
  return { token, until: Number.isNaN(expires) ? Number.POSITIVE_INFINITY : expires - RENEW_MS };
}

function fieldsIn(value: unknown): Fields | undefined {
  // An object of YAML or JSON has text keys.
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Fields) : undefined;
}

function textIn(fields: Fields, name: string): string | undefined {
  const value = fields[name];
  return typeof value === 'string' && value !== '' ? value : undefined;
}

function pemIn(fields: Fields, name: string): string | undefined {
  const data = textIn(fields, name);
  return data === undefined ? undefined : Buffer.from(data, 'base64').toString('utf8');
}

function missing(message: string): RunnerError {
  return new RunnerError('CREDENTIALS_MISSING', message);
}

function invalid(message: string): RunnerError {
  return new RunnerError('CONFIG_INVALID', message);
}
