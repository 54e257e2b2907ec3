import { chmodSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { InvalidArgumentError } from 'commander';
import type { Command } from 'commander';
import { RunnerError } from '../../errors.ts';
import { makeFolder } from '../../folder.ts';
import type { GatewayAuth } from '../../gateway/auth.ts';
import { SCOPES } from '../../gateway/http.ts';
import type { Scope } from '../../gateway/http.ts';
import { KeyFolder } from '../../gateway/keys.ts';
import type { ApiKey } from '../../gateway/keys.ts';
import { PROVIDERS } from '../../executor/limits.ts';
import type { Provider } from '../../executor/limits.ts';
import { findBackends } from '../backends.ts';
import { parseCount, parsePort } from '../calls.ts';
import { collectPluginOptions } from '../deployer-flags.ts';
import type { PluginOptions } from '../deployer-flags.ts';
import { baseFolder } from '../environment.ts';
import { LIMIT_VARIABLES, addLimits, limitsOf } from '../gateway-limits.ts';
import type { LimitFlags } from '../gateway-limits.ts';
import { logLevelOf } from '../log-level.ts';
import { JsonEvents, print, table, timeText, toJson } from '../output.ts';
import type { Cli, Io } from '../output.ts';
import { untilSignal } from '../signals.ts';
import { ownVersion } from '../version.ts';

export interface GatewayFlags extends LimitFlags {
  readonly host: string;
  readonly port: number;
  readonly backend: string;
  readonly backendOption?: PluginOptions;
  readonly dataDir?: string;
  readonly auth?: 'none' | 'keys';
  readonly token?: readonly string[];
  readonly tlsCert?: string;
  readonly tlsKey?: string;
  readonly clientCa?: string;
  readonly limits: Provider;
  readonly corsOrigin?: readonly string[];
  readonly rate?: number;
  readonly idlePollUs?: number;
  readonly json?: true;
}

const EXAMPLES = `
Examples:
  bpr gateway                                        functions of this machine at http://127.0.0.1:8080
  bpr gateway --backend process --port 9000          processes only
  bpr gateway keys create ci --scope invoke,functions:write --function 'job-*'
  bpr gateway --host 0.0.0.0 --auth keys --tls-cert cert.pem --tls-key key.pem
  bpr gateway --auth keys --token env:GATEWAY_TOKEN  a token that was made elsewhere, besides the keys

  curl -T handler.zip 'http://127.0.0.1:8080/api/v1/functions/hello?runtime=nodejs24.x&handler=index.handler'
  curl -d '{"name":"Ada"}' http://127.0.0.1:8080/api/v1/functions/hello/invoke
  curl -Nd '{"name":"Ada"}' http://127.0.0.1:8080/api/v1/functions/hello/stream

Backends: process; docker (Docker or podman); runc (as root, without a daemon); wasm (WebAssembly modules in threads: bpr wasm --help);
kubernetes (pods in the cluster of KUBECONFIG, which reach this machine at POD_IP or its first address). auto takes the first three, as far
as they work here; the first is the default of functions that name none. SIGTERM or SIGINT lets calls finish; a second one ends at once.
What was deployed stays.
Anything but a loopback address needs --auth keys, --token or --client-ca.
Environment: BPR_DATA_DIR; LOG_LEVEL (default warn; info writes a line for each request to stderr); for what no flag says,
${LIMIT_VARIABLES}.

Exit status: 0 ended by a signal; 1 it could not start; 2 called in a wrong way; 130 or 143 ended at once by a second signal.`;

const DRAIN_MS = 30_000;

/** `bpr gateway`: deploy, call and watch functions on this machine. */
export function addGateway(program: Command, cli: Cli): void {
  const { io } = cli;
  const gateway = program
    .command('gateway')
    .description('run functions on this machine, behind HTTP')
    .option('--backend <names>', 'auto, or of process, docker, runc, wasm, kubernetes, comma-separated', 'auto');
  addServing(gateway, 8080)
    .addHelpText('after', EXAMPLES)
    .action((flags: GatewayFlags) => serve(io, flags, 'gateway'));
  addKeys(gateway, cli);
}

/** The options of every command that serves functions. */
export function addServing(command: Command, port: number): Command {
  command
    .option('--host <address>', 'where to listen', '127.0.0.1')
    .option('--port <port>', '0: any free one', parsePort, port)
    .option(
      '--backend-option <backend.name=value>',
      'an option of a backend, such as kubernetes.address=10.0.0.7:9443; can be repeated',
      collectPluginOptions,
    )
    .option('--data-dir <dir>', 'functions, keys and sockets; a short path (default: BPR_DATA_DIR, or ~/.blueprint-runner)')
    .option('--auth <kind>', 'none, or keys: those of bpr gateway keys', parseAuth)
    .option('--token <reference>', 'a bearer token: env:NAME or file:/path; several by repeating', list)
    .option('--tls-cert <file>', 'certificate, PEM')
    .option('--tls-key <file>', 'its key, PEM')
    .option('--client-ca <file>', 'authority of client certificates, PEM: who has one may do everything')
    .option('--limits <provider>', `whose limits hold: ${PROVIDERS.join(', ')}`, parseProvider, 'aws')
    .option('--cors-origin <origin>', 'pages that may use the gateway; several by repeating', list)
    .option('--rate <count>', 'requests per second of each caller', parseCount)
    .option(
      '--idle-poll-us <us>',
      'how long it looks for the next request before it sleeps, while they come quickly; 0: not at all (default: 200; 0 with one processor)',
      parseIdlePoll,
    )
    .addOption(new JsonEvents('print one JSON line when it listens'));
  addLimits(command);
  return command;
}

/** Serves until a signal; functions lie in the folder of that name below the data directory. */
export async function serve(io: Io, flags: GatewayFlags, name: 'gateway' | 'wasm'): Promise<void> {
  const limits = limitsOf(io, flags);
  const folder = folderOf(io, flags, name);
  const [{ Gateway }, { createMetrics }, { createLogger }] = await Promise.all([
    import('../../gateway/gateway.ts'),
    import('../../telemetry/prometheus.ts'),
    import('../../telemetry/pino.ts'),
  ]);
  const metrics = createMetrics();
  const telemetry = { log: await createLogger({ level: logLevelOf(io) }), metrics, startSpan: undefined };
  const found = await findBackends(flags.backend, { folder: join(folder, 'b'), options: flags.backendOption, telemetry });
  const auth = authOf(io, flags);
  const gateway = new Gateway({
    folder,
    backends: found.backends,
    provider: flags.limits,
    runtime: { limits },
    ...(auth && { auth }),
    ...(flags.corsOrigin && { corsOrigins: flags.corsOrigin }),
    ...(flags.idlePollUs !== undefined && { idlePollUs: flags.idlePollUs }),
    ...(flags.rate !== undefined && { limits: { requestsPerSecond: flags.rate, burst: flags.rate } }),
    telemetry,
    metrics: () => metrics.expose(),
    version: ownVersion(),
  });
  const stopped = untilSignal();
  const tls = tlsOf(flags);
  const url = await gateway.listen({ host: flags.host, port: flags.port, ...(tls && { tls }) });
  const backends = [...found.backends.keys()];
  if (flags.json) io.stdout.write(`${toJson({ event: 'listening', url, backends, missing: found.missing, folder }, 0)}\n`);
  else io.stdout.write(`${welcome({ url, backends, missing: found.missing, folder, hasAuth: auth !== undefined })}\n`);
  await stopped;
  await gateway.close(DRAIN_MS);
}

function parseIdlePoll(text: string): number {
  if (/^\d{1,3}$|^1000$/.test(text)) return Number(text);
  throw new InvalidArgumentError('It must be a number of microseconds from 0 to 1000.');
}

const list = (value: string, before: readonly string[] = []): readonly string[] => [...before, value];

function folderOf(io: Io, { dataDir }: { readonly dataDir?: string }, name: string): string {
  const folder = join(dataDir === undefined ? baseFolder(io) : resolve(io.cwd, dataDir), name);
  // Users of instances pass through it to what is theirs.
  makeFolder(folder, 0o711);
  chmodSync(folder, 0o711);
  return folder;
}

function authOf(io: Io, flags: GatewayFlags): GatewayAuth | undefined {
  const tokens = (flags.token ?? []).map((reference, index) => ({ name: `token-${index + 1}`, token: secretOf(io, reference) }));
  if (flags.auth === 'none' && (tokens.length > 0 || flags.clientCa))
    throw new RunnerError('CONFIG_INVALID', '--auth none contradicts --token and --client-ca');
  const keys = flags.auth === 'keys' ? new KeyFolder({ folder: keysFolder(io, flags) }) : undefined;
  if (!keys && tokens.length === 0 && flags.clientCa === undefined) return undefined;
  return { ...(keys && { keys }), tokens, ...(flags.clientCa !== undefined && { certificates: {} }) };
}

const keysFolder = (io: Io, flags: { readonly dataDir?: string }): string => join(folderOf(io, flags, 'gateway'), 'keys');

function secretOf(io: Io, reference: string): string {
  const [, kind, name = ''] = /^(env|file):(.+)$/.exec(reference) ?? [];
  if (kind === undefined) throw new RunnerError('CONFIG_INVALID', 'a token is given as env:NAME or file:/path, never itself');
  const value = kind === 'env' ? io.env[name] : readPem(name).trim();
  if (value === undefined || value === '') throw new RunnerError('CONFIG_INVALID', `${reference} is empty or not set`);
  return value;
}

function tlsOf({ tlsCert, tlsKey, clientCa }: GatewayFlags): { cert: string; key: string; ca?: string } | undefined {
  if (tlsCert === undefined && tlsKey === undefined) {
    if (clientCa !== undefined) throw new RunnerError('CONFIG_INVALID', '--client-ca needs --tls-cert and --tls-key');
    return undefined;
  }
  if (tlsCert === undefined || tlsKey === undefined) throw new RunnerError('CONFIG_INVALID', '--tls-cert and --tls-key belong together');
  return { cert: readPem(tlsCert), key: readPem(tlsKey), ...(clientCa !== undefined && { ca: readPem(clientCa) }) };
}

function readPem(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    throw new RunnerError('CONFIG_INVALID', `${path} cannot be read`, { cause });
  }
}

interface Welcome {
  readonly url: string;
  readonly backends: readonly string[];
  readonly missing: Readonly<Record<string, string>>;
  readonly folder: string;
  readonly hasAuth: boolean;
}

function welcome({ url, backends, missing, folder, hasAuth }: Welcome): string {
  return [
    `gateway   ${url}`,
    `backends  ${backends.join(', ')} (default: ${backends[0] ?? ''})`,
    ...Object.entries(missing).map(([name, reason]) => `          no ${name}: ${reason.split('\n', 1)[0] ?? ''}`),
    `data      ${folder}`,
    hasAuth
      ? 'keys      bpr gateway keys create <name> --scope invoke'
      : 'keys      none are asked for: everybody on this machine may deploy and call',
  ].join('\n');
}

interface KeyFlags {
  readonly dataDir?: string;
  readonly scope: readonly Scope[];
  readonly function?: readonly string[];
  readonly days?: number;
  readonly aws?: true;
  readonly json?: true;
}

const KEYS_EXAMPLES = `
Examples:
  bpr gateway keys create ci --scope invoke,functions:write   prints the key, once
  bpr gateway keys create app --scope invoke --function 'job-*' --days 30
  bpr gateway keys create deploy --scope admin --aws          also a key pair for the AWS command line and SDKs
  bpr gateway keys list
  bpr gateway keys revoke 0123456789abcdef                    a running gateway notices within a second

Scopes: ${SCOPES.join(', ')}; admin includes the others. Only hashes are kept, but for the secrets of AWS key pairs.

Exit status: 0 done; 1 there is no such key, or the keys cannot be read; 2 called in a wrong way.`;

function addKeys(gateway: Command, cli: Cli): void {
  const { io } = cli;
  const keys = gateway.command('keys').description('API keys of the gateway').addHelpText('after', KEYS_EXAMPLES);
  const folder = (flags: { readonly dataDir?: string }): KeyFolder => new KeyFolder({ folder: keysFolder(io, flags) });
  // Flags that `gateway` has too are taken by it.
  const flagsOf = (command: Command): KeyFlags => command.optsWithGlobals();
  const dataDir = ['--data-dir <dir>', 'that of the gateway'] as const;
  keys
    .command('create')
    .description('make a key')
    .argument('<name>', 'what it is for')
    .requiredOption('--scope <scopes>', `comma-separated: ${SCOPES.join(', ')}`, parseScopes)
    .option('--function <pattern>', 'only these functions; * stands for any text; several by repeating', list)
    .option('--days <count>', 'until it expires (default: never)', parseCount)
    .option('--aws', 'make a key pair for AWS clients as well')
    .option(...dataDir)
    .option('--json', 'print one JSON document')
    .addHelpText('after', KEYS_EXAMPLES)
    .action((name: string, _: unknown, command: Command) => {
      const flags = flagsOf(command);
      const expiresAt = flags.days === undefined ? undefined : Date.now() + flags.days * 86_400_000;
      const { key, secret, secretAccessKey } = folder(flags).create({
        name,
        scopes: flags.scope,
        ...(flags.function && { functions: flags.function }),
        ...(expiresAt !== undefined && { expiresAt }),
        ...(flags.aws && { signing: true }),
      });
      const pair =
        secretAccessKey === undefined ? [] : [`AWS_ACCESS_KEY_ID=${key.accessKeyId ?? ''}`, `AWS_SECRET_ACCESS_KEY=${secretAccessKey}`];
      print(io, flags.json, {
        document: { ...key, key: secret, secretAccessKey },
        text: [`key ${key.id}: shown only now`, secret, ...pair].join('\n'),
      });
    });
  keys
    .command('list')
    .description('list keys, without their secrets')
    .option(...dataDir)
    .option('--json', 'print one JSON document')
    .addHelpText('after', KEYS_EXAMPLES)
    .action((_: unknown, command: Command) => {
      const flags = flagsOf(command);
      const all = folder(flags).list();
      print(io, flags.json, {
        document: { keys: all },
        text: all.length === 0 ? 'no keys' : table([['id', 'name', 'scopes', 'functions', 'created', 'expires'], ...all.map(keyRow)]),
      });
    });
  keys
    .command('revoke')
    .description('make a key useless')
    .argument('<id>', 'as the list shows it')
    .option(...dataDir)
    .option('--json', 'print one JSON document')
    .addHelpText('after', KEYS_EXAMPLES)
    .action((id: string, _: unknown, command: Command) => {
      const flags = flagsOf(command);
      if (!folder(flags).revoke(id)) throw new RunnerError('NOT_FOUND', `there is no key ${id}`, { details: { id } });
      print(io, flags.json, { document: { revoked: id }, text: `revoked ${id}` });
    });
}

function keyRow({ id, name, scopes, functions, createdAt, expiresAt }: ApiKey): string[] {
  return [id, name, scopes.join(','), functions.join(','), timeText(createdAt), expiresAt === undefined ? 'never' : timeText(expiresAt)];
}

function parseScopes(text: string): readonly Scope[] {
  return text.split(',').map((part) => {
    const found = SCOPES.find((scope) => scope === part.trim());
    if (found === undefined) throw new InvalidArgumentError(`${part} is not one of ${SCOPES.join(', ')}.`);
    return found;
  });
}

function parseAuth(text: string): 'none' | 'keys' {
  if (text === 'none' || text === 'keys') return text;
  throw new InvalidArgumentError('It must be none or keys.');
}

function parseProvider(text: string): Provider {
  const found = PROVIDERS.find((provider) => provider === text);
  if (found === undefined) throw new InvalidArgumentError(`It must be one of ${PROVIDERS.join(', ')}.`);
  return found;
}
