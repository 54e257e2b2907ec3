/** One `bpr dev`: a local chain with the contract, a service with the jobs, and the version of the author's code that serves it. */

import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { dirname, join, relative } from 'node:path';
import { RunnerError, isErrorCode, toRunnerError } from '../errors.ts';
import type { JobDescription } from '../job/router.ts';
import type { LocalChain } from '../testing/local-chain.ts';
import type { LocalService, LocalTangle } from '../testing/tangle.ts';
import { startDevHandler } from './dev-handler.ts';
import type { DevHandler } from './dev-handler.ts';
import type { DevTarget, FromRunner, ToRunner } from './dev-runner.ts';
import type { DevView } from './dev-view.ts';
import { callCommand } from './call-command.ts';
import type { Io } from './output.ts';
import { SourceWatch } from './source-watch.ts';

export interface DevOptions {
  readonly io: Io;
  /** Absolute. */
  readonly entry: string;
  readonly port: number;
  /** Run the jobs behind a handler of their own. */
  readonly handler: boolean;
  readonly dataDir: string;
  readonly view: DevView;
}

const LOAD_MS = 30_000;
const COMPILE_CACHE_MS = 2_000;
const CHAIN_JOBS_MAX = 256n;

/** What serves calls, or is about to. */
interface Version {
  readonly runner: RunnerProcess;
  readonly handler: DevHandler | undefined;
}

export class DevSession {
  readonly #options: DevOptions;
  readonly #watch: SourceWatch;
  #chain: LocalChain | undefined;
  #tangle: LocalTangle | undefined;
  #services: LocalService[] = [];
  #jobCount = 0;
  #standby: RunnerProcess;
  #current: Version | undefined;
  #versions = 0;
  #turn: Promise<void> = Promise.resolve();
  #changed: { readonly file: string; readonly at: number } | undefined;
  #isClosed = false;

  constructor(options: DevOptions) {
    this.#options = options;
    this.#watch = new SourceWatch((file, at) => this.#onChange(file, at));
    this.#standby = this.#spawn();
  }

  /** Rejects when chain, jobs or handler do not start: there is nothing to serve yet. */
  start(): Promise<void> {
    this.#watch.follow([this.#options.entry], true);
    const started = this.#start();
    // What changes meanwhile is taken up after it.
    this.#turn = started.catch(() => {
      this.#isClosed = true;
    });
    return started;
  }

  async #start(): Promise<void> {
    const [version, chain] = await Promise.all([this.#prepare(), this.#startChain()]);
    if (this.#isClosed) return end(version);
    await this.#build(version);
    await this.#serve(version);
    const { view } = this.#options;
    view.show({
      event: 'ready',
      ...this.#place(chain),
      handlerUrl: version.handler?.url ?? null,
      submit: this.#commands(version.runner.jobs),
    });
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.#watch.close();
    await Promise.all([this.#standby.end(), end(this.#current)]);
    await this.#turn;
    await end(this.#current);
    await this.#standby.end();
    await this.#chain?.stop();
  }

  async #startChain(): Promise<LocalChain> {
    const [{ startLocalChain }, { deployTangle }] = await Promise.all([
      import('../testing/local-chain.ts'),
      import('../testing/tangle.ts'),
    ]);
    const chain = await startLocalChain({ port: this.#options.port });
    this.#chain = chain;
    if (this.#isClosed) await chain.stop();
    else this.#tangle = await deployTangle(chain);
    return chain;
  }

  /** Everything that can be done while the version before serves. Rejects, with nothing left behind, when the author's code does not allow it. */
  async #prepare(): Promise<Version> {
    const { io, entry, dataDir, view, handler: withHandler } = this.#options;
    this.#versions += 1;
    const runner = this.#standby;
    const outDir = join(dataDir, `handler-${this.#versions}`);
    const onOutput = (text: string): void => view.print(text);
    const handling = withHandler ? startDevHandler({ entry, outDir, cwd: io.cwd, env: io.env, onOutput }) : Promise.resolve(undefined);
    const [loaded, handled] = await Promise.allSettled([runner.load(entry), handling]);
    this.#watch.follow(runner.files, loaded.status === 'rejected');
    if (loaded.status === 'fulfilled' && handled.status === 'fulfilled') {
      const handler = handled.value;
      void handler?.ended.then((how) => {
        if (this.#current?.handler === handler) this.#report('handler', `${how}; it starts again when a file changes`);
      });
      return { runner, handler };
    }
    await runner.end();
    if (handled.status === 'fulfilled') await handled.value?.end();
    this.#renew();
    // Why the module cannot be loaded says more than why the handler that holds it cannot.
    throw loaded.status === 'rejected' ? loaded.reason : (handled as PromiseRejectedResult).reason;
  }

  async #build({ runner, handler }: Version): Promise<void> {
    try {
      await this.#matchService(runner.jobs);
      await runner.build(this.#target(handler?.url));
    } catch (thrown) {
      await Promise.all([runner.end(), handler?.end()]);
      this.#renew();
      throw thrown;
    }
  }

  /** From here on the version serves. The ledger survives a kill at any point: what ran in the version before runs again. */
  async #serve(version: Version): Promise<void> {
    const before = this.#current;
    this.#current = version;
    await end(before);
    try {
      await version.runner.start();
    } catch (thrown) {
      this.#current = undefined;
      await end(version);
      throw thrown;
    } finally {
      this.#renew();
    }
  }

  /** A blueprint cannot get more jobs: a job that is new needs another service. */
  async #matchService(jobs: readonly JobDescription[]): Promise<void> {
    const names: string[] = [];
    for (const { id, name } of jobs) if (BigInt(id) < CHAIN_JOBS_MAX) names[Number(id)] = name;
    if (names.length === 0)
      throw new RunnerError('CONFIG_INVALID', `${this.#options.entry} routes no job that a chain can call: ids are 0 to 255`);
    if (names.length <= this.#jobCount || !this.#tangle) return;
    this.#services.push(await this.#tangle.startService({ jobs: Array.from(names, (name, index) => ({ name: name ?? `job${index}` })) }));
    this.#jobCount = names.length;
  }

  #onChange(file: string, at: number): void {
    const isWaiting = this.#changed !== undefined;
    this.#changed = { file, at: this.#changed?.at ?? at };
    if (!isWaiting) this.#turn = this.#turn.then(() => this.#reload());
  }

  async #reload(): Promise<void> {
    const changed = this.#changed;
    this.#changed = undefined;
    if (!changed || this.#isClosed || !this.#chain) return;
    const { view, entry } = this.#options;
    const file = relative(dirname(entry), changed.file);
    const services = this.#services.length;
    try {
      const version = await this.#prepare();
      await this.#build(version);
      await this.#serve(version);
      const handlerUrl = version.handler?.url ?? null;
      if (this.#services.length > services)
        view.show({ event: 'ready', ...this.#place(this.#chain), handlerUrl, submit: this.#commands(version.runner.jobs) });
      view.show({ event: 'reload', ms: Math.round(performance.now() - changed.at), file, handlerUrl });
    } catch (thrown) {
      if (this.#isClosed) return;
      const { code, message } = toRunnerError(thrown);
      view.show({ event: 'reload-failed', file, code, message, isServing: this.#current?.runner.isRunning === true });
    }
  }

  #place(chain: LocalChain): { rpcUrl: string; chainId: number; contract: string; serviceId: bigint } {
    const { rpcUrl, chainId } = chain;
    return { rpcUrl, chainId, contract: this.#tangle?.contract ?? '', serviceId: this.#services.at(-1)?.serviceId ?? 0n };
  }

  #commands(jobs: readonly JobDescription[]): string[] {
    const [caller] = this.#chain?.accounts ?? [];
    if (!this.#chain || !caller) return [];
    const { rpcUrl, contract, serviceId } = this.#place(this.#chain);
    // The key is one that every local chain has.
    const call = { key: caller.privateKey, rpcUrl, contract, serviceId };
    return jobs.filter(({ id }) => BigInt(id) < CHAIN_JOBS_MAX).map((job) => callCommand(job, call));
  }

  #target(handlerUrl: string | undefined): DevTarget {
    if (!this.#chain || !this.#tangle) throw new RunnerError('STATE_INVALID', 'the chain is not started');
    const { rpcUrl, wsUrl, chainId } = this.#chain;
    const operatorKey = this.#services.at(-1)?.operators[0]?.privateKey ?? '';
    const serviceIds = this.#services.map(({ serviceId }) => serviceId);
    return { rpcUrl, wsUrl, chainId, contract: this.#tangle.contract, serviceIds, operatorKey, dataDir: this.#options.dataDir, handlerUrl };
  }

  /** The process of the next version. */
  #renew(): void {
    if (!this.#isClosed) this.#standby = this.#spawn();
  }

  #spawn(): RunnerProcess {
    const { io, view, dataDir } = this.#options;
    const runner: RunnerProcess = new RunnerProcess({
      io,
      compileCache: join(dataDir, 'compiled'),
      onLine: (line) => (this.#isClosed ? undefined : view.show(line)),
      onOutput: (text) => view.print(text),
      onEnded: (how) => {
        if (this.#current?.runner === runner && !this.#isClosed) this.#report('runner', `${how}; it starts again when a file changes`);
      },
    });
    return runner;
  }

  #report(source: string, message: string): void {
    if (!this.#isClosed) this.#options.view.show({ event: 'error', source, code: 'EXECUTOR_UNAVAILABLE', message });
  }
}

async function end(version: Version | undefined): Promise<void> {
  await Promise.all([version?.runner.end(), version?.handler?.end()]);
}

interface RunnerProcessOptions {
  readonly io: Io;
  readonly compileCache: string;
  readonly onLine: (line: Extract<FromRunner, { readonly kind: 'line' }>['line']) => void;
  readonly onOutput: (text: string) => void;
  /** Not by `end`. */
  readonly onEnded: (how: string) => void;
}

type Answer = Exclude<FromRunner, { readonly kind: 'line' | 'files' | 'failed' }>;

/** A process of `dev-runner`, seen from outside. */
class RunnerProcess {
  jobs: readonly JobDescription[] = [];
  files: readonly string[] = [];
  readonly #child: ChildProcess;
  readonly #closed: Promise<void>;
  readonly #ready: Promise<Answer>;
  #waiting:
    | { readonly kind: Answer['kind']; readonly resolve: (answer: Answer) => void; readonly reject: (error: RunnerError) => void }
    | undefined;
  #isEnding = false;

  constructor({ io, compileCache, onLine, onOutput, onEnded }: RunnerProcessOptions) {
    const main = new URL(`./dev-runner${import.meta.url.endsWith('.ts') ? '.ts' : '.js'}`, import.meta.url).href;
    // What is killed does not write its compile cache: it does so once it runs.
    const script = `import { flushCompileCache } from 'node:module';
import { serveDevRunner } from ${JSON.stringify(main)};
setTimeout(flushCompileCache, ${COMPILE_CACHE_MS}).unref();
await serveDevRunner();`;
    const { NODE_OPTIONS: _options, NODE_EXTRA_CA_CERTS: _certificates, ...env } = io.env;
    this.#child = spawn(process.execPath, ['--input-type=module', '--eval', script], {
      cwd: io.cwd,
      env: { ...env, NODE_COMPILE_CACHE: compileCache },
      // Ctrl-C reaches a whole process group: who started this one decides when it ends.
      detached: true,
      serialization: 'advanced',
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    });
    this.#child.stdout?.setEncoding('utf8').on('data', onOutput);
    this.#child.stderr?.setEncoding('utf8').on('data', onOutput);
    this.#closed = new Promise((resolve) => {
      this.#child.once('close', (code, signal) => {
        resolve();
        const how = signal ? `the process was ended by ${signal}` : `the process ended with status ${code}`;
        this.#waiting?.reject(new RunnerError('CONFIG_INVALID', `the jobs cannot be run: ${how}`));
        if (!this.#isEnding) onEnded(how);
      });
    });
    this.#child.on('message', (message) => {
      const said = message as FromRunner; // as: only dev-runner writes to this channel
      if (said.kind === 'line') onLine(said.line);
      else if (said.kind === 'files') this.files = said.files;
      else if (said.kind === 'failed') {
        this.#waiting?.reject(new RunnerError(isErrorCode(said.code) ? said.code : 'INTERNAL', said.message));
      } else if (said.kind === this.#waiting?.kind) this.#waiting.resolve(said);
    });
    this.#ready = this.#ask('ready');
    this.#ready.catch(() => {});
  }

  get isRunning(): boolean {
    return this.#child.connected;
  }

  /** Loads the author's module. */
  async load(entry: string): Promise<void> {
    this.files = [entry];
    await this.#ready;
    const loaded = await this.#ask('loaded', { kind: 'load', entry });
    if (loaded.kind === 'loaded') this.jobs = loaded.jobs;
  }

  async build(target: DevTarget): Promise<void> {
    await this.#ask('built', { kind: 'build', target });
  }

  async start(): Promise<void> {
    await this.#ask('started', { kind: 'start' });
  }

  /** Idempotent. */
  async end(): Promise<void> {
    this.#isEnding = true;
    this.#child.kill('SIGKILL');
    await this.#closed;
  }

  async #ask(kind: Answer['kind'], message?: ToRunner): Promise<Answer> {
    const { promise, resolve, reject } = Promise.withResolvers<Answer>();
    this.#waiting = { kind, resolve, reject };
    if (message && this.#child.connected) this.#child.send(message);
    else if (message) reject(new RunnerError('CONFIG_INVALID', 'the jobs cannot be run: their process has ended'));
    const timer = setTimeout(() => reject(tooLate(kind, message)), LOAD_MS);
    return promise.finally(() => {
      clearTimeout(timer);
      this.#waiting = undefined;
    });
  }
}

function tooLate(kind: Answer['kind'], message: ToRunner | undefined): RunnerError {
  const within = `within ${LOAD_MS / 1000} s`;
  if (message?.kind !== 'load') return new RunnerError('EXECUTOR_TIMEOUT', `the module did not get to "${kind}" ${within}`);
  const needed = 'it must export a JobRouter, as default or named router, and must not wait for anything that goes on, like a runner';
  return new RunnerError('CONFIG_INVALID', `${message.entry} was not loaded ${within}: ${needed}`);
}
