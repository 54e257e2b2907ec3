/**
 * The gateway that is fuzzed, in a process of its own: functions run as processes, in this process, or on instances whose program is
 * whoever started this. Speaks over IPC: see `FromGateway` and `ToGateway`.
 */

import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { ProcessBackend } from '../../plugins/process/index.ts';
import { Gateway } from '../../src/gateway/gateway.ts';
import { KeyFolder } from '../../src/gateway/keys.ts';
import type { Instance, InstanceBackend, InstanceEnd, LaunchSpec } from '../../src/runtime/runtime.ts';
import { createMetrics } from '../../src/telemetry/prometheus.ts';
import type { Logger } from '../../src/telemetry/telemetry.ts';
import { FakeBackend } from '../support/fake-backend.ts';

/** What the process holds, after everything that can be collected was collected. */
export interface Figures {
  readonly rssMb: number;
  readonly heapMb: number;
  /** Buffers, outside of the heap. */
  readonly buffersMb: number;
  readonly handles: number;
  /** Open files, sockets included. */
  readonly descriptors: number;
  /** In the folder of the gateway and the temporary folder. */
  readonly files: number;
}

export type FromGateway =
  | { readonly kind: 'listening'; readonly port: number; readonly tokens: Readonly<Record<'expired' | 'narrow', string>> }
  | { readonly kind: 'launched'; readonly id: string; readonly socketPath: string }
  | { readonly kind: 'ended'; readonly id: string }
  | { readonly kind: 'figures'; readonly figures: Figures };

export type ToGateway = { readonly kind: 'figures' } | { readonly kind: 'close' };

export const ADMIN_TOKEN = 'token-of-the-one-who-fuzzes';
const MANY = 1e9;
const MIB = 1024 * 1024;

const tell = (message: FromGateway): void => void process.send?.(message);

/** Only errors, on stderr: there should be none. */
const log: Logger = {
  debug() {},
  info() {},
  warn() {},
  error(message, fields) {
    const shown = Object.entries(fields ?? {}).map(([name, value]) => `${name}: ${value instanceof Error ? value.stack : String(value)}`);
    process.stderr.write(`error: ${message}; ${shown.join('; ')}\n`);
  },
  child: () => log,
};

/** Its instances are a socket that somebody else may do anything to. */
class RawBackend implements InstanceBackend {
  readonly name = 'raw';
  readonly #running = new Map<string, (end: InstanceEnd) => void>();

  async launch({ instanceId: id, runtimeApi }: LaunchSpec): Promise<Instance> {
    const ended = Promise.withResolvers<InstanceEnd>();
    await runtimeApi.listen();
    this.#running.set(id, ended.resolve);
    tell({ kind: 'launched', id, socketPath: runtimeApi.socketPath });
    return { id, handle: { kind: 'raw' }, ended: ended.promise, createMs: 0 };
  }

  async terminate({ id }: Instance): Promise<void> {
    const end = this.#running.get(id);
    if (!end) return;
    this.#running.delete(id);
    end({ reason: 'terminated' });
    tell({ kind: 'ended', id });
  }

  async unavailable(): Promise<string | undefined> {
    return undefined;
  }
}

function filesIn(folder: string): number {
  return readdirSync(folder, { recursive: true }).length;
}

async function figuresOf(folder: string): Promise<Figures> {
  for (let round = 0; round < 5; round += 1) {
    await globalThis.gc?.({ type: 'major', execution: 'async', flavor: 'last-resort' });
    await turn();
  }
  const { heapUsed, external } = process.memoryUsage();
  const status = readFileSync('/proc/self/status', 'utf8');
  return {
    rssMb: Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]) / 1024,
    heapMb: heapUsed / MIB,
    buffersMb: external / MIB,
    handles: process.getActiveResourcesInfo().filter((name) => name !== 'Timeout' && name !== 'Immediate').length,
    descriptors: readdirSync('/proc/self/fd').length,
    files: filesIn(folder),
  };
}

async function main(folder: string): Promise<void> {
  const metrics = createMetrics();
  const keys = new KeyFolder({ folder: join(folder, 'k') });
  const answer = async (): Promise<string> => '{"answer":42}';
  const here = new FakeBackend({ handler: answer });
  const gateway = new Gateway({
    folder: join(folder, 'g'),
    backends: new Map<string, InstanceBackend>([
      ['here', here],
      ['process', new ProcessBackend({ folder: join(folder, 'p') })],
      ['raw', new RawBackend()],
    ]),
    auth: { keys, tokens: [{ name: 'fuzz', token: ADMIN_TOKEN }] },
    limits: { requestsPerSecond: MANY, burst: MANY, concurrent: MANY },
    runtime: { limits: { instancesPerFunctionMax: 8 } },
    telemetry: { log, metrics, startSpan: undefined },
    metrics: () => metrics.expose(),
  });
  const url = await gateway.listen({ port: 0 });
  const tokens = {
    expired: keys.create({ name: 'expired', scopes: ['admin'], expiresAt: Date.now() - 1 }).secret,
    narrow: keys.create({ name: 'narrow', scopes: ['logs'], functions: ['nothing'] }).secret,
  };
  process.on('message', (message: ToGateway) => {
    // The fake keeps its ended instances for tests to look at.
    here.programs.splice(0, here.programs.length, ...here.running);
    if (message.kind === 'figures') void figuresOf(folder).then((figures) => tell({ kind: 'figures', figures }));
    else void gateway.close(1_000).then(() => process.disconnect());
  });
  // Whoever started it is gone.
  process.on('disconnect', () => void gateway.close(0));
  tell({ kind: 'listening', port: Number(new URL(url).port), tokens });
}

if (import.meta.main) await main(process.argv[2] ?? '');
