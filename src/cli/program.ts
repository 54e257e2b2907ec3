/** One run of the command line with some commands. */

import { Command, CommanderError } from 'commander';
import { RunnerError, isRunnerError } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import { JsonEvents, printError } from './output.ts';
import type { Cli, Io, OutputForm } from './output.ts';
import { watchReaders } from './signals.ts';
import { ownVersion } from './version.ts';
import { signalStatus } from './work.ts';

/** Adds a command to the program. */
export type AddCommand = (program: Command, cli: Cli) => void;

const OK = 0;
const FAILURE = 1;
const USAGE = 2;
/** News that a script has to tell apart. */
const STATUS_OF: Partial<Record<ErrorCode, number>> = { CALL_REFUSED: 3, RESULT_TIMEOUT: 4 };

function processIo(): Io {
  watchReaders();
  return { stdout: process.stdout, stderr: process.stderr, env: process.env, cwd: process.cwd() };
}

/** Runs one command and resolves with the exit status: 0 done, 1 failed, 2 called in a wrong way, or what the command says. Never rejects. */
export async function run(commands: readonly AddCommand[], args: readonly string[], io: Io = processIo()): Promise<number> {
  const cli: Cli = { io, exitCode: OK };
  const json = args.includes('--json');
  let form: OutputForm = json ? 'document' : 'text';
  try {
    const program = createProgram(commands, { cli, json });
    if (json) form = jsonForm(commandOf(program, args));
    await program.parseAsync(asOfGroup(program, args), { from: 'user' });
    return cli.exitCode;
  } catch (thrown) {
    if (!(thrown instanceof CommanderError)) {
      printError(io, form, thrown);
      return (isRunnerError(thrown) && (STATUS_OF[thrown.code] ?? signalStatus(thrown))) || FAILURE;
    }
    if (thrown.exitCode === 0) return OK;
    if (json) printError(io, form, usageError(thrown));
    return USAGE;
  }
}

/** The one that the arguments name, or the last that they name rightly. */
function commandOf(program: Command, args: readonly string[]): Command {
  let found = program;
  for (const arg of args) {
    const next = found.commands.find((command) => command.name() === arg);
    if (next) found = next;
    else if (!arg.startsWith('-')) break;
  }
  return found;
}

/** `help cloud deploy` as `cloud help deploy`: commander looks one level down. */
function asOfGroup(program: Command, args: readonly string[]): readonly string[] {
  if (args[0] !== 'help' || args.length < 3) return args;
  const groups = args.slice(1, -1);
  let found = program;
  for (const name of groups) {
    const next = found.commands.find((command) => command.name() === name);
    if (!next || next.commands.length === 0) return args;
    found = next;
  }
  return [...groups, 'help', ...args.slice(-1)];
}

function jsonForm({ options }: Command): OutputForm {
  return options.some((option) => option instanceof JsonEvents) ? 'events' : 'document';
}

/** Commander has printed its own message when there is no document to print. */
function usageError({ message }: CommanderError): RunnerError {
  return new RunnerError('CONFIG_INVALID', message.replace(/^error: /, ''));
}

function createProgram(commands: readonly AddCommand[], { cli, json }: { readonly cli: Cli; readonly json: boolean }): Command {
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
  for (const add of commands) add(program, cli);
  program.addHelpText('after', '\nExit status: 0 done, 1 failed, 2 called in a wrong way; some commands have others, see their help.');
  return program;
}
