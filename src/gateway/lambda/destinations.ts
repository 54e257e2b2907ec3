/** Where the outcome of a queued call is told: another function, a folder, or an HTTP address. */

import { lookup } from 'node:dns';
import { mkdir, open, realpath, rename, stat } from 'node:fs/promises';
import { request as requestHttp } from 'node:http';
import { request as requestHttps } from 'node:https';
import { BlockList, isIP } from 'node:net';
import type { LookupFunction } from 'node:net';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Clock } from '../../clock.ts';
import { RunnerError } from '../../errors.ts';
import { syncFolder } from '../../runtime/unzip.ts';
import { demand } from '../http.ts';
import type { Caller } from '../http.ts';
import type { FunctionName } from './names.ts';
import { bareName, parseFunctionName } from './names.ts';

export type Target =
  | ({ readonly kind: 'function' } & FunctionName)
  | { readonly kind: 'folder'; readonly path: string }
  | { readonly kind: 'http'; readonly url: URL };

export interface DestinationsOptions {
  /** Folders, with what is below them, that records may be written to. */
  readonly folders: readonly string[];
  readonly clock: Clock;
}

const ANSWER_MS_MAX = 30_000;
const OTHER_SERVICE = /^arn:aws[a-z-]*:(?!lambda:)/;

/** Addresses of the machine's own network segment: where clouds keep the credentials of the machine. */
const LINK_LOCAL = new BlockList();
LINK_LOCAL.addSubnet('169.254.0.0', 16, 'ipv4');
LINK_LOCAL.addSubnet('fe80::', 10, 'ipv6');
LINK_LOCAL.addAddress('fd00:ec2::254', 'ipv6');

export class Destinations {
  readonly #folders: readonly string[];
  readonly #clock: Clock;

  constructor({ folders, clock }: DestinationsOptions) {
    this.#folders = folders.map((folder) => resolve(folder));
    this.#clock = clock;
  }

  /** Throws `REQUEST_INVALID` for what nothing can be sent to. */
  check(target: string): Target {
    if (target.startsWith('file:')) return this.#folder(target);
    if (/^https?:/.test(target)) return httpTarget(target);
    if (OTHER_SERVICE.test(target)) throw refused(target, 'only functions, file:// folders and http(s):// addresses can be told here');
    return { kind: 'function', ...parseFunctionName(target) };
  }

  /** At least once: a record that was told twice has the same id. Rejects when it was not taken. */
  async deliver(target: Exclude<Target, { kind: 'function' }>, record: { readonly id: string; readonly body: Uint8Array }): Promise<void> {
    if (target.kind === 'folder') await this.#write(target.path, record);
    else await this.#post(target.url, record);
  }

  #folder(target: string): Target {
    let path: string;
    try {
      path = resolve(fileURLToPath(target));
    } catch (cause) {
      throw refused(target, 'it is no folder', cause);
    }
    if (this.#folders.some((root) => isWithin(root, path))) return { kind: 'folder', path };
    throw refused(
      target,
      `records may be written only below ${this.#folders.join(', ') || 'folders that the operator names; there are none'}`,
    );
  }

  async #write(path: string, { id, body }: { readonly id: string; readonly body: Uint8Array }): Promise<void> {
    const root = this.#folders.find((one) => isWithin(one, path)) ?? path;
    await mkdir(root, { recursive: true });
    // Before anything is made: links are followed as far as there is something.
    if (!isWithin(await realpath(root), await realpath(await nearest(path))))
      throw refused(path, 'a link leads out of the folders for records');
    await mkdir(path, { recursive: true });
    const real = await realpath(path);
    const part = join(real, `.${id}.part`);
    const file = await open(part, 'w', 0o600);
    try {
      await file.writeFile(body);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(part, join(real, `${id}.json`));
    await syncFolder(real);
  }

  #post(url: URL, { id, body }: { readonly id: string; readonly body: Uint8Array }): Promise<void> {
    const send = url.protocol === 'https:' ? requestHttps : requestHttp;
    const headers = { 'content-type': 'application/json', 'content-length': body.length, 'idempotency-key': id };
    return new Promise((accept, reject) => {
      const request = send(url, { method: 'POST', headers, agent: false, lookup: guardedLookup });
      const stop = this.#clock.after(ANSWER_MS_MAX, () => request.destroy(new Error(`no answer after ${ANSWER_MS_MAX} ms`)));
      request.on('response', (response) => {
        response.resume();
        const { statusCode = 0 } = response;
        if (statusCode >= 200 && statusCode < 300) accept();
        else reject(new RunnerError('EXECUTOR_UNAVAILABLE', `${url.origin} answered ${statusCode}`, { details: { status: statusCode } }));
      });
      request.on('error', reject);
      request.on('close', stop);
      request.end(body);
    });
  }
}

/** Who has a function told of something has it called: he must be allowed to. Throws `FORBIDDEN`. */
export function demandTold(caller: Caller, target: string): void {
  if (!/^(?:file|https?):/.test(target) && !OTHER_SERVICE.test(target)) demand(caller, 'invoke', bareName(target));
}

function refused(target: string, why: string, cause?: unknown): RunnerError {
  return new RunnerError('REQUEST_INVALID', `The destination ARN ${target} is invalid: ${why}.`, {
    cause,
    details: { awsType: 'InvalidParameterValueException' },
  });
}

function httpTarget(target: string): Target {
  const url = URL.canParse(target) ? new URL(target) : undefined;
  if (!url || url.username !== '' || url.password !== '') throw refused(target, 'it is no address without credentials');
  const host = url.hostname.replace(/^\[|\]$/g, '');
  if (isIP(host) !== 0 && isLinkLocal(host)) throw refused(target, 'addresses of the link are not told anything');
  return { kind: 'http', url };
}

function isLinkLocal(address: string): boolean {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1] ?? address;
  return LINK_LOCAL.check(mapped, isIP(mapped) === 6 ? 'ipv6' : 'ipv4');
}

/** A name may lead to an address that would have been refused. */
const guardedLookup: LookupFunction = (host, options, done) => {
  lookup(host, options, (error, address, family) => {
    const addresses = typeof address === 'string' ? [address] : (address ?? []).map((one) => one.address);
    if (!error && addresses.some(isLinkLocal)) done(new Error(`${host} leads to an address of the link`), '', 0);
    else done(error, address, family);
  });
};

/** The path, or the closest folder above it that there is. */
async function nearest(path: string): Promise<string> {
  const there = await stat(path).then(
    () => true,
    () => false,
  );
  return there || dirname(path) === path ? path : nearest(dirname(path));
}

function isWithin(root: string, path: string): boolean {
  const way = relative(root, path);
  return way === '' || (!way.startsWith('..') && !way.startsWith('/'));
}
