import { resolve } from 'node:path';
import type { Command } from 'commander';
import { RunnerError } from '../../errors.ts';
import type { RunnerConfig } from '../../runner/config.ts';
import type { RunnerStatus } from '../../runner/runner.ts';
import { loadModule } from '../author-module.ts';
import { parseCount, parseNumber, parsePort, parseUint64 } from '../calls.ts';
import { dataDirOf, settingsOf } from '../environment.ts';
import type { ChainFlags, DataFlags } from '../environment.ts';
import { print, toJson } from '../output.ts';
import type { Cli, Io } from '../output.ts';
import { whenUnread } from '../signals.ts';

interface RunFlags extends ChainFlags, DataFlags {
  readonly service?: readonly bigint[];
  readonly wsUrl?: string;
  readonly key?: string;
  readonly fromBlock?: bigint;
  readonly concurrency?: number;
  readonly confirmations?: number;
  readonly metricsPort?: number;
  readonly dryRun?: true;
  readonly events?: true;
  readonly json?: true;
}

const EXAMPLES = `
Examples:
  bpr run src/jobs.ts --service 3                 settle what service 3 asks for
  bpr run src/jobs.ts --dry-run --data-dir /tmp/x  do everything but the transactions
  bpr run src/jobs.ts --metrics-port 9100 --json   the final status as JSON; logs go to stderr

The module exports a JobRouter, as default or named router, and where other executors, producers or
services are wanted a function configure(builder). SIGTERM or SIGINT drains; a second one ends at once.
Environment: HTTP_RPC_URL or RPC_URL, WS_RPC_URL, TANGLE_CONTRACT, CHAIN_ID, SERVICE_ID, BLUEPRINT_ID,
BPR_DATA_DIR, BPR_DRY_RUN, BPR_CONFIRMATIONS, BPR_MAX_FEE_PER_GAS, OPERATOR_PRIVATE_KEY, LOG_LEVEL.

Exit status: 0 drained after a signal; 1 it could not start, or ended because of an error; 2 called in a wrong way;
130 or 143 ended at once by a second signal.`;

/** `bpr run`: the runner of one operator, until it is told to stop. */
export function addRun(program: Command, { io }: Cli): void {
  program
    .command('run')
    .description('run the jobs of a module for a service on chain')
    .argument('<entry>', 'module that exports the job router')
    .option('--service <ids>', 'only these services, comma-separated (default: all)', parseServices)
    .option('--rpc-url <url>', 'JSON-RPC endpoint of the chain; several, comma-separated')
    .option('--ws-url <url>', 'websocket endpoint: announces blocks at once')
    .option('--contract <address>', 'address of the Tangle contract')
    .option('--key <reference>', 'where the key of the operator is: env:NAME or file:/path (default: env:OPERATOR_PRIVATE_KEY)')
    .option('--data-dir <dir>', 'where the runner keeps its data (default: BPR_DATA_DIR)')
    .option('--ledger <file>', 'the ledger, when it is not in the data directory')
    .option('--from-block <number>', 'first block for a new ledger (default: the head)', parseUint64)
    .option('--concurrency <count>', 'calls that run at the same time (default: 128)', parseCount)
    .option('--confirmations <count>', 'blocks on top of a call before its result is signed (default: 1)', parseNumber)
    .option('--metrics-port <port>', 'serve /metrics, /healthz and /readyz here', parsePort)
    .option('--dry-run', 'do everything but the transactions')
    .option('--events', 'print one JSON line for each step of a call, in place of the final status')
    .option('--json', 'print the final status as one JSON document')
    .addHelpText('after', EXAMPLES)
    .action(async (entry: string, flags: RunFlags) => {
      const { router, configure } = await loadModule(resolve(io.cwd, entry));
      const config = configOf(io, flags);
      if (config.contract === undefined && !configure) {
        throw new RunnerError('CONFIG_INVALID', 'the contract is not known: set TANGLE_CONTRACT or pass --contract');
      }
      const { BlueprintRunner } = await import('../../runner/runner.ts');
      const builder = BlueprintRunner.builder(config, io.env);
      if (router) builder.router(router);
      await configure?.(builder);
      const runner = await builder.build();
      if (flags.events) {
        const { followRunner } = await import('../runner-lines.ts');
        followRunner(
          runner,
          (jobId) => router?.definition(jobId),
          (line) => io.stdout.write(`${toJson(line, 0)}\n`),
        );
      }
      whenUnread(() => void runner.stop());
      await runner.run();
      if (flags.events) return;
      const status = runner.status();
      print(io, flags.json, { document: status, text: statusText(status) });
    });
}

function configOf(io: Io, flags: RunFlags): RunnerConfig {
  const { rpcUrls, contract } = settingsOf(io, flags);
  return {
    serviceIds: flags.service,
    // Without a contract there is no chain: an endpoint alone would be a mistake.
    ...(contract !== undefined && { contract, rpcUrl: rpcUrls }),
    wsUrl: flags.wsUrl,
    privateKey: flags.key,
    dataDir: dataDirOf(io, flags),
    ledger: flags.ledger === undefined ? undefined : resolve(io.cwd, flags.ledger),
    fromBlock: flags.fromBlock,
    concurrency: flags.concurrency,
    confirmations: flags.confirmations,
    dryRun: flags.dryRun,
    ...(flags.metricsPort !== undefined && { metrics: { port: flags.metricsPort } }),
  };
}

function statusText(status: RunnerStatus): string {
  return `runner ${status.state}\n${toJson(status)}`;
}

function parseServices(text: string): bigint[] {
  return text.split(',').map((id) => parseUint64(id.trim()));
}
