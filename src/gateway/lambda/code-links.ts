/** Addresses from which whoever was given one may fetch a package for ten minutes, without credentials: as the service's links to its store. */

import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import type { Clock } from '../../clock.ts';
import { RunnerError } from '../../errors.ts';
import type { FunctionRecord, LayerName } from '../../runtime/store-records.ts';
import type { FunctionStore } from '../../runtime/store.ts';
import type { Reply } from '../http.ts';
import type { Handlers, OperationRequest } from './operation.ts';

const VALID_MS = 10 * 60_000;

export class CodeLinks {
  readonly #store: FunctionStore;
  readonly #clock: Clock;
  /** Of this process: a restart makes all links worthless. */
  readonly #key = randomBytes(32);

  constructor(store: FunctionStore, clock: Clock) {
    this.#store = store;
    this.#clock = clock;
  }

  ofFunction(origin: string, { name, version }: Pick<FunctionRecord, 'name' | 'version'>): string {
    return this.#sign(origin, `/2015-03-31/functions/${encodeURIComponent(name)}/code`, { Qualifier: version });
  }

  ofLayer(origin: string, { name, version }: LayerName): string {
    return this.#sign(origin, `/2018-10-31/layers/${encodeURIComponent(name)}/versions/${version}/content`, {});
  }

  handlers() {
    return {
      GetFunctionCode: async (request) => {
        this.#check(request);
        const { name, qualifier } = request.fn;
        return zip(await this.#store.codeOf(this.#store.get(name, qualifier)));
      },
      GetLayerContent: async (request) => {
        this.#check(request);
        const { LayerName: name = '', VersionNumber = '' } = request.params;
        return zip(await this.#store.layers.zipOf(this.#store.layers.get({ name, version: Number(VersionNumber) })));
      },
    } satisfies Partial<Handlers>;
  }

  #sign(origin: string, path: string, query: Readonly<Record<string, string>>): string {
    const search = new URLSearchParams({ ...query, Expires: String(this.#clock.now() + VALID_MS) });
    search.set('Signature', this.#signature(path, search));
    return `${origin}${path}?${search.toString()}`;
  }

  #check({ path, query }: Pick<OperationRequest, 'path' | 'query'>): void {
    const search = new URLSearchParams(query);
    const given = Buffer.from(search.get('Signature') ?? '');
    search.delete('Signature');
    const wanted = Buffer.from(this.#signature(path, search));
    const isValid = given.length === wanted.length && timingSafeEqual(given, wanted);
    if (isValid && Number(search.get('Expires')) > this.#clock.now()) return;
    throw new RunnerError('FORBIDDEN', 'the link is not valid, or not any more; ask for the function or layer again');
  }

  #signature(path: string, search: URLSearchParams): string {
    return createHmac('sha256', this.#key).update(`${path}?${search.toString()}`).digest('base64url');
  }
}

function zip(bytes: Uint8Array): Reply {
  return { status: 200, headers: { 'content-type': 'application/zip' }, body: bytes };
}
