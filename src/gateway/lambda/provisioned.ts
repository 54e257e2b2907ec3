/** Provisioned concurrency: instances that are kept warm for a version or an alias, for real. */

import { RunnerError, toRunnerError } from '../../errors.ts';
import type { Attachment } from '../../runtime/attachments.ts';
import type { JsonObject } from '../../runtime/store-records.ts';
import type { Resolved } from '../../runtime/store.ts';
import { missing } from './fields.ts';
import { functionArn } from './names.ts';
import { NO_CONTENT, answer, awsTime, nextMarker, pageOf } from './operation.ts';
import type { Handlers, LambdaParts } from './operation.ts';
import { requireQualifier } from './versions.ts';

const PAGE_MAX = 50;

interface Wanted {
  readonly count: number;
}

/** Instances of one version that are kept. */
interface Warmth {
  readonly fingerprint: string;
  readonly count: number;
  state: 'IN_PROGRESS' | 'READY' | 'FAILED';
  reason?: string;
  /** Keeps them no more. */
  readonly release: () => void;
}

/** What a qualifier leads to. */
type Wish = Resolved & { readonly qualifier: string; readonly count: number };

export class Provisioned {
  readonly #parts: LambdaParts;
  /** By function name, then by qualifier: those that lead to the same version share one. */
  readonly #warmth = new Map<string, ReadonlyMap<string, Warmth>>();

  constructor(parts: LambdaParts) {
    this.#parts = parts;
  }

  /** After a start, and after each change of the function: what is wanted now is warmed, what is wanted no more may go. */
  refresh(name: string): void {
    const { store } = this.#parts;
    const wanted = store.attachments.list<Wanted>(name, 'provisioned').items;
    const before = this.#warmth.get(name) ?? new Map<string, Warmth>();
    const after = new Map<string, Warmth>();
    const wishes = wanted.flatMap(({ qualifier, value }) => {
      try {
        return [{ ...store.resolve(name, qualifier, () => 1), qualifier, count: value.count }];
      } catch (thrown) {
        after.set(qualifier, { fingerprint: '', count: 0, state: 'FAILED', reason: toRunnerError(thrown).message, release() {} });
        return [];
      }
    });
    for (const wish of wishes) {
      const { fingerprint } = wish.fn;
      const count = Math.max(...wishes.map((other) => (other.fn.fingerprint === fingerprint ? other.count : 0)));
      const same = [...after.values(), ...before.values()].find((one) => one.fingerprint === fingerprint && one.count === count);
      after.set(wish.qualifier, same && same.state !== 'FAILED' ? same : this.#warm({ ...wish, count }));
    }
    if (after.size > 0) this.#warmth.set(name, after);
    else this.#warmth.delete(name);
    const needed = new Set([...after.values()].map(({ fingerprint }) => fingerprint));
    // Of a version that is gone the instances have gone with it.
    const left = before.size > 0 ? store.fingerprints(name) : [];
    for (const warmth of new Set(before.values()))
      if (!needed.has(warmth.fingerprint) && left.includes(warmth.fingerprint)) warmth.release();
  }

  /** After its instances were ended: what is wanted is warmed anew. */
  drained(name: string): void {
    this.#warmth.delete(name);
    this.refresh(name);
  }

  /** All functions, after a start. */
  refreshAll(): void {
    const { store } = this.#parts;
    let after: string | undefined;
    do {
      const page = store.list(after === undefined ? {} : { after });
      for (const { name } of page.items) this.refresh(name);
      after = page.next;
    } while (after !== undefined);
  }

  handlers() {
    const { store } = this.#parts;
    return {
      PutProvisionedConcurrencyConfig: ({ fn, fields }) => {
        const count = fields().whole('ProvisionedConcurrentExecutions');
        if (count === undefined) throw missing('ProvisionedConcurrentExecutions');
        const key = { name: fn.name, qualifier: requireQualifier(fn.qualifier), kind: 'provisioned' } as const;
        checkCount(count, store.reserved(fn.name));
        const put = store.attachments.put<Wanted>(key, { count });
        this.refresh(fn.name);
        return answer(202, show(put));
      },
      GetProvisionedConcurrencyConfig: ({ fn, query }) => {
        if (query.get('List') === 'ALL') {
          store.get(fn.name);
          const page = store.attachments.list<Wanted>(fn.name, 'provisioned', pageOf(query, PAGE_MAX));
          const { place } = this.#parts;
          const configs = page.items.map((item) => ({ FunctionArn: functionArn(place, item.name, item.qualifier), ...this.#show(item) }));
          return answer(200, { ProvisionedConcurrencyConfigs: configs, ...nextMarker(page) });
        }
        const qualifier = requireQualifier(fn.qualifier);
        store.get(fn.name, qualifier);
        const found = store.attachments.get<Wanted>({ name: fn.name, qualifier, kind: 'provisioned' });
        if (found) return answer(200, this.#show(found));
        throw new RunnerError('NOT_FOUND', 'No Provisioned Concurrency Config found for this function', {
          details: { awsType: 'ProvisionedConcurrencyConfigNotFoundException' },
        });
      },
      DeleteProvisionedConcurrencyConfig: ({ fn }) => {
        const qualifier = requireQualifier(fn.qualifier);
        store.get(fn.name, qualifier);
        store.attachments.remove({ name: fn.name, qualifier, kind: 'provisioned' });
        this.refresh(fn.name);
        return NO_CONTENT;
      },
    } satisfies Partial<Handlers>;
  }

  #warm({ fn, record, qualifier, count }: Wish): Warmth {
    const { runtimeOf, telemetry } = this.#parts;
    const keep = async (instances: number): Promise<void> => runtimeOf(record).warm(fn, instances, { keep: true });
    const warmth: Warmth = { fingerprint: fn.fingerprint, count, state: 'IN_PROGRESS', release: () => void keep(0).catch(() => {}) };
    keep(count).then(
      () => (warmth.state = 'READY'),
      (thrown: unknown) => {
        warmth.state = 'FAILED';
        warmth.reason = toRunnerError(thrown).message;
        telemetry.log.warn('provisioned concurrency failed', { function: fn.name, qualifier, reason: warmth.reason });
      },
    );
    return warmth;
  }

  #show({ name, qualifier, value, modifiedAt }: Attachment<Wanted>): JsonObject {
    const { state = 'IN_PROGRESS', reason } = this.#warmth.get(name)?.get(qualifier) ?? {};
    const ready = state === 'READY' ? value.count : 0;
    return {
      RequestedProvisionedConcurrentExecutions: value.count,
      AvailableProvisionedConcurrentExecutions: ready,
      AllocatedProvisionedConcurrentExecutions: ready,
      Status: state,
      ...(reason !== undefined && { StatusReason: reason }),
      LastModified: awsTime(modifiedAt),
    };
  }
}

function show({ value, modifiedAt }: Attachment<Wanted>): JsonObject {
  return {
    RequestedProvisionedConcurrentExecutions: value.count,
    AvailableProvisionedConcurrentExecutions: 0,
    AllocatedProvisionedConcurrentExecutions: 0,
    Status: 'IN_PROGRESS',
    LastModified: awsTime(modifiedAt),
  };
}

function checkCount(count: number, reserved: number | undefined): void {
  const details = { awsType: 'InvalidParameterValueException' };
  if (count < 1) throw new RunnerError('REQUEST_INVALID', 'ProvisionedConcurrentExecutions must be at least 1', { details });
  if (reserved !== undefined && count > reserved) {
    throw new RunnerError(
      'REQUEST_INVALID',
      `Requested Provisioned Concurrency should not be greater than the reservedConcurrentExecution for function (${reserved})`,
      { details },
    );
  }
}
