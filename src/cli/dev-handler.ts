/** The handler bundle of `bpr dev --handler`: built from the author's module, served over HTTP by a process of its own. */

import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { buildHandler } from '../deploy/package.ts';
import { RunnerError } from '../errors.ts';

export interface DevHandlerOptions {
  readonly entry: string;
  /** Where the bundle goes: another one for each version. */
  readonly outDir: string;
  readonly cwd: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** What the jobs print, and what the handler says of errors. */
  readonly onOutput: (text: string) => void;
}

export interface DevHandler {
  readonly url: string;
  readonly pid: number | undefined;
  /** How it ended. */
  readonly ended: Promise<string>;
  /** Kills it, and resolves when it is gone. */
  end(): Promise<void>;
}

const START_MS = 20_000;
/** The handler ends with the process that started it, however that ends. */
const LEASH = `data:text/javascript,${encodeURIComponent("process.once('disconnect', () => process.exit(0));")}`;

/** Throws `BUILD_FAILED`, also when the handler does not start; `PEER_MISSING` without esbuild. */
export async function startDevHandler(options: DevHandlerOptions): Promise<DevHandler> {
  const { entry, outDir, cwd } = options;
  const { NODE_OPTIONS: _options, NODE_EXTRA_CA_CERTS: _certificates, ...inherited } = options.env;
  const { file } = await buildHandler({ entry, outDir, minify: false, env: options.env });
  const own = { HOST: '127.0.0.1', PORT: '0', BLUEPRINT_ADAPTER: 'http', BLUEPRINT_SOCKET: undefined };
  // The token of a handler that is deployed: nobody presents it here.
  const env = { ...inherited, ...own, BLUEPRINT_TOKEN: undefined, BLUEPRINT_TOKEN_FILE: undefined };
  // Ctrl-C reaches a whole process group: who started this one decides when it ends.
  const child = spawn(process.execPath, ['--import', LEASH, file], { cwd, env, detached: true, stdio: ['ignore', 'pipe', 'pipe', 'ipc'] });
  const ended = new Promise<string>((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('close', (code, signal) => resolve(signal ? `it was ended by ${signal}` : `it ended with status ${code}`));
  });
  const end = async (): Promise<void> => {
    child.kill('SIGKILL');
    await ended;
  };
  try {
    return { url: await addressOf(child, ended, options), pid: child.pid, ended, end };
  } catch (thrown) {
    await end();
    throw thrown;
  }
}

interface LogLine {
  readonly message?: unknown;
  readonly address?: unknown;
  readonly reason?: string;
}

async function addressOf(child: ChildProcess, ended: Promise<string>, { entry, onOutput }: DevHandlerOptions): Promise<string> {
  const address = Promise.withResolvers<string>();
  let said = '';
  child.stdout?.setEncoding('utf8').on('data', onOutput);
  let rest = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    const lines = `${rest}${text}`.split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) {
      const log = logLine(line);
      if (typeof log?.address === 'string') address.resolve(log.address);
      // The call that failed is shown as an event.
      else if (!log) onOutput(`${line}\n`);
      said = log?.reason ?? line;
    }
  });
  const fail = (how: string): void =>
    address.reject(new RunnerError('BUILD_FAILED', `the handler of ${entry} does not start: ${how} ${said}`.trim()));
  const timer = setTimeout(() => fail(`it said no address within ${START_MS / 1000} s`), START_MS);
  void ended.then(fail);
  return address.promise.finally(() => clearTimeout(timer));
}

/** Of the handler's own log; undefined for what the jobs print. */
function logLine(line: string): LogLine | undefined {
  if (!line.startsWith('{"time":')) return undefined;
  try {
    return JSON.parse(line) as LogLine; // as: its fields are looked at before they are used
  } catch {
    return undefined;
  }
}
