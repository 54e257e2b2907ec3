import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { mkdtempSync, rmSync, watch } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import type { Command } from 'commander';
import { RunnerError } from '../../errors.ts';
import type { JobRouter } from '../../job/router.ts';
import type { LocalService, LocalTangle } from '../../testing/tangle.ts';
import type { LocalChain } from '../../testing/local-chain.ts';
import { loadModule } from '../author-module.ts';
import { parseNumber } from '../calls.ts';
import type { Cli, Io } from '../output.ts';

interface DevFlags {
  readonly port: number;
  readonly json?: true;
}

const EXAMPLES = `
Examples:
  bpr dev src/jobs.ts              a local chain, a service with these jobs, and a runner; it restarts when a file changes
  bpr dev src/jobs.ts --port 8545  the chain at a fixed port
  bpr dev src/jobs.ts --json       one JSON line for each event: ready, reload, and each step of a call

It prints the command that submits a call. Nothing is kept after Ctrl-C. Needs the package @foundry-rs/anvil.`;

const DEBOUNCE_MS = 50;
const FLUSH_MS = 1_000;
const IGNORED = /(?:^|[\\/])(?:node_modules|\.git|build|dist)(?:[\\/]|$)/;

/** `bpr dev`: everything that a blueprint needs, on this machine, while its jobs are being written. */
export function addDev(program: Command, { io }: Cli): void {
  program
    .command('dev')
    .description('local chain, service and runner that restarts when a file changes')
    .argument('<entry>', 'module that exports the job router')
    .option('--port <port>', 'of the chain; 0: any free one', parseNumber, 0)
    .option('--json', 'print one JSON line for each event')
    .addHelpText('after', EXAMPLES)
    .action(async (entry: string, flags: DevFlags) => {
      const { router } = await loadModule(resolve(io.cwd, entry));
      if (!router) throw new RunnerError('CONFIG_INVALID', `${entry} exports no JobRouter`);
      const jobs = chainJobs(router);
      if (jobs.length === 0) throw new RunnerError('CONFIG_INVALID', `${entry} routes no job that a chain can call: ids are 0 to 255`);
      const [{ startLocalChain }, { deployTangle }] = await Promise.all([
        import('../../testing/local-chain.ts'),
        import('../../testing/tangle.ts'),
      ]);
      const dataDir = mkdtempSync(join(tmpdir(), 'bpr-dev-'));
      const chain = await startLocalChain({ port: flags.port });
      try {
        const tangle = await deployTangle(chain);
        const service = await tangle.startService({ jobs });
        await serve({ io, entry: resolve(io.cwd, entry), json: flags.json === true, chain, tangle, service, dataDir });
      } finally {
        await chain.stop();
        rmSync(dataDir, { recursive: true, force: true });
      }
    });
}

/** A job of the blueprint for each index up to the last one: a chain counts them. */
function chainJobs(router: JobRouter): { readonly name: string }[] {
  const names: string[] = [];
  for (const { id, name } of router.describe()) if (BigInt(id) <= 255n) names[Number(id)] = name;
  return Array.from(names, (name, index) => ({ name: name ?? `job${index}` }));
}

interface Surroundings {
  readonly io: Io;
  readonly entry: string;
  readonly json: boolean;
  readonly chain: LocalChain;
  readonly tangle: LocalTangle;
  readonly service: LocalService;
  readonly dataDir: string;
}

/** Until a signal comes. */
async function serve(around: Surroundings): Promise<void> {
  const { entry, io, json, chain, tangle, service } = around;
  const ended = Promise.withResolvers<void>();
  let runner = startRunner(around);
  let timer: NodeJS.Timeout | undefined;
  let stopped = false;
  let turn = Promise.resolve();
  // The ledger survives a kill at any point: a restart need not wait for what runs.
  const reload = (): void => {
    turn = turn.then(async () => {
      await end(runner);
      if (stopped) return;
      runner = startRunner(around);
      say(io, json, { event: 'reload' });
    });
  };
  const watcher = watch(dirname(entry), { recursive: true }, (_, file) => {
    if (file === null || IGNORED.test(file)) return;
    clearTimeout(timer);
    timer = setTimeout(reload, DEBOUNCE_MS);
  });
  const stop = (): void => ended.resolve();
  process.on('SIGINT', stop).on('SIGTERM', stop);
  const [caller] = chain.accounts;
  const submit = `CALLER_PRIVATE_KEY=${caller?.privateKey} bpr jobs submit 0 --service ${service.serviceId} --rpc-url ${chain.rpcUrl} --contract ${tangle.contract} --data 0x`;
  // The key is one that every local chain has.
  say(io, json, { event: 'ready', rpcUrl: chain.rpcUrl, contract: tangle.contract, serviceId: String(service.serviceId), submit });
  try {
    await ended.promise;
  } finally {
    process.off('SIGINT', stop).off('SIGTERM', stop);
    clearTimeout(timer);
    watcher.close();
    stopped = true;
    await turn;
    await end(runner);
  }
}

async function end(runner: ChildProcess): Promise<void> {
  if (runner.exitCode !== null || runner.signalCode !== null) return;
  const closed = new Promise((settle) => runner.once('close', settle));
  runner.kill('SIGKILL');
  await closed;
}

function startRunner({ io, entry, json, chain, tangle, service, dataDir }: Surroundings): ChildProcess {
  const main = new URL(`../main${import.meta.url.endsWith('.ts') ? '.ts' : '.js'}`, import.meta.url).href;
  // What is killed does not write its compile cache: it does so once it runs.
  const script = `import { flushCompileCache } from 'node:module';
import { main } from ${JSON.stringify(main)};
setTimeout(flushCompileCache, ${FLUSH_MS}).unref();
process.exitCode = await main(process.argv.slice(1));`;
  const env = {
    ...io.env,
    HTTP_RPC_URL: chain.rpcUrl,
    WS_RPC_URL: chain.wsUrl,
    TANGLE_CONTRACT: tangle.contract,
    CHAIN_ID: String(chain.chainId),
    SERVICE_ID: String(service.serviceId),
    OPERATOR_PRIVATE_KEY: service.operators[0]?.privateKey,
    BPR_CONFIRMATIONS: '0',
    BPR_DATA_DIR: dataDir,
    // A restart does not compile again what has not changed.
    NODE_COMPILE_CACHE: join(dataDir, 'compiled'),
    LOG_LEVEL: io.env['LOG_LEVEL'] ?? 'warn',
  };
  const args = ['--input-type=module', '--eval', script, '--', 'run', entry, '--events', '--from-block', '0'];
  const child = spawn(process.execPath, args, { cwd: io.cwd, env, stdio: ['ignore', 'pipe', 'pipe'] });
  let rest = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    const lines = `${rest}${text}`.split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) if (line.startsWith('{')) say(io, json, JSON.parse(line) as DevEvent); // as: written by run --events
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => io.stderr.write(text));
  return child;
}

type DevEvent = Readonly<Record<string, unknown>> & { readonly event: string };

function say(io: Io, json: boolean, event: DevEvent): void {
  const { event: name, ...rest } = event;
  const fields = Object.entries(rest).map(([field, value]) => `${field} ${typeof value === 'string' ? value : JSON.stringify(value)}`);
  io.stdout.write(`${json ? JSON.stringify(event) : `${name.padEnd(10)} ${fields.join('  ')}`}\n`);
}
