/** `bpr doctor --production`: the control plane of this machine, asked as its workers, its operator, a stranger and Prometheus ask it. */

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { systemClock } from '../../clock.ts';
import { RunnerError, toRunnerError } from '../../errors.ts';
import { HttpClient } from '../../http/http.ts';
import { ControlClient } from '../../queue/control-client.ts';
import type { QueueStats } from '../../queue/queue.ts';
import { RemoteObjects } from '../../queue/remote-objects.ts';
import { isLoopbackUrl, readTicket } from '../../queue/ticket.ts';
import { redactText } from '../../telemetry/redact.ts';
import { ownVersion } from '../version.ts';
import { verdict } from './doctor-check.ts';
import type { Check } from './doctor-check.ts';

interface Address {
  readonly url: string;
  readonly tlsKeySha256?: string;
}

interface WorkerShown {
  readonly id: string;
  readonly isPresent: boolean;
  readonly report?: { readonly version?: string; readonly concurrency?: number; readonly memoryMaxBytes?: number };
}

interface Answer {
  readonly status: number;
  readonly text: string;
  readonly date: number;
}

const ANSWER_MS = 5_000;
const ANSWER_BYTES_MAX = 64 * 1024 * 1024;
const DAY_MS = 86_400_000;
const CLOCK_MS_MAX = 5_000;
const OBJECT = Buffer.from('bpr doctor');

export async function checkControl(folder: string, now: number): Promise<Check[]> {
  const source = join(folder, 'control.json');
  if (!existsSync(source)) {
    const remedy = 'only its own machine can look at one: run bpr doctor --production there, or name its folder with --control';
    return [{ name: 'control plane', source, status: 'warn', detail: 'there is none on this machine', remedy }];
  }
  const address = addressIn(source);
  if (!address) {
    const remedy = 'start the control plane again: it writes the file anew';
    return [{ name: 'control plane', source, status: 'fail', detail: 'it does not tell where the control plane listens', remedy }];
  }
  const own = [checkTls(address, source), checkTicket(join(folder, 'endpoint.ticket'), now)];
  // Then no token is sent there.
  if (own[0]?.status === 'fail') return own;
  const plane = new Plane(folder, address);
  try {
    const reached = await attempt({ name: 'control plane', source: `${address.url}/readyz` }, () => plane.checkReady());
    if (reached.status === 'fail') return [reached, ...own];
    return [reached, ...own, ...(await plane.checkAll())];
  } finally {
    await plane.close();
  }
}

/** Undefined: it is not what a control plane has written, or cannot be read. */
function addressIn(file: string): Address | undefined {
  try {
    const found = JSON.parse(readFileSync(file, 'utf8')) as Address; // written by the control plane
    return URL.canParse(found.url) ? found : undefined;
  } catch {
    return undefined;
  }
}

function checkTls({ url, tlsKeySha256 }: Address, source: string): Check {
  const isPlain = !url.startsWith('https:');
  const detail = isPlain ? url : `${url}, key ${tlsKeySha256?.slice(0, 12) ?? 'of an authority'}`;
  return verdict({ name: 'TLS', source, detail }, [
    [
      isPlain && !isLoopbackUrl(url),
      'fail',
      'jobs and tokens go over the network in the open: start it without a proxy, or with --tls-cert and --tls-key',
    ],
  ]);
}

function checkTicket(file: string, now: number): Check {
  const name = 'ticket';
  if (!existsSync(file)) return { name, source: file, status: 'warn', detail: 'there is none', remedy: 'bpr ticket create makes one' };
  try {
    const { id, urls, expiresAt } = readTicket(readFileSync(file, 'utf8'));
    const days = (expiresAt - now) / DAY_MS;
    const plain = urls.find((url) => !url.startsWith('https:') && !isLoopbackUrl(url));
    return verdict({ name, source: file, detail: `${id} until ${new Date(expiresAt).toISOString()} for ${urls.join(', ')}` }, [
      [plain !== undefined, 'fail', `workers would speak to ${plain} without TLS: start the control plane with TLS and rotate the ticket`],
      [days <= 0, 'fail', 'no worker can enrol with it: bpr ticket rotate'],
      [days < 2, 'warn', 'bpr ticket rotate, before new workers cannot enrol'],
    ]);
  } catch (thrown) {
    const { code, message } = toRunnerError(thrown);
    return {
      name,
      source: file,
      status: 'fail',
      detail: `${code}: ${redactText(message)}`,
      remedy: 'bpr ticket rotate writes another one',
    };
  }
}

/** Rejects never: what was thrown is the detail. */
async function attempt(about: { readonly name: string; readonly source: string }, look: () => Promise<Check>): Promise<Check> {
  try {
    return await look();
  } catch (thrown) {
    const { code, message } = toRunnerError(thrown);
    const remedy = 'look at its log, and whether it runs: bpr control-plane';
    return { ...about, status: 'fail', detail: `${code}: ${redactText(message)}`, remedy };
  }
}

class Plane {
  readonly #folder: string;
  readonly #url: string;
  readonly #http: HttpClient;
  readonly #control: ControlClient;

  constructor(folder: string, { url, tlsKeySha256 }: Address) {
    this.#folder = folder;
    this.#url = url;
    const tls = tlsKeySha256 !== undefined && { tls: { serverKeySha256: tlsKeySha256 } };
    this.#http = new HttpClient(url, { clock: systemClock, connectionsMax: 2, ...tls });
    const token = this.#token('admin') ?? '';
    this.#control = new ControlClient({ credentials: { url, token, tlsKeySha256 }, reconnectMs: 0, timeoutMs: ANSWER_MS });
  }

  async close(): Promise<void> {
    await this.#http.close();
    await this.#control.close();
  }

  async checkReady(): Promise<Check> {
    const { status, text, date } = await this.#get('/readyz');
    const subject = { name: 'control plane', source: `${this.#url}/readyz`, detail: `${status} ${text}` };
    const offMs = Math.abs(date - Date.now());
    if (status === 200 && offMs > CLOCK_MS_MAX)
      return {
        ...subject,
        status: 'warn',
        detail: `its clock differs by ${(offMs / 1_000).toFixed(0)} s`,
        remedy: 'set the clocks: see NTP',
      };
    return verdict(subject, [[status !== 200, 'fail', 'look at its log: it does not take jobs']]);
  }

  async checkAll(): Promise<Check[]> {
    const of = (name: string, path: string, look: (source: string) => Promise<Check>): Promise<Check> => {
      const source = `${this.#url}${path}`;
      return attempt({ name, source }, () => look(source));
    };
    const checks = [
      await of('authentication', '/workers', (source) => this.#checkStranger(source)),
      await of('metrics', '/metrics', (source) => this.#checkMetrics(source)),
      await of('limits', '/limits', (source) => this.#checkLimits(source)),
      await of('dead letters', '/queue/stats', (source) => this.#checkDead(source)),
      await of('object store', '/objects', (source) => this.#checkObjects(source)),
    ];
    try {
      const { workers } = await this.#control.ask({ method: 'GET', path: '/workers' });
      const present = (workers as readonly WorkerShown[]).filter(({ isPresent, report }) => isPresent && report?.concurrency !== undefined);
      return [...checks, ...checkWorkers(present, { source: `${this.#url}/workers`, version: ownVersion() })];
    } catch (thrown) {
      return [...checks, await of('workers', '/workers', () => Promise.reject(toRunnerError(thrown)))];
    }
  }

  async #checkStranger(source: string): Promise<Check> {
    const { status } = await this.#get('/workers');
    return verdict({ name: 'authentication', source, detail: `${status} without a token` }, [
      [status !== 401 && status !== 403, 'fail', 'whoever reaches it may use it: look for a proxy that adds a token'],
    ]);
  }

  async #checkMetrics(source: string): Promise<Check> {
    const token = this.#token('metrics');
    const { status, text } = await this.#get('/metrics', token);
    const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#')).length;
    return verdict({ name: 'metrics', source, detail: `${status}, ${lines} series with metrics.token` }, [
      [
        status !== 200 || !text.includes('blueprint_queue_jobs{'),
        'fail',
        'Prometheus sees nothing: start bpr control-plane, which tells metrics',
      ],
    ]);
  }

  async #checkLimits(source: string): Promise<Check> {
    const { limits } = await this.#control.ask({ method: 'GET', path: '/limits' });
    const entries = Object.entries(limits as Readonly<Record<string, unknown>>);
    const unset = entries.filter(([, value]) => typeof value !== 'number' || value <= 0).map(([name]) => name);
    const detail = entries.map(([name, value]) => `${name} ${String(value)}`).join(', ');
    return verdict({ name: 'limits', source, detail }, [[entries.length === 0 || unset.length > 0, 'fail', `set ${unset.join(', ')}`]]);
  }

  async #checkDead(source: string): Promise<Check> {
    const stats = (await this.#control.ask({ method: 'GET', path: '/queue/stats' })) as unknown as QueueStats; // as the route says
    const { dead, queued } = stats.byState;
    return verdict({ name: 'dead letters', source, detail: `${dead} dead, ${queued} waiting` }, [
      [dead > 0, 'warn', 'bpr queue dead tells why; bpr queue requeue gives one back, bpr queue discard forgets it'],
    ]);
  }

  async #checkObjects(source: string): Promise<Check> {
    const objects = new RemoteObjects(this.#control);
    const reference = await objects.put(OBJECT);
    const bytes = await objects.get(reference);
    await objects.remove(reference);
    if (OBJECT.equals(bytes)) return { name: 'object store', source, status: 'ok', detail: 'an object was put, fetched and removed' };
    throw new RunnerError('QUEUE_CORRUPT', `the object ${reference.key} came with other bytes than were put`);
  }

  async #get(path: string, token?: string): Promise<Answer> {
    const headers = token === undefined ? [] : ['authorization', `Bearer ${token}`];
    const {
      status,
      headers: told,
      body,
    } = await this.#http.send({
      method: 'GET',
      path,
      headers,
      deadline: Date.now() + ANSWER_MS,
      responseBytesMax: ANSWER_BYTES_MAX,
    });
    return { status, text: Buffer.from(body).toString('utf8'), date: Date.parse(String(told['date'])) };
  }

  #token(name: string): string | undefined {
    const file = join(this.#folder, `${name}.token`);
    return existsSync(file) ? readFileSync(file, 'utf8').trim() : undefined;
  }
}

/** Of those that are there and run jobs. */
function checkWorkers(
  workers: readonly WorkerShown[],
  { source, version }: { readonly source: string; readonly version: string },
): Check[] {
  const others = workers
    .filter(({ report }) => report?.version !== version)
    .map(({ id, report }) => `${id} ${report?.version ?? 'unknown'}`);
  const places = workers.reduce((sum, { report }) => sum + (report?.concurrency ?? 0), 0);
  const unbounded = workers.filter(({ report }) => !report?.memoryMaxBytes).map(({ id }) => id);
  return [
    verdict({ name: 'workers', source, detail: `${workers.length} there, ${places} places` }, [
      [workers.length === 0, 'fail', 'nobody runs jobs: start bpr worker with a ticket'],
    ]),
    verdict({ name: 'versions', source, detail: others.length > 0 ? `${others.join(', ')}; here ${version}` : `all ${version}` }, [
      [others.length > 0, 'warn', 'bring all to the same version'],
    ]),
    verdict({ name: 'memory limits', source, detail: unbounded.length > 0 ? `none for ${unbounded.join(', ')}` : 'each worker has one' }, [
      [unbounded.length > 0, 'warn', 'run each worker in a control group with a limit: MemoryMax= in systemd, --memory in Docker'],
    ]),
  ];
}
