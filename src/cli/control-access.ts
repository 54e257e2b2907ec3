/** How commands reach a control plane: with the operator's token, which lies in its folder, or with a ticket. */

import { existsSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { InvalidArgumentError } from 'commander';
import type { Command } from 'commander';
import { systemClock } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import { openIdentity } from '../queue/identity.ts';
import type { ControlClient, ControlCredentials } from '../queue/control-client.ts';
import type { RemoteObjects } from '../queue/remote-objects.ts';
import type { RemoteQueue } from '../queue/remote.ts';
import type { WorkQueue } from '../queue/queue.ts';
import { baseFolder } from './environment.ts';
import type { Io } from './output.ts';

export interface ControlFlags {
  readonly data?: string;
  readonly ticket?: string;
  readonly json?: true;
}

/** A command waits so long for a control plane that does not answer. */
const PATIENCE_MS = 2_000;
/** One that was started a moment ago listens by then. */
const START_MS = 5_000;
const LOOK_MS = 50;
const ADDRESS_FILE = 'control.json';
const UNITS_MS: Readonly<Record<string, number>> = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

export const ACCESS_HELP = `
The control plane of this machine is found by its folder (--data, default BPR_DATA_DIR/control or ~/.blueprint-runner/control), whose
operator's token is used; one that is just starting is waited for, 5 s at most. Another one is reached with a ticket (--ticket, or
CONTROL_PLANE_TICKET) that allows what the command does; the command enrols with the key BPR_DATA_DIR/identity.key or
~/.blueprint-runner/identity.key, which is made when there is none.`;

export function withAccess(command: Command): Command {
  return command
    .option('--data <dir>', 'folder of a control plane on this machine')
    .option('--ticket <ticket>', 'a ticket, or file:/path of one (default: CONTROL_PLANE_TICKET)')
    .option('--json', 'print one JSON document');
}

export function controlFolder(io: Io, data: string | undefined): string {
  return data === undefined ? join(baseFolder(io), 'control') : resolve(io.cwd, data);
}

/** Rejects with `CONFIG_INVALID`, `NOT_FOUND`. */
async function credentialsOf(io: Io, { data, ticket = io.env['CONTROL_PLANE_TICKET'], json }: ControlFlags): Promise<ControlCredentials> {
  if (data === undefined && ticket !== undefined && ticket !== '')
    return { ticket: textOf(io, ticket), identity: openIdentity(join(baseFolder(io), 'identity.key')) };
  const folder = controlFolder(io, data);
  await waitForAddress(io, folder, json);
  const address = readIn(folder, ADDRESS_FILE);
  const { url, tlsKeySha256 } = JSON.parse(address) as { readonly url: string; readonly tlsKeySha256?: string }; // written by the control plane
  return { url, token: readIn(folder, 'admin.token').trim(), tlsKeySha256 };
}

/** It is written once the control plane listens; without one in time what reads it says so. */
async function waitForAddress({ stderr }: Io, folder: string, json: true | undefined): Promise<void> {
  const file = join(folder, ADDRESS_FILE);
  if (existsSync(file)) return;
  if (!json) stderr.write(`waiting up to ${START_MS / 1_000} s for a control plane in ${folder} ...\n`);
  const until = systemClock.monotonic() + START_MS;
  while (!existsSync(file) && systemClock.monotonic() < until) await systemClock.sleep(LOOK_MS);
}

/** Runs the work with a connection that is closed after it. */
export async function withControl<T>(io: Io, flags: ControlFlags, work: (control: ControlClient) => Promise<T>): Promise<T> {
  const { ControlClient: Client } = await import('../queue/control-client.ts');
  const control = new Client({ credentials: await credentialsOf(io, flags), reconnectMs: PATIENCE_MS });
  try {
    return await work(control);
  } finally {
    await control.close();
  }
}

/** The same with its queue, which takes large payloads, and its object store. */
export async function withQueue<T>(
  io: Io,
  flags: ControlFlags,
  work: (queue: WorkQueue, objects: RemoteObjects) => Promise<T>,
): Promise<T> {
  const [{ RemoteQueue: Remote }, { RemoteObjects: Objects }, { ClaimCheckQueue }] = await Promise.all([
    import('../queue/remote.ts'),
    import('../queue/remote-objects.ts'),
    import('../queue/claim-check.ts'),
  ]);
  const queue: RemoteQueue = await Remote.connect({ credentials: await credentialsOf(io, flags), reconnectMs: PATIENCE_MS });
  try {
    const objects = new Objects(queue.control);
    return await work(new ClaimCheckQueue({ queue, objects }), objects);
  } finally {
    await queue.close();
  }
}

/** `30s`, `15m`, `2h`, `7d` in milliseconds. */
export function parseSpan(text: string): number {
  const [, count, unit = ''] = /^([1-9]\d{0,5})([smhd])$/.exec(text) ?? [];
  if (count === undefined) throw new InvalidArgumentError('It must be a time span like 30s, 15m, 2h or 7d.');
  return Number(count) * (UNITS_MS[unit] ?? 0);
}

export const collect = (value: string, before: readonly string[] = []): readonly string[] => [...before, value];

function textOf({ cwd }: Io, ticket: string): string {
  if (!ticket.startsWith('file:')) return ticket;
  const path = resolve(cwd, ticket.slice('file:'.length));
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    throw new RunnerError('CONFIG_INVALID', `the ticket file ${path} cannot be read`, { cause, details: { path } });
  }
}

function readIn(folder: string, name: string): string {
  try {
    return readFileSync(join(folder, name), 'utf8');
  } catch (cause) {
    const message = `there is no control plane in ${folder}: it has no ${name}; start one with bpr control-plane, or give --data or --ticket`;
    throw new RunnerError('NOT_FOUND', message, { cause, details: { folder } });
  }
}
