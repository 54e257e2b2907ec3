/** The process of `bpr dev` that runs the jobs: it is started ahead, loads the author's module when told, and is thrown away at the next change. */

import { registerHooks } from 'node:module';
import { fileURLToPath } from 'node:url';
import { RunnerError, toRunnerError } from '../errors.ts';
import type { Address } from '../job/call.ts';
import type { JobDescription, JobRouter } from '../job/router.ts';
import { BlueprintRunner } from '../runner/runner.ts';
import { loadModule } from './author-module.ts';
import type { AuthorModule } from './author-module.ts';
import { followRunner } from './runner-lines.ts';
import type { RunnerLine } from './runner-lines.ts';

/** Where the jobs are called from and what settles them. */
export interface DevTarget {
  readonly rpcUrl: string;
  readonly wsUrl: string;
  readonly chainId: number;
  readonly contract: Address;
  readonly serviceIds: readonly bigint[];
  readonly operatorKey: string;
  readonly dataDir: string;
  /** The jobs run behind it instead of in this process. */
  readonly handlerUrl: string | undefined;
}

/** In this order, each once: the answer to one comes before the next. */
export type ToRunner =
  | { readonly kind: 'load'; readonly entry: string }
  | { readonly kind: 'build'; readonly target: DevTarget }
  | { readonly kind: 'start' };

export type FromRunner =
  | { readonly kind: 'ready' }
  | { readonly kind: 'loaded'; readonly jobs: readonly JobDescription[] }
  | { readonly kind: 'built' }
  | { readonly kind: 'started' }
  /** The files of the author that were asked for, whether they could be loaded or not. */
  | { readonly kind: 'files'; readonly files: readonly string[] }
  | { readonly kind: 'failed'; readonly code: string; readonly message: string }
  | { readonly kind: 'line'; readonly line: RunnerLine };

const OWN_FILES = new URL('..', import.meta.url).href;

/** Resolves never by itself: the parent ends the process, or is gone. */
export async function serveDevRunner(): Promise<void> {
  const send = (message: FromRunner): void => void process.send?.(message);
  const gone = new Promise<void>((resolve) => process.once('disconnect', resolve));
  let router: JobRouter | undefined;
  let configure: AuthorModule['configure'];
  let runner: BlueprintRunner | undefined;
  const take = async (message: ToRunner): Promise<void> => {
    switch (message.kind) {
      case 'load':
        ({ router, configure } = await load(message.entry, (files) => send({ kind: 'files', files })));
        if (!router) throw new RunnerError('CONFIG_INVALID', `${message.entry} exports no JobRouter, as default or named router`);
        return send({ kind: 'loaded', jobs: router.describe() });
      case 'build':
        runner = await build(message.target, { router, configure });
        followRunner(
          runner,
          (jobId) => router?.definition(jobId),
          (line) => send({ kind: 'line', line }),
        );
        return send({ kind: 'built' });
      case 'start':
        await runner?.start();
        return send({ kind: 'started' });
    }
  };
  process.on('message', (message: ToRunner) => {
    take(message).catch((thrown: unknown) => {
      const { code, message: reason } = toRunnerError(thrown);
      send({ kind: 'failed', code, message: reason });
    });
  });
  await warmUp();
  send({ kind: 'ready' });
  await gone;
  process.exit(0);
}

/** What every runner loads on its way. */
async function warmUp(): Promise<void> {
  await Promise.all([
    import('../chain/rpc.ts'),
    import('../chain/signer.ts'),
    import('../chain/settlement.ts'),
    import('../ledger/sqlite.ts'),
    import('../plugin/secret.ts'),
    import('../telemetry/pino.ts').then(({ createLogger }) => createLogger({ level: 'silent' })),
    import('../telemetry/prometheus.ts').then(({ createMetrics }) => createMetrics()),
    import('../telemetry/otel.ts').then(({ createStartSpan }) => createStartSpan()),
  ]);
}

async function load(entry: string, onFiles: (files: readonly string[]) => void): ReturnType<typeof loadModule> {
  const files = new Set([entry]);
  const note = (url: string): void => {
    if (url.startsWith('file:') && !url.startsWith(OWN_FILES) && !url.includes('/node_modules/')) files.add(fileURLToPath(url));
  };
  const hooks = registerHooks({
    resolve(specifier, context, next) {
      const resolved = next(specifier, context);
      note(resolved.url);
      return resolved;
    },
  });
  try {
    return await loadModule(entry);
  } finally {
    hooks.deregister();
    onFiles([...files]);
  }
}

async function build(target: DevTarget, { router, configure }: AuthorModule): Promise<BlueprintRunner> {
  const { serviceIds, rpcUrl, wsUrl, chainId, contract, dataDir, operatorKey, handlerUrl } = target;
  const builder = BlueprintRunner.builder(
    {
      serviceIds: [...serviceIds],
      rpcUrl,
      wsUrl,
      chainId,
      contract,
      dataDir,
      fromBlock: 0n,
      confirmations: 0,
      finality: 0,
      chainMode: 'real',
      dryRun: false,
      metrics: false,
      // What happens is shown as events.
      logLevel: 'silent',
    },
    { ...process.env, OPERATOR_PRIVATE_KEY: operatorKey, BLUEPRINT_ID: undefined },
  );
  if (router) builder.router(router);
  await configure?.(builder);
  if (router && handlerUrl !== undefined) {
    const handler = { use: 'http', options: { url: handlerUrl, name: 'handler' } };
    for (const jobId of router.jobIds()) toHandler(() => builder.withFaasExecutor(jobId, handler));
  }
  return builder.build();
}

/** What the author sends elsewhere stays there. */
function toHandler(add: () => unknown): void {
  try {
    add();
  } catch (thrown) {
    if (toRunnerError(thrown).code !== 'JOB_DUPLICATE') throw thrown;
  }
}
