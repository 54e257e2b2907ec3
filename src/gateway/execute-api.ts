/** `/api/v1/execute`: runs a deployed function, or code that comes with the request. */

import { hash } from 'node:crypto';
import type { Clock } from '../clock.ts';
import { isRunnerError } from '../errors.ts';
import { LIMITS } from '../executor/limits.ts';
import type { Provider } from '../executor/limits.ts';
import type { CancelSignal } from '../runtime/runtime.ts';
import type { FunctionStore } from '../runtime/store.ts';
import { EXECUTE, EXECUTED } from './api.ts';
import type { Execute, Executed } from './api.ts';
import { CODE_MARK, isCodeOfRequest, isIdempotent } from './functions.ts';
import type { Functions, Invoked, Target } from './functions.ts';
import { codeOf, extraOf, settingsOf } from './function-documents.ts';
import { JSON_TYPE, badRequest, demand, json } from './http.ts';
import type { GatewayRequest, Reply, Route } from './http.ts';
import type { IdempotencyKeys } from './idempotency.ts';
import { optionsOf, reportDocument } from './invocation.ts';
import { parseJson } from './schema.ts';

export interface ExecuteApiOptions {
  readonly functions: Functions;
  readonly provider: Provider;
  readonly clock: Clock;
  readonly keys: IdempotencyKeys;
}

const MIB = 1024 * 1024;
/** Functions that were made for code of requests; the one that was used longest ago goes first. */
const CACHED_CODE_MAX = 100;
const CODE_PREFIX = 'execute-';
const CODE_NAME = /^execute-[0-9a-f]{32}$/;

/** Those of code of requests are counted together: each request may bring one that never comes again. */
export function countedName(name: string): string {
  return CODE_NAME.test(name) ? `${CODE_PREFIX}*` : name;
}

/** What an earlier process had made. */
export function removeCodeOfRequests(store: FunctionStore): void {
  for (let after: string | undefined, isMore = true; isMore;) {
    const page = store.list(after === undefined ? {} : { after });
    for (const record of page.items) if (isCodeOfRequest(record)) store.remove(record.name);
    after = page.next;
    isMore = after !== undefined;
  }
}

export function executeRoutes(options: ExecuteApiOptions): Route[] {
  const { functions, provider, keys } = options;
  const cache = new CodeCache(options);
  const { requestBytesMax, zipBytesMax } = LIMITS[provider];
  return [
    {
      method: 'POST',
      path: '/api/v1/execute',
      scope: 'invoke',
      bodyBytesMax: Math.ceil(((requestBytesMax + zipBytesMax) * 4) / 3) + MIB,
      doc: {
        summary: 'Runs a deployed function, or code that comes with the request, and answers with its output.',
        request: { contentType: JSON_TYPE, schema: EXECUTE.json },
        responses: {
          200: { about: 'the output', schema: EXECUTED.json },
          409: { about: 'the idempotency key was used for another request, or its request was cut off' },
          502: { about: 'the function failed' },
          504: { about: 'it took too long' },
        },
      },
      handle(request) {
        const input = EXECUTE.parse(parseJson(request.body, 'the body'), 'the body');
        const target = targetOf(request, input);
        const key = request.headers['idempotency-key'] ?? input.idempotency_key;
        if (key === undefined) return execute(options, request, { input, target, cache, signal: request.signal });
        if (!/^[!-~]{1,256}$/.test(key)) throw badRequest('the idempotency key is not 1 to 256 visible characters');
        return keys.once(`${request.caller.id} ${key}`, {
          hash: hash('sha256', request.body, 'hex'),
          // Without the signal: a client that is lost comes back for the answer.
          work: () => execute(options, request, { input, target, cache, signal: undefined }),
          mayRunAgain: () => (target ? isIdempotent(functions.store.get(target.name, target.qualifier)) : input.idempotent === true),
        });
      },
    },
  ];
}

/** Undefined: the code comes with the request. Throws `REQUEST_INVALID`, `FORBIDDEN`. */
function targetOf({ caller }: GatewayRequest, input: Execute): Target | undefined {
  if (input.function === undefined) {
    codeOf(input);
    // Code of strangers runs only for those who may deploy it.
    demand(caller, 'functions:write', `${CODE_PREFIX}code`);
    return undefined;
  }
  if (input.zip || input.image || Object.keys(settingsOf(input)).length > 0)
    throw badRequest('the body names a function and brings code or settings as well');
  demand(caller, 'invoke', input.function);
  return { name: input.function, qualifier: input.qualifier };
}

interface Execution {
  readonly input: Execute;
  readonly target: Target | undefined;
  readonly cache: CodeCache;
  /** Gives the call up. */
  readonly signal: CancelSignal | undefined;
}

async function execute(
  { functions, clock }: ExecuteApiOptions,
  request: GatewayRequest,
  { input, target, cache, signal }: Execution,
): Promise<Reply> {
  const { mode = 'cached', payload = null, payload_base64: bytes } = input;
  if (bytes && input.payload !== undefined) throw badRequest('the body has both payload and payload_base64');
  const event = bytes ?? Buffer.from(JSON.stringify(payload));
  const options = {
    ...optionsOf(
      { ...request, signal, headers: { ...request.headers, 'content-type': bytes ? 'application/octet-stream' : JSON_TYPE } },
      clock.now(),
    ),
    awaitLog: true,
  };
  const run = (one: Target): Promise<Invoked> =>
    mode === 'ephemeral' ? functions.invokeAlone(one, event, options) : functions.invoke(one, event, options);
  const { invocation } = await (target ? run(target) : cache.use(input, mode === 'ephemeral' ? request.id : undefined, run));
  return json(200, documentOf(invocation, mode));
}

function documentOf({ body, contentType, report, logTail }: Invoked['invocation'], mode: Executed['mode']): Executed {
  const output = jsonOf(body, contentType);
  return {
    request_id: report.requestId,
    mode,
    content_type: contentType,
    ...(output === undefined ? { output_base64: Buffer.from(body).toString('base64') } : { output: output.value }),
    logs: Buffer.from(logTail).toString('utf8'),
    report: reportDocument(report),
  };
}

function jsonOf(body: Uint8Array, contentType: string): { readonly value: unknown } | undefined {
  if (!contentType.includes('json')) return undefined;
  try {
    return { value: JSON.parse(Buffer.from(body).toString('utf8')) as unknown };
  } catch {
    return undefined;
  }
}

/** Functions that stand for code of requests: the same code and settings are the same function. */
class CodeCache {
  readonly #options: ExecuteApiOptions;
  /** By name, the last used last. */
  readonly #used = new Map<string, number>();
  readonly #making = new Map<string, Promise<void>>();

  constructor(options: ExecuteApiOptions) {
    this.#options = options;
  }

  /** `alone` makes a function for this call only. */
  async use(input: Execute, alone: string | undefined, run: (target: Target) => Promise<Invoked>): Promise<Invoked> {
    const code = codeOf(input);
    const codeHash = code.kind === 'zip' ? hash('sha256', code.bytes, 'hex') : JSON.stringify(code);
    const settings = JSON.stringify([settingsOf(input), input.backend]);
    const name = CODE_PREFIX + hash('sha256', `${codeHash} ${settings} ${alone ?? ''}`, 'hex').slice(0, 32);
    // In use, so that it is not removed to make room.
    this.#used.set(name, (this.#used.get(name) ?? 0) + 1);
    try {
      await this.#make(name, input);
      return await run({ name });
    } finally {
      this.#release(name, alone !== undefined);
    }
  }

  #make(name: string, input: Execute): Promise<void> {
    const before = this.#making.get(name);
    if (before) return before;
    const { functions, provider } = this.#options;
    const { backend } = input;
    const extra = { [CODE_MARK]: true, ...extraOf(input) };
    if (backend !== undefined) functions.checkBackend(backend);
    const making = functions.store.create({ name, code: codeOf(input), profile: provider, ...settingsOf(input), extra }).then(
      () => {},
      (thrown: unknown) => {
        // Also when there is one of this name: somebody else deployed it, and nobody knows what it does.
        this.#making.delete(name);
        throw thrown;
      },
    );
    this.#making.set(name, making);
    return making;
  }

  #release(name: string, isOver: boolean): void {
    const users = (this.#used.get(name) ?? 1) - 1;
    this.#used.delete(name);
    if (users > 0 || !isOver) this.#used.set(name, users);
    else this.#remove(name);
    for (const [oldest, count] of this.#used) {
      if (this.#used.size <= CACHED_CODE_MAX) break;
      if (count > 0) continue;
      this.#used.delete(oldest);
      this.#remove(oldest);
    }
  }

  #remove(name: string): void {
    this.#making.delete(name);
    try {
      this.#options.functions.store.remove(name);
    } catch (thrown) {
      if (!isRunnerError(thrown) || thrown.code !== 'FUNCTION_NOT_FOUND') throw thrown;
    }
  }
}
