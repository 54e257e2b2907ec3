/** The command line `bpr`. Commands import their rooms when they run, so that help is printed at once. */

import { Command, CommanderError } from 'commander';
import { RunnerError, isRunnerError } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import { addBuild } from './commands/build.ts';
import { addCloud } from './commands/cloud.ts';
import { addConformance } from './commands/conformance.ts';
import { addControlPlane } from './commands/control-plane.ts';
import { addDev } from './commands/dev.ts';
import { addDoctor } from './commands/doctor.ts';
import { addJobs } from './commands/jobs.ts';
import { addGateway } from './commands/gateway.ts';
import { addInit } from './commands/init.ts';
import { addOperations } from './commands/operations.ts';
import { addPlugin } from './commands/plugin.ts';
import { addProfile } from './commands/profile.ts';
import { addQueue } from './commands/queue.ts';
import { addRun } from './commands/run.ts';
import { addSchedule } from './commands/schedule.ts';
import { addService } from './commands/service.ts';
import { addTicket } from './commands/ticket.ts';
import { addTopology } from './commands/topology.ts';
import { addWasm } from './commands/wasm.ts';
import { addWhy } from './commands/why.ts';
import { addWorker } from './commands/worker.ts';
import { printError } from './output.ts';
import type { Cli, Io } from './output.ts';
import { ownVersion } from './version.ts';
import { signalStatus } from './work.ts';

const OK = 0;
const FAILURE = 1;
const USAGE = 2;
/** News that a script has to tell apart. */
const STATUS_OF: Partial<Record<ErrorCode, number>> = { CALL_REFUSED: 3, RESULT_TIMEOUT: 4 };

function processIo(): Io {
  return { stdout: process.stdout, stderr: process.stderr, env: process.env, cwd: process.cwd() };
}

/**
 * Runs one command and resolves with the exit status: 0 done, 1 failed, 2 called in a wrong way; 3 and 4 of
 * `jobs submit`: refused by the contract, no result in time. Never rejects.
 *
 * @example
 * process.exitCode = await main(['build', 'jobs.ts']);
 */
export async function main(args: readonly string[] = process.argv.slice(2), io: Io = processIo()): Promise<number> {
  const cli: Cli = { io, exitCode: OK };
  const json = args.includes('--json');
  try {
    await createProgram(cli, json).parseAsync(args, { from: 'user' });
    return cli.exitCode;
  } catch (thrown) {
    if (!(thrown instanceof CommanderError)) {
      printError(io, json, thrown);
      return (isRunnerError(thrown) && (STATUS_OF[thrown.code] ?? signalStatus(thrown))) || FAILURE;
    }
    if (thrown.exitCode === 0) return OK;
    if (json) printError(io, json, usageError(thrown));
    return USAGE;
  }
}

/** Commander has printed its own message when there is no document to print. */
function usageError({ message }: CommanderError): RunnerError {
  return new RunnerError('CONFIG_INVALID', message.replace(/^error: /, ''));
}

function createProgram(cli: Cli, json: boolean): Command {
  const { io } = cli;
  const program = new Command('bpr')
    .description('Runs the jobs of Tangle blueprints: a chain event becomes exactly one result on chain.')
    .version(ownVersion(), '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print help')
    .helpCommand('help [command]', 'print the help of a command')
    .showHelpAfterError('Run the command with --help to see how it is used.')
    .exitOverride()
    .configureOutput({
      writeOut: (text) => io.stdout.write(text),
      writeErr: (text) => (json ? undefined : io.stderr.write(text)),
      outputError: (text, write) => write(text.replace(/^error: /, 'CONFIG_INVALID: ')),
      getOutHelpWidth: () => 100,
      getErrHelpWidth: () => 100,
      getOutHasColors: () => false,
      getErrHasColors: () => false,
    });
  for (const add of [
    addInit,
    addDev,
    addBuild,
    addRun,
    addService,
    addSchedule,
    addGateway,
    addControlPlane,
    addTicket,
    addQueue,
    addWasm,
    addWorker,
    addTopology,
    addJobs,
    addWhy,
    addDoctor,
    addOperations,
    addProfile,
    addPlugin,
    addCloud,
    addConformance,
  ])
    add(program, cli);
  program.addHelpText('after', '\nExit status: 0 done, 1 failed, 2 called in a wrong way; some commands have others, see their help.');
  return program;
}
