/** `bpr doctor --production`: what has to hold before others depend on it. */

import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { unescape } from 'node:querystring';
import { createRpcTransport } from '../../chain/transport.ts';
import { toRunnerError } from '../../errors.ts';
import { ALERTS } from '../../operations/alerts.ts';
import { redactText, redactUrl } from '../../telemetry/redact.ts';
import { controlFolder } from '../control-access.ts';
import { chainIsNamed, dataDirOf, settingsOf } from '../environment.ts';
import type { ChainFlags, DataFlags } from '../environment.ts';
import type { Io } from '../output.ts';
import { verdict } from './doctor-check.ts';
import type { Check } from './doctor-check.ts';
import { checkControl } from './doctor-control.ts';
import { checkBackups, checkDisk, checkModes } from './doctor-files.ts';
import { checkHost } from './doctor-host.ts';

export interface ProductionFlags extends ChainFlags, DataFlags {
  readonly control?: string;
  readonly alerts?: string;
  readonly prometheus?: string;
  readonly backups?: string;
}

const ANSWER_MS = 5_000;
const BLOCK_AGE_S = { warn: 60, fail: 600 };

export async function checkProduction(io: Io, flags: ProductionFlags, now: number): Promise<Check[]> {
  const dataDir = dataDirOf(io, flags);
  const control = controlFolder(io, flags.control);
  const key = /^file:(.+)$/.exec(io.env['OPERATOR_PRIVATE_KEY'] ?? '')?.[1];
  const folders = [...new Set([dataDir, dirname(control), control, join(dirname(control), 'worker')])];
  const path = (given: string | undefined): string | undefined => (given === undefined ? undefined : resolve(io.cwd, given));
  return [
    ...checkDisk(existsSync(control) ? control : dataDir),
    checkModes(folders, key === undefined ? [] : [resolve(io.cwd, key)]),
    checkBackups(path(flags.backups), now),
    checkClock(now),
    ...(await checkHost()),
    ...(await checkControl(control, now)),
    flags.prometheus === undefined ? checkAlerts(path(flags.alerts)) : await checkPrometheus(flags.prometheus),
    ...(chainIsNamed(io, flags) ? [await checkSync(io, flags, now)] : []),
  ];
}

/** Exported for its test. This program is not older than its source. */
export function checkClock(now: number): Check {
  const released = Date.UTC(2026, 0, 1);
  return verdict({ name: 'clock', source: 'the system clock', detail: new Date(now).toISOString() }, [
    [now < released, 'fail', 'it lies before this program was written: set it'],
  ]);
}

function missingIn(text: string): string[] {
  return ALERTS.map(({ name }) => name).filter((name) => !text.includes(name));
}

function checkAlerts(file: string | undefined): Check {
  const name = 'alert rules';
  if (file === undefined) {
    const remedy = 'bpr operations export writes them; then name the file with --alerts, or Prometheus with --prometheus';
    return { name, source: '--alerts, --prometheus', status: 'warn', detail: 'it is not known whether they are installed', remedy };
  }
  const remedy = 'write it with bpr operations export, and name it in rule_files of Prometheus';
  if (!existsSync(file)) return { name, source: file, status: 'fail', detail: 'there is no such file', remedy };
  try {
    return alertsIn(file, readFileSync(file, 'utf8'), remedy);
  } catch (thrown) {
    const detail = thrown instanceof Error ? thrown.message : String(thrown);
    return { name, source: file, status: 'fail', detail, remedy: 'name the file itself, alerts.yml, and let this user read it' };
  }
}

async function checkPrometheus(given: string): Promise<Check> {
  const parsed = URL.parse(`${given.replace(/\/$/, '')}/api/v1/rules`);
  const url = parsed && /^https?:$/.test(parsed.protocol) ? parsed : undefined;
  // Of what is no address nobody knows where a password is in it.
  const source = url ? redactUrl(url.href) : '--prometheus';
  const failed = (detail: string, remedy: string): Check => ({
    name: 'alert rules',
    source,
    status: 'fail',
    detail: redactText(detail),
    remedy,
  });
  if (!url) return failed('that is no address', 'write it as http://host:9090');
  const { username, password } = url;
  const headers: Record<string, string> = {};
  // As `curl` reads them, also with a percent sign that escapes nothing.
  if (username !== '' || password !== '')
    headers['authorization'] = `Basic ${Buffer.from(unescape(`${username}:${password}`)).toString('base64')}`;
  url.username = url.password = '';
  try {
    const answer = await fetch(url, { headers, signal: AbortSignal.timeout(ANSWER_MS) });
    if (answer.ok) return alertsIn(source, await answer.text(), 'name alerts.yml of bpr operations export in its rule_files');
    return failed(
      `it answered ${answer.status}`,
      'name the address of Prometheus with --prometheus, with user and password where it asks for them',
    );
  } catch (thrown) {
    const { message, cause } = toRunnerError(thrown);
    const reason = cause instanceof Error && cause.cause instanceof Error ? `: ${cause.cause.message}` : '';
    return failed(`${message}${reason}`, 'start Prometheus, or name its address with --prometheus');
  }
}

function alertsIn(source: string, text: string, remedy: string): Check {
  const missing = missingIn(text);
  const detail = missing.length > 0 ? `missing: ${missing.join(', ')}` : `all ${ALERTS.length}`;
  return verdict({ name: 'alert rules', source, detail }, [[missing.length > 0, 'fail', remedy]]);
}

/** Whether the node has what others have. */
async function checkSync(io: Io, flags: ProductionFlags, now: number): Promise<Check> {
  const name = 'chain in sync';
  try {
    const { rpcUrls: urls } = settingsOf(io, flags);
    const source = urls.map(redactUrl).join(', ');
    const transport = createRpcTransport({ urls });
    try {
      const syncing = await transport.request('eth_syncing', []);
      const block = (await transport.request('eth_getBlockByNumber', ['latest', false])) as {
        readonly number: string;
        readonly timestamp: string;
      }; // JSON-RPC
      const age = Math.round(now / 1_000 - Number(block.timestamp));
      const detail = `block ${Number(block.number)}, ${age} s old${syncing === false ? '' : ', the node is syncing'}`;
      return verdict({ name, source, detail }, [
        [syncing !== false, 'fail', 'wait until it has caught up, or name another endpoint in RPC_URL'],
        [age > BLOCK_AGE_S.fail, 'fail', 'the node is behind, or the chain stands still: name another endpoint in RPC_URL'],
        [age > BLOCK_AGE_S.warn, 'warn', 'results settle late when the node is behind'],
      ]);
    } finally {
      await transport.close();
    }
  } catch (thrown) {
    const { code, message } = toRunnerError(thrown);
    const remedy = 'Check the endpoints and the network.';
    return { name, source: 'RPC_URL', status: 'fail', detail: `${code}: ${redactText(message)}`, remedy };
  }
}
