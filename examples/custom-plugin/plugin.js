/**
 * A plugin from outside: runs every call in a process of its own, with the call as JSON on standard input and the result as JSON on
 * standard output. Any program that speaks the wire format will do; a handler bundle started with `--stdio` does.
 *
 *   registry.use(commandPlugin);
 *   const executor = await registry.executor('command', { command: ['node', 'handler.js'] });
 */

import { spawn } from 'node:child_process';
import { RunnerError, decodeResponse, encodeRequest, errorFromResponse, isRunnerError } from 'blueprint-runner/plugin';

/** @import { FaasExecutor, Plugin } from 'blueprint-runner/plugin' */

/** @implements {FaasExecutor} */
export class CommandExecutor {
  name = 'command';
  limits = { requestBytesMax: 4 * 1024 * 1024, responseBytesMax: 4 * 1024 * 1024, timeoutMsMax: 900_000 };
  /** @type {Set<Promise<unknown>>} */
  #running = new Set();
  #closed = false;

  /** @param {readonly string[]} command */
  constructor(command) {
    this.command = command;
  }

  /** @type {FaasExecutor['invoke']} */
  async invoke(call, { deadline, signal }) {
    if (this.#closed) throw new RunnerError('EXECUTOR_CLOSED', `executor ${this.name} is closed`);
    if (signal?.aborted) throw new RunnerError('ABORTED', `call ${call.id} was cancelled before it started`, { retry: 'safe' });
    const late = AbortSignal.timeout(Math.max(0, deadline - Date.now()));
    const output = this.#run(encodeRequest('base64', call).body, signal ? AbortSignal.any([late, signal]) : late);
    this.#running.add(output);
    try {
      const response = { status: 200, headers: { 'content-type': 'application/json' }, body: await output };
      if (JSON.parse(response.body.toString('utf8')).error !== undefined) throw errorFromResponse(500, response.body);
      return decodeResponse(response, call);
    } catch (error) {
      if (late.aborted) throw new RunnerError('EXECUTOR_TIMEOUT', `call ${call.id} did not end before its deadline`, { cause: error });
      if (signal?.aborted) throw new RunnerError('ABORTED', `call ${call.id} was cancelled`, { cause: error });
      if (error instanceof SyntaxError)
        throw new RunnerError('EXECUTOR_RESPONSE_INVALID', `the answer to call ${call.id} is not JSON`, { cause: error });
      if (isRunnerError(error)) throw error;
      throw new RunnerError('EXECUTOR_UNREACHABLE', `${this.command[0]} cannot be started`, { cause: error });
    } finally {
      this.#running.delete(output);
    }
  }

  async close() {
    this.#closed = true;
    await Promise.allSettled(this.#running);
  }

  /** @param {Uint8Array} input @param {AbortSignal} signal @returns {Promise<Buffer>} */
  #run(input, signal) {
    const [program = '', ...parameters] = this.command;
    return new Promise((resolve, reject) => {
      const child = spawn(program, parameters, { signal, killSignal: 'SIGKILL', stdio: ['pipe', 'pipe', 'inherit'] });
      /** @type {Buffer[]} */
      const chunks = [];
      child.stdout.on('data', (chunk) => chunks.push(chunk));
      child.stdin.on('error', () => {}).end(input);
      child.on('error', reject);
      child.on('close', () => resolve(Buffer.concat(chunks)));
    });
  }
}

/** @type {Plugin} */
export const commandPlugin = {
  name: 'command',
  register(registry) {
    registry.executor((options) => {
      if (typeof options !== 'object' || options === null || !('command' in options) || !Array.isArray(options.command)) {
        throw new RunnerError('CONFIG_INVALID', 'plugin command needs the option command: a program and its parameters');
      }
      return new CommandExecutor(options.command.map(String));
    });
  },
};
