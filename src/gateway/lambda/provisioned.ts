/** Provisioned concurrency: instances that are kept warm for a version or an alias, for real. */

import { RunnerError, toRunnerError } from '../../errors.ts';
import type { Attachment } from '../../runtime/attachments.ts';
import type { JsonObject } from '../../runtime/store-records.ts';
import { missing } from './fields.ts';
import { functionArn } from './names.ts';
import { NO_CONTENT, answer, awsTime, nextMarker, pageOf } from './operation.ts';
import type { Handlers, LambdaParts } from './operation.ts';
import { requireQualifier } from './versions.ts';

const PAGE_MAX = 50;

interface Wanted {
  readonly count: number;
}

interface Warmth {
  readonly fingerprint: string;
  readonly count: number;
  state: 'IN_PROGRESS' | 'READY' | 'FAILED';
  reason?: string;
}

export class Provisioned {
  readonly #parts: LambdaParts;
  /** By function name and qualifier. */
  readonly #warmth = new Map<string, Warmth>();

  constructor(parts: LambdaParts) {
    this.#parts = parts;
  }

  /** After a start, and after each change of the function: where an alias leads elsewhere now, other instances are warmed. */
  refresh(name: string): void {
    const { store } = this.#parts;
    const wanted = store.attachments.list<Wanted>(name, 'provisioned').items;
    for (const { qualifier, value } of wanted) this.#warm({ name, qualifier }, value.count);
    const kept = new Set(wanted.map(({ qualifier }) => `${name}:${qualifier}`));
    for (const key of this.#warmth.keys()) if (key.startsWith(`${name}:`) && !kept.has(key)) this.#warmth.delete(key);
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
        this.#warm(key, count);
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
        const { fn: version, record } = store.resolve(fn.name, qualifier, () => 1);
        store.attachments.remove({ name: fn.name, qualifier, kind: 'provisioned' });
        this.#warmth.delete(`${fn.name}:${qualifier}`);
        void this.#parts
          .runtimeOf(record)
          .warm(version, 0, { keep: true })
          .catch(() => {});
        return NO_CONTENT;
      },
    } satisfies Partial<Handlers>;
  }

  #warm({ name, qualifier }: { readonly name: string; readonly qualifier: string }, count: number): void {
    const { store, runtimeOf, telemetry } = this.#parts;
    const key = `${name}:${qualifier}`;
    try {
      const { fn, record } = store.resolve(name, qualifier, () => 1);
      const before = this.#warmth.get(key);
      if (before?.fingerprint === fn.fingerprint && before.count === count && before.state !== 'FAILED') return;
      const warmth: Warmth = { fingerprint: fn.fingerprint, count, state: 'IN_PROGRESS' };
      this.#warmth.set(key, warmth);
      runtimeOf(record)
        .warm(fn, count, { keep: true })
        .then(
          () => (warmth.state = 'READY'),
          (thrown: unknown) => {
            warmth.state = 'FAILED';
            warmth.reason = toRunnerError(thrown).message;
            telemetry.log.warn('provisioned concurrency failed', { function: name, qualifier, reason: warmth.reason });
          },
        );
    } catch (thrown) {
      this.#warmth.set(key, { fingerprint: '', count, state: 'FAILED', reason: toRunnerError(thrown).message });
    }
  }

  #show({ name, qualifier, value, modifiedAt }: Attachment<Wanted>): JsonObject {
    const { state = 'IN_PROGRESS', reason } = this.#warmth.get(`${name}:${qualifier}`) ?? {};
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
