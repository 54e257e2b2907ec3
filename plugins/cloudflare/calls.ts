/** Requests to Workers themselves, and what the edge of Cloudflare answers in their place. */

import {
  Connections,
  RunnerError,
  Secret,
  decodeResponse,
  errorFromResponse,
  fieldsOf,
  isRunnerError,
  parseTarget,
} from '../../src/plugin.ts';
import type { Clock, DecodedResponse, ErrorCode, HttpRequest, HttpResponse, JobCall, Retry, SecretReference } from '../../src/plugin.ts';

export interface WorkerCallsOptions {
  readonly clock: Clock;
  /** Undefined: the Workers are public. */
  readonly token: SecretReference | undefined;
}

export type WorkerRequest = Pick<HttpRequest, 'method' | 'deadline' | 'signal' | 'body' | 'responseBytesMax'> & {
  /** Of the Worker. */
  readonly address: string;
  /** Below it. */
  readonly path: string;
  readonly headers?: readonly string[];
};

const CONNECTIONS_MAX = 256;
/** A Worker that is there, or not yet: what its address says before the platform knows it everywhere. */
const NOT_YET: ReadonlySet<number> = new Set([404, 522, 523, 525, 526, 530]);
/** Only a handler sends it. */
const HANDLER_HEADER = 'x-blueprint-wire';

export class WorkerCalls {
  readonly #connections: Connections;
  readonly #token: Secret | undefined;

  constructor({ clock, token }: WorkerCallsOptions) {
    this.#connections = new Connections({ connectionsMax: CONNECTIONS_MAX }, clock);
    this.#token = token === undefined ? undefined : new Secret(token, { clock });
  }

  /** Of the Workers; undefined when they are public. Throws or rejects with `CREDENTIALS_MISSING`. */
  token(): string | undefined | Promise<string> {
    if (!this.#token) return undefined;
    const { source } = this.#token;
    const missing = (cause: unknown): never => {
      const message = `there is no token of the Worker in ${source}: without one everybody could run its jobs. Put a long random text there, or say public: true`;
      throw new RunnerError('CREDENTIALS_MISSING', message, { cause, retry: 'never' });
    };
    try {
      const read = this.#token.read();
      return typeof read === 'string' ? read : read.catch(missing);
    } catch (cause) {
      return missing(cause);
    }
  }

  /** Once. Rejects with the errors of `HttpClient.send` and with `CREDENTIALS_MISSING`. */
  async send(request: WorkerRequest): Promise<HttpResponse> {
    const token = this.token();
    // What is sent before `close` is sent: nothing waits for a token that is there.
    return this.#send(request, typeof token === 'object' ? await token : token);
  }

  #send({ address, path, headers = [], ...request }: WorkerRequest, token: string | undefined): Promise<HttpResponse> {
    const target = parseTarget(address);
    return this.#connections.send(target, {
      ...request,
      path: target.path + path || '/',
      headers: [...headers, 'accept', 'application/json', ...(token === undefined ? [] : ['authorization', `Bearer ${token}`])],
    });
  }

  /** Whether somebody answers at an address: the Worker, or the edge that does not know it yet. */
  async isThere(request: Omit<WorkerRequest, 'method' | 'path'>): Promise<boolean> {
    try {
      const { status, headers } = await this.send({ ...request, method: 'HEAD', path: '/' });
      return !NOT_YET.has(status) || headers[HANDLER_HEADER] !== undefined;
    } catch (error) {
      if (isRunnerError(error) && (error.code === 'EXECUTOR_UNREACHABLE' || error.code === 'EXECUTOR_CONNECTION_LOST')) return false;
      throw error;
    }
  }

  close(): Promise<void> {
    return this.#connections.close();
  }
}

/**
 * What a handler answered. Throws what it or the platform reports:
 *
 * | code            | what it means                             | becomes                                             |
 * | --------------- | ----------------------------------------- | --------------------------------------------------- |
 * | 1015, 1027      | too many requests, of a second or a day   | `EXECUTOR_THROTTLED`, the handler was not reached   |
 * | 1101            | the Worker threw, or did not start        | `FUNCTION_FAILED`                                   |
 * | 1102            | it took too much CPU time or memory       | `FUNCTION_FAILED`                                   |
 * | 1000..1004, 1016, 530 | the name leads nowhere              | `EXECUTOR_UNREACHABLE`                              |
 * | 1006..1012, 1020 | a firewall refused                       | `EXECUTOR_UNAUTHORIZED`                             |
 * | 1042, 404       | there is no Worker                        | `EXECUTOR_NOT_FOUND`                                |
 * | 520..527        | the edge could not reach what is behind it | `EXECUTOR_UNAVAILABLE`; 522 and 524 `EXECUTOR_TIMEOUT` |
 *
 * https://developers.cloudflare.com/support/troubleshooting/http-status-codes/
 */
export function answerOf(response: HttpResponse, call: JobCall): DecodedResponse {
  const isOfHandler = response.headers[HANDLER_HEADER] !== undefined;
  const ofEdge = isOfHandler ? undefined : errorOfEdge(response);
  if (ofEdge) throw ofEdge;
  return decodeResponse(response, call);
}

/** Undefined when the answer is not one of the edge. */
export function errorOfEdge(response: HttpResponse): RunnerError | undefined {
  const { status, headers } = response;
  if (status < 400) return undefined;
  const code = edgeCodeOf(response);
  const judged = judge(status, code);
  if (!judged) return code === undefined ? undefined : errorFromResponse(status, response.body, headers);
  const [as, retry] = judged;
  const ray = headers['cf-ray'];
  const details = { status, ...(code !== undefined && { platformCode: code }), ...(typeof ray === 'string' && { requestId: ray }) };
  const message = `Cloudflare answered in place of the Worker: ${MEANINGS[code ?? status] ?? 'it could not reach it'} (${code ?? status})`;
  return new RunnerError(as, message, { details, ...(retry && { retry }) });
}

const MEANINGS: Readonly<Record<number, string>> = {
  404: 'there is no Worker at this address',
  1015: 'too many requests',
  1027: 'the requests of this day are used up',
  1042: 'there is no Worker at this address',
  1101: 'the Worker threw an exception, or did not start',
  1102: 'the Worker took more CPU time or memory than it may',
};

function judge(status: number, code: number | undefined): readonly [ErrorCode, Retry?] | undefined {
  if (code !== undefined) {
    if (code === 1015 || code === 1027) return ['EXECUTOR_THROTTLED'];
    if (code === 1101 || code === 1102) return ['FUNCTION_FAILED'];
    if (code === 1042) return ['EXECUTOR_NOT_FOUND'];
    if (code <= 1004 || code === 1016) return ['EXECUTOR_UNREACHABLE'];
    if (code <= 1012 || code === 1020) return ['EXECUTOR_UNAUTHORIZED'];
  }
  if (status === 522 || status === 524) return ['EXECUTOR_TIMEOUT'];
  if (status === 530) return ['EXECUTOR_UNREACHABLE'];
  // Whether the Worker had begun, nobody knows.
  if (status >= 520 && status <= 527) return ['EXECUTOR_UNAVAILABLE', 'idempotent'];
  return status === 404 ? ['EXECUTOR_NOT_FOUND'] : undefined;
}

/** 1000 to 1999, in JSON as RFC 9457 has it, in a line of text, or on a page. */
function edgeCodeOf({ body }: HttpResponse): number | undefined {
  const { error_code: inJson, cloudflare_error: isOfEdge } = fieldsOf(body) ?? {};
  if (isOfEdge === true && typeof inJson === 'number') return inJson;
  const text = Buffer.from(body.subarray(0, 64 * 1024)).toString('utf8');
  const [, inText, onPage] = /error code:?\s*(1\d{3})\b|cf-error-code">\s*(1\d{3})\b/i.exec(text) ?? [];
  return inText === undefined && onPage === undefined ? undefined : Number(inText ?? onPage);
}
