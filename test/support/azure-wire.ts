/** What the parts of the emulator of Azure say to each other. */

import type { IncomingMessage } from 'node:http';

export type Fields = Readonly<Record<string, unknown>>;

export interface Reply {
  readonly status: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: unknown;
}

export interface AzureRequest {
  readonly method: string;
  readonly url: string;
  readonly path: string;
  readonly query: URLSearchParams;
  readonly headers: IncomingMessage['headers'];
  readonly body: Buffer;
}

export class Refusal extends Error {
  readonly status: number;
  readonly code: string;

  constructor(status: number, code: string, message: string) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** The members of a JSON object, all of which must be known. */
export function only(value: unknown, known: readonly string[], what: string): Fields {
  const object: unknown = Buffer.isBuffer(value) ? JSON.parse(value.toString()) : value;
  if (typeof object !== 'object' || object === null || Array.isArray(object))
    throw new Refusal(400, 'InvalidRequestContent', `${what} is no object`);
  for (const name of Object.keys(object))
    if (!known.includes(name))
      throw new Refusal(400, 'InvalidRequestContent', `Could not find member '${name}' on object of type '${what}'.`);
  return object as Fields;
}
