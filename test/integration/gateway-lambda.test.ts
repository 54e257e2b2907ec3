/** The Lambda API of a gateway with real instances, as the unmodified AWS SDK and command line use it. */

import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import {
  CreateAliasCommand,
  CreateFunctionCommand,
  DeleteFunctionCommand,
  GetFunctionCommand,
  GetProvisionedConcurrencyConfigCommand,
  InvokeCommand,
  InvokeWithResponseStreamCommand,
  LambdaClient,
  PublishLayerVersionCommand,
  PublishVersionCommand,
  PutFunctionConcurrencyCommand,
  PutFunctionEventInvokeConfigCommand,
  PutProvisionedConcurrencyConfigCommand,
  TooManyRequestsException,
  UpdateAliasCommand,
  UpdateFunctionCodeCommand,
  waitUntilFunctionActiveV2,
} from '@aws-sdk/client-lambda';
import type { CreateFunctionCommandInput } from '@aws-sdk/client-lambda';
import { zipSync } from 'fflate';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ProcessBackend } from '../../plugins/process/index.ts';
import { Gateway } from '../../src/gateway/gateway.ts';
import { requirePeer, runs } from '../require.ts';

const ROLE = 'arn:aws:iam::000000000000:role/x';
const run = promisify(execFile);

let folder: string;
let gateway: Gateway;
let client: LambdaClient;
let url: string;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'bpr-gw-'));
  // Instances run as other users.
  chmodSync(folder, 0o711);
  gateway = makeGateway();
  url = await gateway.listen({ port: 0 });
  client = clientOf(url);
});

afterAll(async () => {
  client.destroy();
  await gateway.close();
  rmSync(folder, { recursive: true, force: true });
});

function makeGateway(): Gateway {
  return new Gateway({ folder, backends: new Map([['process', new ProcessBackend({ folder: join(folder, 'process'), blanks: 0 })]]) });
}

function clientOf(endpoint: string): LambdaClient {
  return new LambdaClient({ endpoint, region: 'us-east-1', credentials: { accessKeyId: 'a', secretAccessKey: 'b' }, maxAttempts: 1 });
}

function zip(source: string): Uint8Array {
  return zipSync({ 'index.mjs': Buffer.from(source) }, { mtime: '2026-01-01' });
}

async function make(FunctionName: string, source: string, settings: Partial<CreateFunctionCommandInput> = {}): Promise<string> {
  const input = { FunctionName, Role: ROLE, Runtime: 'nodejs24.x' as const, Handler: 'index.handler', Timeout: 30, ...settings };
  await client.send(new CreateFunctionCommand({ ...input, Code: { ZipFile: zip(source) } }));
  await waitUntilFunctionActiveV2({ client, maxWaitTime: 60 }, { FunctionName });
  return FunctionName;
}

function textOf(bytes: Uint8Array | undefined): string {
  return Buffer.from(bytes ?? []).toString('utf8');
}

async function call(FunctionName: string, payload: unknown = {}): Promise<unknown> {
  const { Payload, FunctionError } = await client.send(new InvokeCommand({ FunctionName, Payload: JSON.stringify(payload) }));
  const body = JSON.parse(textOf(Payload)) as unknown;
  return FunctionError === undefined ? body : { FunctionError, body };
}

describe('the AWS SDK', () => {
  it('deploys a function, calls it, and gets its log with what the call cost', async () => {
    const FunctionName = await make(
      'hello',
      `export const handler = async (event, context) => { console.log('said', event.name); return { hello: event.name, fn: context.functionName, version: context.functionVersion, arn: context.invokedFunctionArn, env: process.env.COLOUR }; };`,
      { Environment: { Variables: { COLOUR: 'red' } }, MemorySize: 256 },
    );
    const reply = await client.send(new InvokeCommand({ FunctionName, Payload: '{"name":"you"}', LogType: 'Tail' }));
    expect(JSON.parse(textOf(reply.Payload))).toEqual({
      hello: 'you',
      fn: 'hello',
      version: '$LATEST',
      arn: 'arn:aws:lambda:us-east-1:000000000000:function:hello',
      env: 'red',
    });
    const log = Buffer.from(reply.LogResult ?? '', 'base64').toString();
    expect(log).toMatch(
      /^START RequestId: \S+ Version: \$LATEST\n.*said you.*\nEND RequestId: \S+\nREPORT RequestId: \S+\tDuration: [\d.]+ ms\t.*Memory Size: 256 MB\t.*Init Duration: [\d.]+ ms/s,
    );
  });

  it('sees what goes wrong in a function, each as the service tells it', async () => {
    const FunctionName = await make(
      'wrong',
      `export const handler = async ({ how }) => {
        if (how === 'throw') throw new RangeError('too far');
        if (how === 'exit') process.exit(3);
        if (how === 'large') return 'x'.repeat(6_291_600);
        return 'x'.repeat(6_291_554);
      };`,
    );
    const hangs = await make('hangs', `export const handler = () => new Promise(() => setInterval(() => {}, 1000));`, { Timeout: 1 });
    expect(await call(FunctionName, { how: 'throw' })).toMatchObject({
      FunctionError: 'Unhandled',
      body: { errorType: 'RangeError', errorMessage: 'too far' },
    });
    expect(await call(FunctionName, { how: 'exit' })).toMatchObject({
      body: { errorType: 'Runtime.ExitError', errorMessage: expect.stringMatching(/Runtime exited with error: exit status 3$/) as string },
    });
    expect(await call(hangs)).toMatchObject({
      body: { errorType: 'Sandbox.Timedout', errorMessage: expect.stringMatching(/Task timed out after 1\.00 seconds$/) as string },
    });
    expect(await call(FunctionName, { how: 'large' })).toMatchObject({ body: { errorType: 'Function.ResponseSizeTooLarge' } });
    expect(String(await call(FunctionName, {})).length).toBe(6_291_554);
    const broken = await make('broken', `import './missing.mjs'; export const handler = 1;`);
    expect(await call(broken)).toMatchObject({ FunctionError: 'Unhandled', body: { errorType: 'Runtime.ImportModuleError' } });
  });

  it('reads a stream chunk by chunk', async () => {
    const FunctionName = await make(
      'stream',
      `export const handler = awslambda.streamifyResponse(async (event, stream) => {
        for (let index = 0; index < 3; index++) { stream.write('chunk ' + index); await new Promise((resolve) => setTimeout(resolve, 50)); }
        if (event.fail) throw new TypeError('in the middle');
        stream.end();
      });`,
    );
    const read = async (payload: string): Promise<(string | undefined)[]> => {
      const { EventStream } = await client.send(new InvokeWithResponseStreamCommand({ FunctionName, Payload: payload }));
      const seen: (string | undefined)[] = [];
      for await (const event of EventStream ?? [])
        seen.push(event.PayloadChunk ? textOf(event.PayloadChunk.Payload) : event.InvokeComplete?.ErrorCode);
      return seen;
    };
    expect(await read('{}')).toEqual(['chunk 0', 'chunk 1', 'chunk 2', undefined]);
    expect(await read('{"fail":true}')).toEqual(['chunk 0', 'chunk 1', 'chunk 2', 'TypeError']);
  });

  it('has an instance after a buffered answer passes through a stream as one chunk', async () => {
    const { EventStream } = await client.send(new InvokeWithResponseStreamCommand({ FunctionName: 'hello', Payload: '{"name":"s"}' }));
    const seen: unknown[] = [];
    for await (const event of EventStream ?? []) if (event.PayloadChunk) seen.push(JSON.parse(textOf(event.PayloadChunk.Payload)));
    expect(seen).toMatchObject([{ hello: 's' }]);
  });

  it('is throttled by a reservation', async () => {
    const FunctionName = await make('slow', `export const handler = async ({ gate }) => (await fetch(gate)).status;`, {
      Tags: { 'bpr:network': 'open' },
    });
    await client.send(new PutFunctionConcurrencyCommand({ FunctionName, ReservedConcurrentExecutions: 1 }));
    // The call that runs ends when the others were refused.
    const opened = Promise.withResolvers<void>();
    const gate = createServer((_, response) => void opened.promise.then(() => response.end()));
    await once(gate.listen(0, '127.0.0.1'), 'listening');
    const Payload = JSON.stringify({ gate: `http://127.0.0.1:${(gate.address() as AddressInfo).port}` });
    const refused: unknown[] = [];
    const invoke = (): Promise<unknown> =>
      client.send(new InvokeCommand({ FunctionName, Payload })).catch((reason: unknown) => {
        if (refused.push(reason) === 2) opened.resolve();
      });
    await Promise.all([1, 2, 3].map(invoke));
    gate.close();
    expect(refused).toHaveLength(2);
    for (const reason of refused) {
      expect(reason).toBeInstanceOf(TooManyRequestsException);
      expect(reason).toMatchObject({ Reason: 'ReservedFunctionConcurrentInvocationLimitExceeded' });
    }
  });

  it('replaces code: no call after it is served by the old', async () => {
    const FunctionName = await make('replaced', `export const handler = async () => 'old';`);
    expect(await call(FunctionName)).toBe('old');
    await client.send(new PublishVersionCommand({ FunctionName }));
    await client.send(new UpdateFunctionCodeCommand({ FunctionName, ZipFile: zip(`export const handler = async () => 'new';`) }));
    expect(await Promise.all([1, 2, 3, 4].map(() => call(FunctionName)))).toEqual(['new', 'new', 'new', 'new']);
    expect(await call(`${FunctionName}:1`)).toBe('old');
  });

  it('sees layers at /opt, a later one over an earlier one', async () => {
    const layer = async (LayerName: string, files: Record<string, string>): Promise<string> => {
      const ZipFile = zipSync(Object.fromEntries(Object.entries(files).map(([name, text]) => [name, Buffer.from(text)])));
      return (await client.send(new PublishLayerVersionCommand({ LayerName, Content: { ZipFile } }))).LayerVersionArn ?? '';
    };
    const one = await layer('one', { 'a.txt': 'one', 'b.txt': 'one' });
    const two = await layer('two', { 'b.txt': 'two' });
    const source = `import { readFileSync } from 'node:fs';
      const at = (name) => { for (const place of ['/opt', process.env.LAMBDA_LAYERS_ROOT]) try { return readFileSync(place + '/' + name, 'utf8'); } catch {} };
      export const handler = async () => [at('a.txt'), at('b.txt')];`;
    await make('layered', source, { Layers: [one, two] });
    expect(await call('layered')).toEqual(['one', 'two']);
  });

  it('keeps instances warm for real', async () => {
    const FunctionName = await make('warm', `const started = Date.now(); export const handler = async () => started;`);
    await client.send(new PublishVersionCommand({ FunctionName }));
    const where = { FunctionName, Qualifier: '1' };
    await client.send(new PutProvisionedConcurrencyConfigCommand({ ...where, ProvisionedConcurrentExecutions: 1 }));
    await expect.poll(async () => (await client.send(new GetProvisionedConcurrencyConfigCommand(where))).Status).toBe('READY');
    const before = Date.now();
    expect(Number(await call(`${FunctionName}:1`))).toBeLessThanOrEqual(before);
    // An alias that leads elsewhere takes its instances along.
    await client.send(new CreateAliasCommand({ FunctionName, Name: 'live', FunctionVersion: '1' }));
    const live = { FunctionName, Qualifier: 'live' };
    await client.send(new PutProvisionedConcurrencyConfigCommand({ ...live, ProvisionedConcurrentExecutions: 1 }));
    await client.send(
      new UpdateFunctionCodeCommand({
        FunctionName,
        ZipFile: zip(`const started = Date.now(); export const handler = async () => -started;`),
        Publish: true,
      }),
    );
    await client.send(new UpdateAliasCommand({ FunctionName, Name: 'live', FunctionVersion: '2' }));
    await expect.poll(async () => (await client.send(new GetProvisionedConcurrencyConfigCommand(live))).Status).toBe('READY');
    const moved = Date.now();
    expect(-Number(await call(`${FunctionName}:live`))).toBeLessThanOrEqual(moved);
  });

  it('queues a call, and finds what it came to', async () => {
    const FunctionName = await make('queued', `export const handler = async (event) => ({ doubled: event.x * 2 });`);
    const Destination = `file://${folder}/lambda/destinations/done`;
    await client.send(new PutFunctionEventInvokeConfigCommand({ FunctionName, DestinationConfig: { OnSuccess: { Destination } } }));
    const { StatusCode, $metadata } = await client.send(new InvokeCommand({ FunctionName, InvocationType: 'Event', Payload: '{"x":21}' }));
    expect(StatusCode).toBe(202);
    const record = (): unknown => {
      try {
        return JSON.parse(readFileSync(join(folder, 'lambda', 'destinations', 'done', `${$metadata.requestId}-success.json`), 'utf8'));
      } catch {
        return undefined;
      }
    };
    await expect
      .poll(record)
      .toMatchObject({ requestPayload: { x: 21 }, responsePayload: { doubled: 42 }, requestContext: { condition: 'Success' } });
  });

  it('finds its functions again after a restart', async () => {
    client.destroy();
    await gateway.close();
    gateway = makeGateway();
    url = await gateway.listen({ port: 0 });
    client = clientOf(url);
    expect(await call('hello', { name: 'again' })).toMatchObject({ hello: 'again' });
    expect(await call('replaced:1')).toBe('old');
    expect((await client.send(new GetFunctionCommand({ FunctionName: 'slow' }))).Concurrency?.ReservedConcurrentExecutions).toBe(1);
    await client.send(new DeleteFunctionCommand({ FunctionName: 'hello' }));
    await expect(call('hello')).rejects.toMatchObject({ name: 'ResourceNotFoundException' });
  });
});

const testAws = requirePeer('aws', () => runs('aws', '--version'));

testAws(
  'the aws command line deploys, calls and removes a function',
  async () => {
    const code = join(folder, 'code.zip');
    const out = join(folder, 'out.json');
    writeFileSync(code, zip(`export const handler = async (event) => ({ got: event });`));
    const aws = async (...args: string[]): Promise<Record<string, unknown>> => {
      const env = {
        PATH: `${process.env['PATH'] ?? ''}:${dirname(process.execPath)}`,
        HOME: folder,
        AWS_ACCESS_KEY_ID: 'a',
        AWS_SECRET_ACCESS_KEY: 'b',
        AWS_DEFAULT_REGION: 'us-east-1',
        AWS_ENDPOINT_URL: url,
        AWS_MAX_ATTEMPTS: '1',
        AWS_PAGER: '',
      };
      const { stdout } = await run('aws', ['lambda', ...args, '--output', 'json'], { env });
      return stdout === '' ? {} : (JSON.parse(stdout) as Record<string, unknown>);
    };
    const named = ['--function-name', 'cli'];
    const made = await aws(
      'create-function',
      ...named,
      '--runtime',
      'nodejs24.x',
      '--role',
      ROLE,
      '--handler',
      'index.handler',
      '--zip-file',
      `fileb://${code}`,
    );
    expect(made['State']).toBe('Active');
    await aws('wait', 'function-active-v2', ...named);
    const reply = await aws(
      'invoke',
      ...named,
      '--cli-binary-format',
      'raw-in-base64-out',
      '--payload',
      '{"a":1}',
      '--log-type',
      'Tail',
      out,
    ).catch(() => aws('invoke', ...named, '--payload', '{"a":1}', '--log-type', 'Tail', out));
    expect([reply['StatusCode'], JSON.parse(readFileSync(out, 'utf8'))]).toEqual([200, { got: { a: 1 } }]);
    expect((await aws('publish-version', ...named))['Version']).toBe('1');
    expect(await aws('create-alias', ...named, '--name', 'prod', '--function-version', '1')).toMatchObject({ Name: 'prod' });
    expect(((await aws('list-functions'))['Functions'] as { FunctionName: string }[]).map(({ FunctionName }) => FunctionName)).toContain(
      'cli',
    );
    await aws('delete-function', ...named);
    await expect(aws('get-function', ...named)).rejects.toThrow('ResourceNotFoundException');
  },
  180_000,
);
