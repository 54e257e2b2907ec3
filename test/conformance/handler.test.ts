/** The built bundle passes the same cases on every platform, and answers the same bytes. */

import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { canRunHandlerCase, checkHandlerCase, handlerCases } from '../../src/conformance/handler.ts';
import type { HandlerCaseAnswer, HandlerCaseRequest, HandlerPlatform } from '../../src/conformance/handler.ts';
import { createHandler } from '../../handler/index.ts';
import { startLambdaRuntimeApi } from '../../src/testing/lambda-runtime-api.ts';
import type { LambdaOutcome } from '../../src/testing/lambda-runtime-api.ts';
import { router } from '../fixtures/handler/jobs.ts';
import { buildFixture, call, keepAliveAgent, managedRuntime, pipe, start, temporaryDirectory } from '../fixtures/handler/process.ts';
import type { HandlerProcess, UnpackedHandler } from '../fixtures/handler/process.ts';

interface OpenPlatform extends HandlerPlatform {
  close(): Promise<void>;
}

type Open = (unpacked: UnpackedHandler) => Promise<OpenPlatform>;

const LINE_END = 0x0a;
const withoutLineEnd = (bytes: Buffer): Buffer => (bytes.at(-1) === LINE_END ? bytes.subarray(0, -1) : bytes);
/** Calls that name no id get a random one; it may be part of a message. */
const withoutRandomIds = (body: Uint8Array): string =>
  Buffer.from(body)
    .toString('latin1')
    .replaceAll(/[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}/g, '<id>');

const http =
  (env: () => Readonly<Record<string, string>>): Open =>
  async ({ file }) => {
    const server = start(file, { env: env() });
    const address = await server.address;
    const agent = keepAliveAgent();
    return {
      offers: ['http', 'text', 'large'],
      send: ({ headers, jobId, body }) => call(address, { agent, headers, path: jobId === undefined ? '/invoke' : `/job/${jobId}` }, body),
      async close() {
        agent.destroy();
        await server.stop();
      },
    };
  };

const stdioOnce: Open = async ({ bootstrap }) => ({
  offers: ['text'],
  send: async ({ body }) => ({ body: withoutLineEnd(await pipe(start(bootstrap, { executable: bootstrap }), body)) }),
  close: async () => {},
});

const stdioLines: Open = async ({ file }) => {
  const session = start(file, { args: ['--stdio=lines'] });
  return {
    offers: ['text'],
    async send({ body }) {
      // A line holds no line ends; JSON does not need them.
      session.child.stdin.write(
        Buffer.concat([
          Buffer.from(
            Buffer.from(body)
              .toString('utf8')
              .replaceAll(/[\r\n]/g, ' '),
          ),
          Buffer.of(LINE_END),
        ]),
      );
      return { body: Buffer.from(String((await session.lines.next()).value)) };
    },
    close: () => session.stop(),
  };
};

/** As a function URL and an HTTP API deliver a request. */
function httpEvent({ headers, jobId, body }: HandlerCaseRequest): object {
  const isText = headers['content-type'] === 'application/json';
  return {
    version: '2.0',
    rawPath: jobId === undefined ? '/' : `/live/job/${jobId}`,
    headers: { ...headers, host: 'abc.lambda-url.us-east-1.on.aws' },
    requestContext: { http: { method: 'POST', path: '/' }, stage: 'live' },
    body: Buffer.from(body).toString(isText ? 'utf8' : 'base64'),
    isBase64Encoded: !isText,
  };
}

interface HttpEventResult {
  readonly statusCode: number;
  readonly body: string;
  readonly isBase64Encoded: boolean;
}

const fromHttpEventResult = ({ statusCode, body, isBase64Encoded }: HttpEventResult): HandlerCaseAnswer => ({
  status: statusCode,
  body: Buffer.from(body, isBase64Encoded ? 'base64' : 'utf8'),
});

async function invokeManaged({ child, replies }: HandlerProcess, eventJson: string): Promise<string> {
  child.stdin.write(`{"remainingMs":60000,"event":${eventJson}}\n`);
  return String((await replies.next()).value);
}

const managed =
  (overHttp: boolean): Open =>
  async ({ file }) => {
    const runtime = start(managedRuntime, { args: [file] });
    await runtime.address;
    return {
      offers: overHttp ? ['http', 'text'] : [],
      async send(request) {
        if (!overHttp)
          return {
            body: Buffer.from(
              await invokeManaged(
                runtime,
                Buffer.from(request.body)
                  .toString('utf8')
                  .replaceAll(/[\r\n]/g, ' '),
              ),
            ),
          };
        return fromHttpEventResult(JSON.parse(await invokeManaged(runtime, JSON.stringify(httpEvent(request)))) as HttpEventResult);
      },
      close: () => runtime.stop(),
    };
  };

const responseOf = (outcome: LambdaOutcome): Buffer => {
  if (outcome.kind !== 'response') throw new Error(`${outcome.fault.type}: ${outcome.fault.body}`);
  return outcome.body;
};

function fromPrelude(stream: Buffer): HandlerCaseAnswer {
  const end = stream.indexOf(Buffer.alloc(8));
  const { statusCode } = JSON.parse(stream.toString('utf8', 0, end)) as { statusCode: number };
  return { status: statusCode, body: stream.subarray(end + 8) };
}

const customRuntime =
  (overHttp: boolean, responseMode: 'buffered' | 'streaming'): Open =>
  async ({ bootstrap }) => {
    const api = await startLambdaRuntimeApi();
    const runtime = start(bootstrap, {
      executable: bootstrap,
      env: { AWS_LAMBDA_RUNTIME_API: api.address, _HANDLER: 'handler.handler', BLUEPRINT_RESPONSE_MODE: responseMode },
    });
    return {
      offers: overHttp ? ['http', 'text', ...(responseMode === 'streaming' ? (['large'] as const) : [])] : ['text'],
      async send(request) {
        if (!overHttp) return { body: responseOf(await api.invoke(request.body)) };
        const response = responseOf(await api.invoke(JSON.stringify(httpEvent(request))));
        return responseMode === 'streaming'
          ? fromPrelude(response)
          : fromHttpEventResult(JSON.parse(response.toString()) as HttpEventResult);
      },
      async close() {
        await runtime.stop();
        await api.close();
      },
    };
  };

const platforms: Readonly<Record<string, Open>> = {
  'HTTP server on a port': http(() => ({ PORT: '0' })),
  'HTTP server on a unix socket': http(() => ({ BLUEPRINT_SOCKET: `${temporaryDirectory()}/handler.sock` })),
  'stdin and stdout, once': stdioOnce,
  'stdin and stdout, line by line': stdioLines,
  'managed Lambda runtime': managed(false),
  'managed Lambda runtime behind a function URL': managed(true),
  'custom Lambda runtime': customRuntime(false, 'buffered'),
  'custom Lambda runtime, streaming': customRuntime(false, 'streaming'),
  'custom Lambda runtime behind a function URL': customRuntime(true, 'buffered'),
  'custom Lambda runtime behind a function URL, streaming': customRuntime(true, 'streaming'),
};

let unpacked: UnpackedHandler;
beforeAll(async () => {
  unpacked = await buildFixture();
});

const reference = createHandler(router);

describe.each(Object.entries(platforms))('%s', (_, open) => {
  let platform: OpenPlatform;
  beforeAll(async () => {
    platform = await open(unpacked);
  });
  afterAll(() => platform.close());

  test.each(handlerCases)('$name', async (handlerCase) => {
    if (!canRunHandlerCase(handlerCase, platform)) {
      expect(handlerCase.needs).not.toEqual([]);
      return;
    }
    const answer = await checkHandlerCase(handlerCase, platform);
    if (!('code' in handlerCase.expected)) return;
    expect(withoutRandomIds(answer.body)).toBe(withoutRandomIds((await reference.handle(handlerCase.request())).body));
  });
});
