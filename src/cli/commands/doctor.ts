import { accessSync, constants, existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { Command } from 'commander';
import { ERROR_TEXTS } from '../../error-texts.ts';
import type { RunnerError } from '../../errors.ts';
import { toRunnerError } from '../../errors.ts';
import { redactText, redactUrl } from '../../telemetry/redact.ts';
import { BACKENDS, lookFor } from '../backends.ts';
import { chainIsNamed, dataDirOf, ledgerFileOf, settingsOf } from '../environment.ts';
import { print, progress, table } from '../output.ts';
import type { Cli, Io } from '../output.ts';
import type { Check } from './doctor-check.ts';
import type { ProductionFlags } from './doctor-production.ts';

interface DoctorFlags extends ProductionFlags {
  readonly production?: true;
  readonly json?: true;
}

/** Packages that some commands need, and what for. */
const OPTIONAL_PEERS: Readonly<Record<string, string>> = {
  assemblyscript: 'bpr wasm build',
  esbuild: 'bpr build',
  '@foundry-rs/anvil': 'bpr dev or blueprint-runner/testing',
  '@opentelemetry/api': 'traces',
};
const NODE_NEEDED = [22, 19] as const;
const PUSH_MS = 10_000;

const EXAMPLES = `
Examples:
  bpr doctor                                check what is configured in the environment
  bpr doctor --rpc-url http://127.0.0.1:8545 --contract 0x8299d60f373f3a4a8c4878e335cb9d840e6e3730
  bpr doctor --production --prometheus http://127.0.0.1:9090 --backups /var/backups/bpr
  bpr doctor --json                         the checks as JSON; the exit status is 1 when one fails

--production is the list to go through before others depend on it, on the machine of the control plane: disk, file modes, backups, clock,
limits of the system, containers, TLS, authentication, tickets, metrics, alerts, workers and their versions, dead letters, objects, chain.
Each line says what was looked at, what was found, and what to do.

Exit status: 0 nothing fails (there can be warnings); 1 a check fails; 2 called in a wrong way.
Environment: HTTP_RPC_URL or RPC_URL, WS_RPC_URL, TANGLE_CONTRACT, CHAIN_ID, BPR_DATA_DIR.`;

/** `bpr doctor`: is everything there that a runner needs, and what to do when not. */
export function addDoctor(program: Command, cli: Cli): void {
  program
    .command('doctor')
    .description('check this machine: node, packages, plugins, backends, chain, ledger')
    .option('--rpc-url <url>', 'JSON-RPC endpoint of the chain')
    .option('--contract <address>', 'address of the Tangle contract')
    .option('--data-dir <dir>', 'where the runner keeps its data')
    .option('--ledger <file>', 'the ledger, when it is not in the data directory')
    .option('--production', 'the checklist of a machine that others depend on')
    .option(
      '--control <dir>',
      'with --production: folder of the control plane (default: BPR_DATA_DIR/control, or ~/.blueprint-runner/control)',
    )
    .option('--alerts <file>', 'with --production: rule file of Prometheus')
    .option('--prometheus <url>', 'with --production: Prometheus itself, asked for its rules')
    .option('--backups <dir>', 'with --production: where backups are')
    .option('--json', 'print one JSON document')
    .addHelpText('after', EXAMPLES)
    .action(async (flags: DoctorFlags) => {
      progress(cli.io, 'checking ...');
      const checks = flags.production ? await productionChecks(cli.io, flags) : await machineChecks(cli.io, flags);
      const ok = checks.every(({ status }) => status !== 'fail');
      if (!ok) cli.exitCode = 1;
      print(cli.io, flags.json, { document: { ok, checks }, text: explain(checks) });
    });
}

async function machineChecks(io: Io, flags: DoctorFlags): Promise<Check[]> {
  return [
    checkNode(process.versions.node),
    ...(await checkPeers()),
    ...(await checkPlugins()),
    ...(await checkBackends()),
    checkDataDir(dataDirOf(io, flags)),
    await checkLedger(ledgerFileOf(io, flags)),
    ...(await checkChain(io, flags)),
  ];
}

async function productionChecks(io: Io, flags: DoctorFlags): Promise<Check[]> {
  const { checkProduction } = await import('./doctor-production.ts');
  return [
    checkNode(process.versions.node),
    checkDataDir(dataDirOf(io, flags)),
    await checkLedger(ledgerFileOf(io, flags)),
    ...(await checkProduction(io, flags, Date.now())),
    ...(await checkChain(io, flags)),
  ];
}

function explain(checks: readonly Check[]): string {
  const remedies = checks.flatMap(({ name, remedy }) => (remedy === undefined ? [] : [`${name}: ${remedy}`]));
  const rows = checks.map(({ status, name, source, detail }) => [status, name, source === undefined ? detail : `${detail}  [${source}]`]);
  return [table(rows), ...(remedies.length > 0 ? ['', ...remedies] : [])].join('\n');
}

/** Exported for its test: this process has only one version. */
export function checkNode(version: string): Check {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  const enough = major > NODE_NEEDED[0] || (major === NODE_NEEDED[0] && minor >= NODE_NEEDED[1]);
  if (enough) return { name: 'node', status: 'ok', detail: version };
  return { name: 'node', status: 'fail', detail: version, remedy: `install Node.js ${NODE_NEEDED.join('.')} or newer` };
}

async function checkPeers(): Promise<Check[]> {
  const { installedVersion } = await import('../../plugin/peer.ts');
  return Object.entries(OPTIONAL_PEERS).map(([name, use]) => {
    const version = installedVersion(name);
    if (version !== undefined) return { name: `package ${name}`, status: 'ok', detail: version };
    return { name: `package ${name}`, status: 'warn', detail: 'not installed', remedy: `npm install ${name} when you use ${use}` };
  });
}

async function checkPlugins(): Promise<Check[]> {
  const [{ createPluginRegistry }, { systemClock }, { silentTelemetry }] = await Promise.all([
    import('../../plugin/registry.ts'),
    import('../../clock.ts'),
    import('../../telemetry/telemetry.ts'),
  ]);
  const plugins = await createPluginRegistry({ clock: systemClock, telemetry: silentTelemetry }).describe();
  return plugins.map(({ name: plugin, kinds, peers, problem }) => {
    const name = `plugin ${plugin}`;
    if (problem !== undefined) return { name, status: 'fail', detail: redactText(problem), remedy: 'install blueprint-runner again' };
    const missing = peers.filter(({ installed }) => installed === undefined).map((peer) => peer.name);
    if (missing.length === 0) return { name, status: 'ok', detail: kinds.join(', ') };
    const remedy = `npm install ${missing.join(' ')} when you use the plugin`;
    return { name, status: 'warn', detail: `${kinds.join(', ')}; not installed: ${missing.join(', ')}`, remedy };
  });
}

/** What functions can run on, and why not on the others. */
async function checkBackends(): Promise<Check[]> {
  const folder = mkdtempSync(join(tmpdir(), 'bpr-doctor-'));
  try {
    const { backends, missing } = await lookFor(BACKENDS, { folder });
    for (const backend of backends.values()) await backend.close?.();
    return BACKENDS.map((backend) => {
      const [name, reason] = [`backend ${backend}`, missing[backend]];
      if (reason === undefined) return { name, status: 'ok', detail: 'functions can run on it' };
      return { name, status: 'warn', detail: redactText(reason), remedy: 'needed only when functions are to run on it' };
    });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** A directory that is not there yet is made by the runner: its parent must allow that. */
function checkDataDir(dataDir: string): Check {
  let existing = dataDir;
  while (!existsSync(existing)) existing = dirname(existing);
  try {
    accessSync(existing, constants.W_OK | constants.X_OK);
    if (!statSync(existing).isDirectory()) throw new Error(`${existing} is not a directory`);
  } catch (cause) {
    const detail = cause instanceof Error ? cause.message : String(cause);
    return {
      name: 'data directory',
      status: 'fail',
      detail,
      remedy: 'name a directory that can be written, with BPR_DATA_DIR or --data-dir',
    };
  }
  return { name: 'data directory', status: 'ok', detail: existing === dataDir ? dataDir : `${dataDir} (will be made)` };
}

async function checkLedger(file: string): Promise<Check> {
  const name = 'ledger';
  if (!existsSync(file)) return { name, status: 'ok', detail: `${file} (will be made)` };
  try {
    const { SqliteLedger } = await import('../../ledger/sqlite.ts');
    const ledger = SqliteLedger.open({ path: file, readonly: true });
    try {
      const { byState, transactionsPending } = ledger.stats();
      const calls = Object.values(byState).reduce((sum, count) => sum + count, 0);
      return { name, status: 'ok', detail: `${file}: ${calls} calls, ${transactionsPending} transactions pending` };
    } finally {
      await ledger.close();
    }
  } catch (thrown) {
    return failed(name, thrown);
  }
}

async function checkChain(io: Io, flags: DoctorFlags): Promise<Check[]> {
  if (!chainIsNamed(io, flags)) {
    return [
      { name: 'chain', status: 'warn', detail: 'not configured', remedy: 'set HTTP_RPC_URL and TANGLE_CONTRACT to settle on a chain' },
    ];
  }
  try {
    const { rpcUrls, wsUrl, contract, chainId: named } = settingsOf(io, flags);
    const answers = await Promise.all(rpcUrls.map(async (url) => ({ url, answer: await chainIdAt(url) })));
    const served = answers.map(({ answer }) => answer).find((answer) => typeof answer === 'number');
    const expected = named ?? served;
    const checks = answers.map(({ url, answer }) =>
      endpointCheck({ url: redactUrl(url), answer, expected, isAlone: served === undefined }),
    );
    if (served === undefined || expected === undefined) return checks;
    if (wsUrl !== undefined) checks.push(await checkPush(wsUrl, expected));
    const code = contract && (await requested(rpcUrls, 'eth_getCode', [contract, 'latest']));
    return [...checks, contractCheck(contract, code)];
  } catch (thrown) {
    return [failed('chain', thrown)];
  }
}

async function requested(urls: readonly string[], method: string, params: readonly unknown[]): Promise<unknown> {
  const { createRpcTransport } = await import('../../chain/transport.ts');
  const transport = createRpcTransport({ urls });
  try {
    return await transport.request(method, params);
  } finally {
    await transport.close();
  }
}

async function chainIdAt(url: string): Promise<number | RunnerError> {
  try {
    const { checkChainId } = await import('../../chain/rpc-answers.ts');
    return checkChainId(await requested([url], 'eth_chainId', []), undefined);
  } catch (thrown) {
    return toRunnerError(thrown);
  }
}

function endpointCheck(endpoint: {
  readonly url: string;
  readonly answer: number | RunnerError;
  readonly expected: number | undefined;
  /** No other endpoint stands in for it. */
  readonly isAlone: boolean;
}): Check {
  const { url, answer, expected, isAlone } = endpoint;
  const name = 'chain';
  if (typeof answer !== 'number') return { ...failed(name, answer), ...(!isAlone && { status: 'warn' }) };
  const detail = `chain ${answer} at ${url}`;
  if (expected === answer) return { name, status: 'ok', detail };
  return { name, status: 'fail', detail: `${detail}, but the chain is ${expected}`, remedy: ERROR_TEXTS.CHAIN_MISMATCH.remedy };
}

/** As a runner subscribes. Without it new blocks are polled. */
async function checkPush(url: string, chainId: number): Promise<Check> {
  const [{ HeadPush }, { systemClock }] = await Promise.all([import('../../chain/push.ts'), import('../../clock.ts')]);
  const { promise, resolve } = Promise.withResolvers<string | undefined>();
  const onState = (connected: boolean, reason?: string): void => resolve(connected ? undefined : reason);
  const push = new HeadPush({ url, chainId, clock: systemClock, onHead: () => {}, onState });
  const cancel = systemClock.after(PUSH_MS, () => resolve(`no subscription within ${PUSH_MS / 1000} s`));
  try {
    push.start();
    const reason = await promise;
    const [name, detail] = ['pushed blocks', redactUrl(url)];
    if (reason === undefined) return { name, status: 'ok', detail };
    const remedy = 'correct WS_RPC_URL, or leave it away: until then new blocks are polled';
    return { name, status: 'warn', detail: `${detail}: ${redactText(reason)}`, remedy };
  } finally {
    cancel();
    push.close();
  }
}

function contractCheck(contract: string | undefined, code: unknown): Check {
  const name = 'contract';
  if (contract === undefined) return { name, status: 'warn', detail: 'not configured', remedy: 'set TANGLE_CONTRACT' };
  if (typeof code === 'string' && code.length > 2)
    return { name, status: 'ok', detail: `${contract}, ${code.length / 2 - 1} bytes of code` };
  return { name, status: 'fail', detail: `there is no contract at ${contract}`, remedy: ERROR_TEXTS.CONTRACT_MISSING.remedy };
}

function failed(name: string, thrown: unknown): Check {
  const { code, message } = toRunnerError(thrown);
  return { name, status: 'fail', detail: `${code}: ${redactText(message)}`, remedy: ERROR_TEXTS[code].remedy };
}
