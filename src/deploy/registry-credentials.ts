/** Who pushes to a registry: what `docker login` has written, or a helper that it names. */

import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { RunnerError } from '../errors.ts';
import type { Environment } from './policy-file.ts';

interface Credentials {
  readonly username: string;
  readonly password: string;
}

interface DockerConfig {
  readonly auths?: Readonly<Record<string, { readonly auth?: string; readonly username?: string; readonly password?: string }>>;
  readonly credsStore?: string;
  readonly credHelpers?: Readonly<Record<string, string>>;
}

const HELPER_MS_MAX = 30_000;
/** What Docker calls its own registry in this file. */
const DOCKER_HUB = 'https://index.docker.io/v1/';

/**
 * Of `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`; undefined when nothing is known of this registry. ECR is there after
 * `aws ecr get-login-password | docker login --username AWS --password-stdin HOST`, or by the helper `ecr-login`.
 *
 * Rejects with `CONFIG_INVALID` for a file that is no JSON, and for a helper that fails.
 */
export async function dockerCredentials(registry: string, env: Environment, home: string): Promise<Credentials | undefined> {
  const path = join(env['DOCKER_CONFIG'] ?? join(home, '.docker'), 'config.json');
  const config = await readConfig(path);
  const key = registry === 'docker.io' ? DOCKER_HUB : registry;
  const helper = config.credHelpers?.[key];
  if (helper !== undefined) return askHelper(helper, key, env);
  const found = config.auths?.[key] ?? config.auths?.[`https://${key}`] ?? config.auths?.[`https://${key}/v2/`];
  const stored = found && credentialsIn(found);
  if (stored) return stored;
  return config.credsStore === undefined ? undefined : askHelper(config.credsStore, key, env);
}

function credentialsIn({ auth, username, password }: NonNullable<DockerConfig['auths']>[string]): Credentials | undefined {
  if (username !== undefined && password !== undefined) return { username, password };
  const pair = Buffer.from(auth ?? '', 'base64').toString('utf8');
  const colon = pair.indexOf(':');
  return colon < 1 ? undefined : { username: pair.slice(0, colon), password: pair.slice(colon + 1) };
}

async function readConfig(path: string): Promise<DockerConfig> {
  const content = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return '{}';
    throw new RunnerError('CONFIG_INVALID', `${path} cannot be read: ${error.code}`, { cause: error, details: { path } });
  });
  try {
    const parsed: unknown = JSON.parse(content);
    // Each field is looked at where it is used.
    if (typeof parsed === 'object' && parsed !== null) return parsed;
  } catch {
    // The text may hold a secret: it is not repeated.
  }
  throw new RunnerError('CONFIG_INVALID', `${path} is not a JSON object`, { details: { path } });
}

/** https://github.com/docker/docker-credential-helpers: the registry on standard input, a JSON object on standard output. */
async function askHelper(name: string, registry: string, env: Environment): Promise<Credentials | undefined> {
  if (!/^[\w.-]+$/.test(name)) throw new RunnerError('CONFIG_INVALID', `${JSON.stringify(name)} is not the name of a credential helper`);
  const program = `docker-credential-${name}`;
  const answer = await new Promise<{ readonly error: Error | null; readonly stdout: string }>((resolve) => {
    const child = execFile(program, ['get'], { env, timeout: HELPER_MS_MAX }, (error, stdout) => resolve({ error, stdout }));
    // A helper that is not there takes nothing.
    child.stdin?.on('error', () => {}).end(registry);
  });
  if (/credentials not found/i.test(answer.stdout)) return undefined;
  if (answer.error)
    throw new RunnerError('CONFIG_INVALID', `${program} gives no credentials for ${registry}`, { details: { program, registry } });
  const { Username, Secret } = JSON.parse(answer.stdout) as { Username?: string; Secret?: string };
  if (Username === '<token>')
    throw new RunnerError('CONFIG_INVALID', `${program} has an identity token for ${registry}; only names with passwords are taken`);
  return Username === undefined || Secret === undefined ? undefined : { username: Username, password: Secret };
}
