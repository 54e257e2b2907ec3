import { createServer } from 'node:http';
import type { Server } from 'node:http';
import { mkdtempSync, rmSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { randomUUID } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  AddPermissionCommand,
  CreateAliasCommand,
  CreateFunctionCommand,
  DeleteAliasCommand,
  DeleteFunctionCommand,
  DeleteFunctionConcurrencyCommand,
  DeleteFunctionEventInvokeConfigCommand,
  DeleteLayerVersionCommand,
  DeleteProvisionedConcurrencyConfigCommand,
  GetAccountSettingsCommand,
  GetAliasCommand,
  GetFunctionCodeSigningConfigCommand,
  GetFunctionCommand,
  GetFunctionRecursionConfigCommand,
  GetRuntimeManagementConfigCommand,
  GetFunctionConcurrencyCommand,
  GetFunctionConfigurationCommand,
  GetFunctionEventInvokeConfigCommand,
  GetLayerVersionByArnCommand,
  GetLayerVersionCommand,
  GetPolicyCommand,
  GetProvisionedConcurrencyConfigCommand,
  InvokeAsyncCommand,
  InvokeCommand,
  InvokeWithResponseStreamCommand,
  LambdaClient,
  LambdaServiceException,
  ListAliasesCommand,
  ListEventSourceMappingsCommand,
  ListFunctionEventInvokeConfigsCommand,
  ListFunctionsCommand,
  ListLayerVersionsCommand,
  ListLayersCommand,
  ListProvisionedConcurrencyConfigsCommand,
  ListTagsCommand,
  ListVersionsByFunctionCommand,
  PublishLayerVersionCommand,
  PublishVersionCommand,
  PutFunctionConcurrencyCommand,
  PutFunctionEventInvokeConfigCommand,
  PutProvisionedConcurrencyConfigCommand,
  RemovePermissionCommand,
  TagResourceCommand,
  UntagResourceCommand,
  UpdateAliasCommand,
  UpdateFunctionCodeCommand,
  UpdateFunctionConfigurationCommand,
  UpdateFunctionEventInvokeConfigCommand,
  paginateListFunctions,
  waitUntilFunctionActiveV2,
  waitUntilFunctionUpdatedV2,
} from '@aws-sdk/client-lambda';
import type { CreateFunctionCommandInput } from '@aws-sdk/client-lambda';
import fc from 'fast-check';
import { zipSync } from 'fflate';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { RunnerError, toRunnerError } from '../../errors.ts';
import type { FunctionVersion, Invocation, InvocationOptions, StreamedInvocation } from '../../runtime/runtime.ts';
import { FunctionStore } from '../../runtime/store.ts';
import { ANONYMOUS } from '../auth.ts';
import { failure } from '../http.ts';
import { Router } from '../router.ts';
import { LambdaApi } from './lambda-api.ts';
import { OPERATIONS } from './operations.ts';

/** Stands in for the function runtime: what a test says happens. */
interface Script {
  invoke: (fn: FunctionVersion, event: Uint8Array, options: InvocationOptions) => Promise<Invocation>;
  stream: (fn: FunctionVersion, event: Uint8Array, options: InvocationOptions) => Promise<StreamedInvocation>;
  readonly warmed: { readonly name: string; readonly count: number }[];
}

const REPORT = { requestId: 'r', instanceId: 'i', coldStart: false, queueMs: 0, runMs: 12.345, memoryUsedMb: 40 };

let folder: string;
let store: FunctionStore;
let api: LambdaApi;
let server: Server;
let client: LambdaClient;
let origin: string;
let script: Script;

function answered(body: string | Uint8Array, log = ''): Invocation {
  return { body: Buffer.from(body), contentType: 'application/json', report: REPORT, logTail: Buffer.from(log) };
}

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'bpr-lambda-'));
  store = FunctionStore.open({ folder: join(folder, 'store'), onChange: (name) => api.changed(name) });
  script = {
    invoke: (_, event) => Promise.resolve(answered(event)),
    stream: () => Promise.reject(new Error('no stream')),
    warmed: [],
  };
  const runtime = {
    invoke: (fn: FunctionVersion, event: Uint8Array, options: InvocationOptions = {}) => script.invoke(fn, event, options),
    stream: (fn: FunctionVersion, event: Uint8Array, options: InvocationOptions = {}) => script.stream(fn, event, options),
    warm: (fn: FunctionVersion, count: number) => {
      script.warmed.push({ name: `${fn.name}:${fn.version}`, count });
      return Promise.resolve();
    },
    log: (name: string) => [
      { at: 0, name, version: '$LATEST', instanceId: 'i', stream: 'stdout' as const, requestId: lastRequestId, text: 'a line' },
    ],
  };
  api = LambdaApi.open({ functions: { store, runtimeOf: () => runtime }, folder });
  api.start();
  server = serve(api);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  client = new LambdaClient({
    endpoint: origin,
    region: 'us-east-1',
    credentials: { accessKeyId: 'a', secretAccessKey: 'b' },
    maxAttempts: 1,
  });
});

afterEach(async () => {
  client.destroy();
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  await api.close();
  store.close();
  rmSync(folder, { recursive: true, force: true });
});

let lastRequestId = '';

/** As the gateway serves routes, without what it checks. */
function serve({ routes }: LambdaApi): Server {
  const router = new Router(routes);
  return createServer((request, response) => {
    void (async () => {
      const id = randomUUID();
      lastRequestId = id;
      const chunks: Buffer[] = [];
      for await (const chunk of request) chunks.push(chunk as Buffer);
      const body = Buffer.concat(chunks);
      const url = new URL(request.url ?? '/', origin);
      let found: ReturnType<Router['find']> | undefined;
      let reply;
      try {
        found = router.find(request.method ?? '', url.pathname);
        if (body.length > (found.route.bodyBytesMax ?? 0)) throw new RunnerError('PAYLOAD_TOO_LARGE', 'too large');
        reply = await found.route.handle({
          id,
          method: request.method ?? '',
          path: url.pathname,
          params: found.params,
          query: url.searchParams,
          headers: request.headers as Record<string, string>,
          body,
          caller: ANONYMOUS,
          origin,
          signal: new AbortController().signal,
          closing: new AbortController().signal,
        });
      } catch (thrown) {
        const error = toRunnerError(thrown);
        reply = (found?.route.failure ?? failure)(error, { id, params: found?.params ?? {} });
      }
      const idHeader = found?.route.requestIdHeader;
      response.writeHead(reply.status, { ...(idHeader !== undefined && { [idHeader]: id }), ...reply.headers });
      if (reply.body !== undefined && typeof reply.body === 'object' && Symbol.asyncIterator in reply.body) {
        for await (const chunk of reply.body) response.write(chunk);
        response.end();
      } else response.end(reply.body);
    })().catch((error: unknown) => response.destroy(error instanceof Error ? error : undefined));
  });
}

function zip(text: string): Uint8Array {
  return zipSync({ 'index.mjs': Buffer.from(text) }, { mtime: '2026-01-01' });
}

const ROLE = 'arn:aws:iam::000000000000:role/x';

function fn(overrides: Partial<CreateFunctionCommandInput> = {}): CreateFunctionCommand {
  return new CreateFunctionCommand({
    FunctionName: 'hello',
    Role: ROLE,
    Runtime: 'nodejs24.x',
    Handler: 'index.handler',
    Code: { ZipFile: zip('one') },
    ...overrides,
  });
}

interface Refusal {
  readonly name: string;
  readonly status: number | undefined;
  readonly message: string;
  readonly reason?: unknown;
}

/** As the SDK throws it. */
async function refusal(run: () => Promise<unknown>): Promise<Refusal> {
  try {
    await run();
  } catch (thrown) {
    if (!(thrown instanceof LambdaServiceException)) throw thrown;
    const reason = 'Reason' in thrown ? { reason: thrown.Reason } : {};
    return { name: thrown.name, status: thrown.$metadata.httpStatusCode, message: thrown.message, ...reason };
  }
  throw new Error('it was not refused');
}

function textOf(bytes: Uint8Array | undefined): string {
  return Buffer.from(bytes ?? []).toString('utf8');
}

describe('functions', () => {
  it('are made, read, changed and removed', async () => {
    const made = await client.send(
      fn({
        MemorySize: 256,
        Timeout: 10,
        Description: 'd',
        Environment: { Variables: { KEY: 'v' } },
        Tags: { team: 'a' },
        EphemeralStorage: { Size: 1024 },
      }),
    );
    expect(made).toMatchObject({
      FunctionName: 'hello',
      FunctionArn: 'arn:aws:lambda:us-east-1:000000000000:function:hello',
      Runtime: 'nodejs24.x',
      Role: ROLE,
      Handler: 'index.handler',
      MemorySize: 256,
      Timeout: 10,
      Version: '$LATEST',
      State: 'Active',
      Environment: { Variables: { KEY: 'v' } },
      EphemeralStorage: { Size: 1024 },
      Architectures: ['x86_64'],
      PackageType: 'Zip',
    });
    await waitUntilFunctionActiveV2({ client, maxWaitTime: 5 }, { FunctionName: 'hello' });
    await waitUntilFunctionUpdatedV2({ client, maxWaitTime: 5 }, { FunctionName: 'hello' });
    const { Configuration, Code, Tags } = await client.send(new GetFunctionCommand({ FunctionName: 'hello' }));
    expect([Configuration?.CodeSha256, Tags]).toEqual([made.CodeSha256, { team: 'a' }]);
    const code = await fetch(Code?.Location ?? '');
    expect(Buffer.from(await code.arrayBuffer())).toEqual(Buffer.from(zip('one')));
    expect((await fetch(`${Code?.Location ?? ''}x`)).status).toBe(403);

    const updated = await client.send(
      new UpdateFunctionCodeCommand({ FunctionName: 'hello', ZipFile: zip('two'), RevisionId: made.RevisionId }),
    );
    expect(updated.CodeSha256).not.toBe(made.CodeSha256);
    const configured = await client.send(new UpdateFunctionConfigurationCommand({ FunctionName: made.FunctionArn, Timeout: 20 }));
    expect(configured).toMatchObject({ Timeout: 20, MemorySize: 256, Role: ROLE, Environment: { Variables: { KEY: 'v' } } });
    expect(await client.send(new GetFunctionConfigurationCommand({ FunctionName: '000000000000:function:hello' }))).toMatchObject({
      Timeout: 20,
    });
    await client.send(new DeleteFunctionCommand({ FunctionName: 'hello' }));
    expect(await refusal(() => client.send(new GetFunctionCommand({ FunctionName: 'hello' })))).toEqual({
      name: 'ResourceNotFoundException',
      status: 404,
      message: 'Function not found: arn:aws:lambda:us-east-1:000000000000:function:hello',
    });
  });

  it('are listed in pages', async () => {
    for (const FunctionName of ['a', 'b', 'c']) await client.send(fn({ FunctionName }));
    const names: (string | undefined)[][] = [];
    for await (const page of paginateListFunctions({ client, pageSize: 2 }, {}))
      names.push((page.Functions ?? []).map(({ FunctionName }) => FunctionName));
    expect(names).toEqual([['a', 'b'], ['c']]);
    await client.send(new PublishVersionCommand({ FunctionName: 'b' }));
    const all = await client.send(new ListFunctionsCommand({ FunctionVersion: 'ALL' }));
    expect(all.Functions?.map(({ FunctionArn }) => FunctionArn?.split(':').slice(6).join(':'))).toEqual([
      'a:$LATEST',
      'b:$LATEST',
      'b:1',
      'c:$LATEST',
    ]);
  });

  it.each([
    [
      'MemorySize',
      127,
      'ValidationException',
      "Value '127' at 'memorySize' failed to satisfy constraint: Member must have value greater than or equal to 128",
    ],
    ['MemorySize', 10_241, 'ValidationException', 'less than or equal to 10240'],
    ['Timeout', 0, 'ValidationException', 'greater than or equal to 1'],
    ['Timeout', 901, 'ValidationException', "Value '901' at 'timeout'"],
    ['EphemeralStorage', { Size: 511 }, 'ValidationException', "'ephemeralStorage.size'"],
    ['EphemeralStorage', { Size: 10_241 }, 'ValidationException', 'less than or equal to 10240'],
    ['FunctionName', 'x'.repeat(65), 'ValidationException', 'length less than or equal to 64'],
    ['FunctionName', 'a b', 'ValidationException', 'neither the name nor the ARN'],
    ['Runtime', 'nodejs99.x', 'ValidationException', 'enum value set'],
    ['Handler', 'a b', 'ValidationException', 'regular expression'],
    ['Role', 'nobody', 'ValidationException', "'role'"],
    ['Description', 'x'.repeat(257), 'ValidationException', 'less than or equal to 256'],
    ['Architectures', ['mips'], 'ValidationException', "'architectures'"],
    ['Environment', { Variables: { AWS_REGION: 'x' } }, 'InvalidParameterValueException', 'AWS_REGION'],
    ['Environment', { Variables: { '1A': 'x' } }, 'ValidationException', 'regular expression'],
    ['Environment', { Variables: { AA: 'x'.repeat(4_088) } }, 'InvalidParameterValueException', '4096'],
    ['Layers', ['arn:aws:lambda:us-east-1:000000000000:layer:nope:1'], 'ResourceNotFoundException', 'no layer nope:1'],
    ['Layers', ['nope'], 'InvalidParameterValueException', 'ARN of a layer version'],
    ['Code', { ZipFile: Buffer.from('no zip') }, 'InvalidParameterValueException', 'Could not unzip uploaded file'],
    ['Code', { S3Bucket: 'b', S3Key: 'k' }, 'InvalidParameterValueException', 'no S3'],
    ['Code', {}, 'InvalidParameterValueException', 'source for function code'],
    ['Tags', { 'bpr:profile': 'moon' }, 'ValidationException', 'enum value set'],
  ])('are refused when %s is %j', async (member, value, name, message) => {
    const found = await refusal(() => client.send(fn({ [member]: value })));
    expect([found.name, found.message]).toEqual([name, expect.stringContaining(message)]);
    expect(store.list().items).toEqual([]);
  });

  it('are taken at the limit', async () => {
    await client.send(
      fn({
        MemorySize: 10_240,
        Timeout: 900,
        EphemeralStorage: { Size: 10_240 },
        FunctionName: 'x'.repeat(64),
        Environment: { Variables: { AA: 'x'.repeat(4_087) } },
      }),
    );
    expect(store.list().items).toHaveLength(1);
  });

  it('are refused twice, and changed only by who knows the revision', async () => {
    const { RevisionId } = await client.send(fn());
    expect(await refusal(() => client.send(fn()))).toEqual({
      name: 'ResourceConflictException',
      status: 409,
      message: 'Function already exist: hello',
    });
    await client.send(new UpdateFunctionConfigurationCommand({ FunctionName: 'hello', Timeout: 20, RevisionId }));
    const stale = await refusal(() =>
      client.send(new UpdateFunctionConfigurationCommand({ FunctionName: 'hello', Timeout: 21, RevisionId })),
    );
    expect([stale.name, stale.status]).toEqual(['PreconditionFailedException', 412]);
    const dry = await client.send(new UpdateFunctionCodeCommand({ FunctionName: 'hello', ZipFile: zip('two'), DryRun: true }));
    const { Configuration } = await client.send(new GetFunctionCommand({ FunctionName: 'hello' }));
    expect(Configuration?.CodeSha256).not.toBe(dry.CodeSha256);
  });

  it('have the limits of the provider that their tag names', async () => {
    await client.send(fn({ Tags: { 'bpr:profile': 'gcp', 'bpr:network': 'open' }, Timeout: 3_600 }));
    expect([store.get('hello').profile, store.get('hello').network]).toEqual(['gcp', 'open']);
    const found = await refusal(() => client.send(fn({ FunctionName: 'other', Tags: { 'bpr:profile': 'digitalocean' }, MemorySize: 300 })));
    expect(found.message).toContain('[128, 256, 512, 1024]');
  });
});

it('what provisioning tools ask of every function is answered', async () => {
  await client.send(fn());
  const FunctionName = 'hello';
  expect(await client.send(new GetFunctionCodeSigningConfigCommand({ FunctionName }))).toMatchObject({
    CodeSigningConfigArn: '',
    FunctionName,
  });
  expect((await client.send(new GetRuntimeManagementConfigCommand({ FunctionName }))).UpdateRuntimeOn).toBe('Auto');
  expect((await client.send(new GetFunctionRecursionConfigCommand({ FunctionName }))).RecursiveLoop).toBe('Terminate');
  expect((await client.send(new ListEventSourceMappingsCommand({ FunctionName }))).EventSourceMappings).toEqual([]);
  const nobody = await refusal(() => client.send(new GetFunctionCodeSigningConfigCommand({ FunctionName: 'nobody' })));
  expect(nobody.name).toBe('ResourceNotFoundException');
});

describe('functions of images', () => {
  const made = (): Promise<unknown> =>
    client.send(
      fn({
        PackageType: 'Image',
        Runtime: undefined,
        Handler: undefined,
        Code: { ImageUri: 'registry.example/jobs:1' },
        ImageConfig: { EntryPoint: ['/run'], Command: ['one'] },
      }),
    );
  const runs = (): unknown => store.resolve('hello').fn.code;

  it('keep how their image is started when they get another', async () => {
    await made();
    await client.send(new UpdateFunctionCodeCommand({ FunctionName: 'hello', ImageUri: 'registry.example/jobs:2' }));
    expect(runs()).toEqual({ kind: 'image', uri: 'registry.example/jobs:2', entryPoint: ['/run'], command: ['one'] });
  });

  it('start it as their configuration says', async () => {
    await made();
    const update = { FunctionName: 'hello', Timeout: 20, ImageConfig: { Command: ['two'] } };
    const { ImageConfigResponse, Timeout } = await client.send(new UpdateFunctionConfigurationCommand(update));
    expect([ImageConfigResponse?.ImageConfig, Timeout]).toEqual([{ Command: ['two'] }, 20]);
    expect(runs()).toEqual({ kind: 'image', uri: 'registry.example/jobs:1', command: ['two'] });
    await client.send(new UpdateFunctionConfigurationCommand({ FunctionName: 'hello', Timeout: 30 }));
    expect(runs()).toEqual({ kind: 'image', uri: 'registry.example/jobs:1', command: ['two'] });
  });
});

describe('versions and aliases', () => {
  beforeEach(async () => {
    await client.send(fn());
  });

  it('are published, listed and removed', async () => {
    const one = await client.send(new PublishVersionCommand({ FunctionName: 'hello', Description: 'first' }));
    expect([one.Version, one.Description, one.FunctionArn?.endsWith(':hello:1')]).toEqual(['1', 'first', true]);
    const { CodeSha256 } = await client.send(new UpdateFunctionCodeCommand({ FunctionName: 'hello', ZipFile: zip('two'), Publish: true }));
    const { Versions } = await client.send(new ListVersionsByFunctionCommand({ FunctionName: 'hello' }));
    expect(Versions?.map(({ Version }) => Version)).toEqual(['$LATEST', '1', '2']);
    expect((await client.send(new GetFunctionConfigurationCommand({ FunctionName: 'hello', Qualifier: '2' }))).CodeSha256).toBe(CodeSha256);
    expect((await client.send(new PublishVersionCommand({ FunctionName: 'hello', CodeSha256 }))).Version).toBe('2');
    expect((await refusal(() => client.send(new PublishVersionCommand({ FunctionName: 'hello', CodeSha256: one.CodeSha256 })))).name).toBe(
      'InvalidParameterValueException',
    );
    await client.send(new DeleteFunctionCommand({ FunctionName: 'hello', Qualifier: '1' }));
    const gone = await refusal(() => client.send(new GetFunctionCommand({ FunctionName: 'hello:1' })));
    expect(gone.message).toBe('Function not found: arn:aws:lambda:us-east-1:000000000000:function:hello:1');
  });

  it('are named by aliases', async () => {
    await client.send(new PublishVersionCommand({ FunctionName: 'hello' }));
    await client.send(new UpdateFunctionCodeCommand({ FunctionName: 'hello', ZipFile: zip('two'), Publish: true }));
    const alias = await client.send(
      new CreateAliasCommand({
        FunctionName: 'hello',
        Name: 'prod',
        FunctionVersion: '1',
        RoutingConfig: { AdditionalVersionWeights: { 2: 1 } },
      }),
    );
    expect(alias).toMatchObject({
      AliasArn: 'arn:aws:lambda:us-east-1:000000000000:function:hello:prod',
      RoutingConfig: { AdditionalVersionWeights: { 2: 1 } },
    });
    expect((await client.send(new InvokeCommand({ FunctionName: 'hello', Qualifier: 'prod' }))).ExecutedVersion).toBe('2');
    await client.send(new UpdateAliasCommand({ FunctionName: 'hello', Name: 'prod', RoutingConfig: {}, Description: 'd' }));
    expect((await client.send(new InvokeCommand({ FunctionName: 'hello:prod' }))).ExecutedVersion).toBe('1');
    expect((await client.send(new GetAliasCommand({ FunctionName: 'hello', Name: 'prod' }))).Description).toBe('d');
    const conflict = await refusal(() =>
      client.send(new CreateAliasCommand({ FunctionName: 'hello', Name: 'prod', FunctionVersion: '1' })),
    );
    expect(conflict).toMatchObject({
      name: 'ResourceConflictException',
      message: expect.stringContaining('Alias already exists') as string,
    });
    const used = await refusal(() => client.send(new DeleteFunctionCommand({ FunctionName: 'hello', Qualifier: '1' })));
    expect(used.name).toBe('ResourceConflictException');
    expect((await client.send(new ListAliasesCommand({ FunctionName: 'hello', FunctionVersion: '1' }))).Aliases).toHaveLength(1);
    await client.send(new DeleteAliasCommand({ FunctionName: 'hello', Name: 'prod' }));
    expect((await refusal(() => client.send(new GetAliasCommand({ FunctionName: 'hello', Name: 'prod' })))).name).toBe(
      'ResourceNotFoundException',
    );
  });
});

describe('layers', () => {
  it('are published, attached, listed and removed', async () => {
    const layer = await client.send(
      new PublishLayerVersionCommand({
        LayerName: 'lib',
        Description: 'd',
        Content: { ZipFile: zip('layer') },
        CompatibleRuntimes: ['nodejs24.x'],
        LicenseInfo: 'MIT',
      }),
    );
    expect(layer).toMatchObject({
      Version: 1,
      LayerVersionArn: 'arn:aws:lambda:us-east-1:000000000000:layer:lib:1',
      CompatibleRuntimes: ['nodejs24.x'],
    });
    const content = await fetch(layer.Content?.Location ?? '');
    expect(Buffer.from(await content.arrayBuffer())).toEqual(Buffer.from(zip('layer')));
    await client.send(new PublishLayerVersionCommand({ LayerName: 'lib', Content: { ZipFile: zip('newer') } }));
    const { Layers } = await client.send(fn({ Layers: [layer.LayerVersionArn ?? ''] }));
    expect(Layers).toEqual([{ Arn: layer.LayerVersionArn, CodeSize: zip('layer').length }]);
    expect((await client.send(new ListLayersCommand({}))).Layers).toMatchObject([
      { LayerName: 'lib', LatestMatchingVersion: { Version: 2 } },
    ]);
    expect((await client.send(new ListLayerVersionsCommand({ LayerName: 'lib' }))).LayerVersions?.map(({ Version }) => Version)).toEqual([
      2, 1,
    ]);
    expect((await client.send(new GetLayerVersionCommand({ LayerName: 'lib', VersionNumber: 1 }))).LicenseInfo).toBe('MIT');
    expect((await client.send(new GetLayerVersionByArnCommand({ Arn: layer.LayerVersionArn }))).Version).toBe(1);
    await client.send(new DeleteLayerVersionCommand({ LayerName: 'lib', VersionNumber: 1 }));
    expect((await refusal(() => client.send(new GetLayerVersionCommand({ LayerName: 'lib', VersionNumber: 1 })))).name).toBe(
      'ResourceNotFoundException',
    );
  });
});

describe('what is attached', () => {
  beforeEach(async () => {
    await client.send(fn());
    await client.send(new PublishVersionCommand({ FunctionName: 'hello' }));
  });

  it('reserves concurrency', async () => {
    const FunctionName = 'hello';
    expect((await client.send(new GetFunctionConcurrencyCommand({ FunctionName }))).ReservedConcurrentExecutions).toBe(undefined);
    await client.send(new PutFunctionConcurrencyCommand({ FunctionName, ReservedConcurrentExecutions: 5 }));
    expect((await client.send(new GetFunctionConcurrencyCommand({ FunctionName }))).ReservedConcurrentExecutions).toBe(5);
    expect((await client.send(new GetFunctionCommand({ FunctionName }))).Concurrency).toEqual({ ReservedConcurrentExecutions: 5 });
    expect((await client.send(new GetAccountSettingsCommand({}))).AccountLimit?.UnreservedConcurrentExecutions).toBe(995);
    expect(
      (await refusal(() => client.send(new PutFunctionConcurrencyCommand({ FunctionName, ReservedConcurrentExecutions: 901 })))).name,
    ).toBe('InvalidParameterValueException');
    await client.send(new DeleteFunctionConcurrencyCommand({ FunctionName }));
    expect((await client.send(new GetFunctionConcurrencyCommand({ FunctionName }))).ReservedConcurrentExecutions).toBe(undefined);
  });

  it('keeps instances warm', async () => {
    const where = { FunctionName: 'hello', Qualifier: '1' };
    await client.send(new PutProvisionedConcurrencyConfigCommand({ ...where, ProvisionedConcurrentExecutions: 2 }));
    expect(script.warmed).toEqual([{ name: 'hello:1', count: 2 }]);
    expect(await client.send(new GetProvisionedConcurrencyConfigCommand(where))).toMatchObject({
      Status: 'READY',
      AllocatedProvisionedConcurrentExecutions: 2,
    });
    const { ProvisionedConcurrencyConfigs } = await client.send(new ListProvisionedConcurrencyConfigsCommand({ FunctionName: 'hello' }));
    expect(ProvisionedConcurrencyConfigs).toMatchObject([{ FunctionArn: 'arn:aws:lambda:us-east-1:000000000000:function:hello:1' }]);
    await client.send(new DeleteProvisionedConcurrencyConfigCommand(where));
    expect(script.warmed.at(-1)).toEqual({ name: 'hello:1', count: 0 });
    expect((await refusal(() => client.send(new GetProvisionedConcurrencyConfigCommand(where)))).name).toBe(
      'ProvisionedConcurrencyConfigNotFoundException',
    );
    const latest = { FunctionName: 'hello', Qualifier: '$LATEST', ProvisionedConcurrentExecutions: 1 };
    expect((await refusal(() => client.send(new PutProvisionedConcurrencyConfigCommand(latest)))).name).toBe(
      'InvalidParameterValueException',
    );
  });

  it('keeps those instances warm that are wanted now, and no others', async () => {
    const FunctionName = 'hello';
    await client.send(new UpdateFunctionCodeCommand({ FunctionName, ZipFile: zip('two'), Publish: true }));
    await client.send(new CreateAliasCommand({ FunctionName, Name: 'live', FunctionVersion: '1' }));
    const put = (Qualifier: string, ProvisionedConcurrentExecutions: number) =>
      client.send(new PutProvisionedConcurrencyConfigCommand({ FunctionName, Qualifier, ProvisionedConcurrentExecutions }));
    const kept = (): unknown => {
      const counts = new Map(script.warmed.map(({ name, count }) => [name, count]));
      return Object.fromEntries(counts);
    };
    await put('live', 2);
    expect(kept()).toEqual({ 'hello:1': 2 });
    await client.send(new UpdateAliasCommand({ FunctionName, Name: 'live', FunctionVersion: '2' }));
    expect(kept()).toEqual({ 'hello:1': 0, 'hello:2': 2 });
    await put('2', 3);
    expect(kept()).toEqual({ 'hello:1': 0, 'hello:2': 3 });
    await client.send(new DeleteProvisionedConcurrencyConfigCommand({ FunctionName, Qualifier: '2' }));
    expect(kept()).toEqual({ 'hello:1': 0, 'hello:2': 2 });
    expect((await client.send(new GetProvisionedConcurrencyConfigCommand({ FunctionName, Qualifier: 'live' }))).Status).toBe('READY');
    await client.send(new DeleteAliasCommand({ FunctionName, Name: 'live' }));
    expect(kept()).toEqual({ 'hello:1': 0, 'hello:2': 0 });
    const count = script.warmed.length;
    await put('2', 1);
    await client.send(new DeleteFunctionCommand({ FunctionName }));
    // Its instances were ended with it: nothing is to be told.
    expect(script.warmed.slice(count)).toEqual([{ name: 'hello:2', count: 1 }]);
  });

  it('keeps permissions', async () => {
    const added = await client.send(
      new AddPermissionCommand({
        FunctionName: 'hello',
        StatementId: 's',
        Action: 'lambda:InvokeFunction',
        Principal: 'events.amazonaws.com',
        SourceArn: 'arn:x',
      }),
    );
    const statement = {
      Sid: 's',
      Effect: 'Allow',
      Principal: { Service: 'events.amazonaws.com' },
      Action: 'lambda:InvokeFunction',
      Resource: 'arn:aws:lambda:us-east-1:000000000000:function:hello',
      Condition: { ArnLike: { 'AWS:SourceArn': 'arn:x' } },
    };
    expect(JSON.parse(added.Statement ?? '')).toEqual(statement);
    const { Policy } = await client.send(new GetPolicyCommand({ FunctionName: 'hello' }));
    expect(JSON.parse(Policy ?? '')).toMatchObject({ Version: '2012-10-17', Statement: [statement] });
    await client.send(new RemovePermissionCommand({ FunctionName: 'hello', StatementId: 's' }));
    expect((await refusal(() => client.send(new GetPolicyCommand({ FunctionName: 'hello' })))).name).toBe('ResourceNotFoundException');
  });

  it('keeps the rules for queued calls', async () => {
    const FunctionName = 'hello';
    expect((await refusal(() => client.send(new GetFunctionEventInvokeConfigCommand({ FunctionName })))).name).toBe(
      'ResourceNotFoundException',
    );
    await client.send(
      new PutFunctionEventInvokeConfigCommand({
        FunctionName,
        MaximumRetryAttempts: 0,
        DestinationConfig: { OnFailure: { Destination: `file://${folder}/destinations/x` } },
      }),
    );
    await client.send(new UpdateFunctionEventInvokeConfigCommand({ FunctionName, MaximumEventAgeInSeconds: 60 }));
    const config = await client.send(new GetFunctionEventInvokeConfigCommand({ FunctionName }));
    expect(config).toMatchObject({
      MaximumRetryAttempts: 0,
      MaximumEventAgeInSeconds: 60,
      DestinationConfig: { OnFailure: { Destination: `file://${folder}/destinations/x` } },
    });
    const update = { FunctionName, DestinationConfig: { OnFailure: { Destination: '' } } };
    expect((await client.send(new UpdateFunctionEventInvokeConfigCommand(update))).DestinationConfig).toEqual({
      OnSuccess: {},
      OnFailure: {},
    });
    expect(Math.abs((config.LastModified?.getTime() ?? 0) - Date.now())).toBeLessThan(60_000);
    for (const Destination of ['arn:aws:sqs:us-east-1:000000000000:q', 'file:///etc', 'http://169.254.169.254/x', 'http://a:b@x/']) {
      const put = new PutFunctionEventInvokeConfigCommand({ FunctionName, DestinationConfig: { OnSuccess: { Destination } } });
      expect((await refusal(() => client.send(put))).name).toBe('InvalidParameterValueException');
    }
    expect(
      (await refusal(() => client.send(new PutFunctionEventInvokeConfigCommand({ FunctionName, MaximumRetryAttempts: 3 })))).message,
    ).toContain("'maximumRetryAttempts'");
    expect((await client.send(new ListFunctionEventInvokeConfigsCommand({ FunctionName }))).FunctionEventInvokeConfigs).toHaveLength(1);
    await client.send(new DeleteFunctionEventInvokeConfigCommand({ FunctionName }));
    expect((await client.send(new ListFunctionEventInvokeConfigsCommand({ FunctionName }))).FunctionEventInvokeConfigs).toEqual([]);
  });

  it('keeps tags', async () => {
    const Resource = 'arn:aws:lambda:us-east-1:000000000000:function:hello';
    await client.send(new TagResourceCommand({ Resource, Tags: { a: '1', b: '2', 'bpr:network': 'open' } }));
    await client.send(new UntagResourceCommand({ Resource, TagKeys: ['a', 'x'] }));
    expect((await client.send(new ListTagsCommand({ Resource }))).Tags).toEqual({ b: '2', 'bpr:network': 'open' });
    expect(store.get('hello').network).toBe('open');
    await client.send(new UntagResourceCommand({ Resource, TagKeys: ['bpr:network'] }));
    expect(store.get('hello').network).toBe('none');
    await client.send(new TagResourceCommand({ Resource, Tags: { 'bpr:network': 'open' } }));
    const many = await refusal(() => client.send(new TagResourceCommand({ Resource, Tags: { c: '3', 'bpr:concurrency': 'many' } })));
    expect(many.name).toBe('InvalidParameterValueException');
    expect((await client.send(new ListTagsCommand({ Resource }))).Tags).toEqual({ b: '2', 'bpr:network': 'open' });
    expect((await refusal(() => client.send(new TagResourceCommand({ Resource, Tags: { 'bpr:profile': 'gcp' } })))).name).toBe(
      'InvalidParameterValueException',
    );
  });
});

describe('Invoke', () => {
  beforeEach(async () => {
    await client.send(fn({ Timeout: 3 }));
  });

  it('answers, with the log between its platform lines when asked', async () => {
    let seen: InvocationOptions | undefined;
    script.invoke = (_, event, options) => {
      seen = options;
      return Promise.resolve({ ...answered(event, 'a\nb\n'), report: { ...REPORT, coldStart: true, initMs: 100 } });
    };
    const context = Buffer.from('{"custom":{}}').toString('base64');
    const reply = await client.send(
      new InvokeCommand({ FunctionName: 'hello', Payload: '{"a":1}', LogType: 'Tail', ClientContext: context }),
    );
    expect([textOf(reply.Payload), reply.StatusCode, reply.FunctionError, reply.ExecutedVersion]).toEqual([
      '{"a":1}',
      200,
      undefined,
      '$LATEST',
    ]);
    const id = seen?.requestId ?? '';
    expect(Buffer.from(reply.LogResult ?? '', 'base64').toString()).toBe(
      `START RequestId: ${id} Version: $LATEST\na\nb\nEND RequestId: ${id}\n` +
        `REPORT RequestId: ${id}\tDuration: 12.35 ms\tBilled Duration: 113 ms\tMemory Size: 128 MB\tMax Memory Used: 40 MB\tInit Duration: 100.00 ms\t\n`,
    );
    expect(seen).toMatchObject({
      clientContext: context,
      functionArn: 'arn:aws:lambda:us-east-1:000000000000:function:hello',
      awaitLog: true,
    });
    expect(reply.$metadata.requestId).toBe(id);
  });

  it('gives an empty event when none is sent, and refuses what is no JSON', async () => {
    expect(textOf((await client.send(new InvokeCommand({ FunctionName: 'hello' }))).Payload)).toBe('{}');
    expect(await refusal(() => client.send(new InvokeCommand({ FunctionName: 'hello', Payload: '{' })))).toMatchObject({
      name: 'InvalidRequestContentException',
      status: 400,
    });
  });

  it('refuses a client context that is no object as JSON in base64', async () => {
    for (const context of ['not base64 of JSON', '{"custom":{}}', Buffer.from('7').toString('base64')])
      expect(await refusal(() => client.send(new InvokeCommand({ FunctionName: 'hello', ClientContext: context })))).toMatchObject({
        name: 'InvalidRequestContentException',
        status: 400,
      });
  });

  it('tries dry', async () => {
    script.invoke = () => Promise.reject(new Error('it ran'));
    expect((await client.send(new InvokeCommand({ FunctionName: 'hello', InvocationType: 'DryRun' }))).StatusCode).toBe(204);
    expect((await refusal(() => client.send(new InvokeCommand({ FunctionName: 'nobody', InvocationType: 'DryRun' })))).name).toBe(
      'ResourceNotFoundException',
    );
  });

  it.each([
    [
      'FUNCTION_FAILED',
      { body: '{"errorType":"TypeError","errorMessage":"m","trace":[]}' },
      { errorType: 'TypeError', errorMessage: 'm', trace: [] },
    ],
    ['FUNCTION_FAILED', { body: 'no json', errorType: 'A', errorMessage: 'm' }, { errorType: 'A', errorMessage: 'm' }],
    [
      'FUNCTION_INIT_FAILED',
      { errorType: 'Runtime.ImportModuleError', errorMessage: 'no module' },
      { errorType: 'Runtime.ImportModuleError', errorMessage: 'no module' },
    ],
    [
      'FUNCTION_CRASHED',
      { exitCode: 3 },
      { errorType: 'Runtime.ExitError', errorMessage: 'RequestId: ID Error: Runtime exited with error: exit status 3' },
    ],
    [
      'FUNCTION_CRASHED',
      { signal: 'SIGSEGV' },
      { errorType: 'Runtime.ExitError', errorMessage: 'RequestId: ID Error: Runtime exited with error: signal: segmentation fault' },
    ],
    [
      'FUNCTION_CRASHED',
      { signal: 'SIGKILL' },
      { errorType: 'Runtime.ExitError', errorMessage: 'RequestId: ID Error: Runtime exited with error: signal: killed' },
    ],
    [
      'FUNCTION_INIT_FAILED',
      { reason: 'exited', exitCode: 7, errorType: 'Runtime.ExitError', errorMessage: 'exit status 7' },
      { errorType: 'Runtime.ExitError', errorMessage: 'RequestId: ID Error: Runtime exited with error: exit status 7' },
    ],
    [
      'FUNCTION_OUT_OF_MEMORY',
      {},
      { errorType: 'Runtime.OutOfMemory', errorMessage: 'RequestId: ID Error: Runtime exited with error: signal: killed' },
    ],
    ['EXECUTOR_TIMEOUT', {}, { errorType: 'Sandbox.Timedout', errorMessage: 'RequestId: ID Error: Task timed out after 3.00 seconds' }],
    [
      'PAYLOAD_TOO_LARGE',
      { errorType: 'Function.ResponseSizeTooLarge', limit: 6_291_556 },
      {
        errorType: 'Function.ResponseSizeTooLarge',
        errorMessage: 'Response payload size exceeded maximum allowed payload size (6291556 bytes).',
      },
    ],
  ] as const)('tells a function error: %s %j', async (code, details, body) => {
    script.invoke = () => Promise.reject(new RunnerError(code, 'failed', { details }));
    const reply = await client.send(new InvokeCommand({ FunctionName: 'hello', LogType: 'Tail' }));
    expect([reply.StatusCode, reply.FunctionError]).toEqual([200, 'Unhandled']);
    const shown = JSON.parse(textOf(reply.Payload).replace(reply.$metadata.requestId ?? '', 'ID')) as unknown;
    expect(shown).toEqual(body);
    expect(Buffer.from(reply.LogResult ?? '', 'base64').toString()).toContain('\na line\nEND');
  });

  it.each([
    ['EXECUTOR_THROTTLED', 'TooManyRequestsException', 429, 'ReservedFunctionConcurrentInvocationLimitExceeded'],
    ['QUEUE_FULL', 'TooManyRequestsException', 429, 'ConcurrentInvocationLimitExceeded'],
    ['QUEUE_TIMEOUT', 'TooManyRequestsException', 429, 'ConcurrentInvocationLimitExceeded'],
    ['RUNTIME_UNSUPPORTED', 'InvalidRuntimeException', 502, undefined],
    ['CODE_MISSING', 'InvalidZipFileException', 502, undefined],
    ['INSTANCE_START_FAILED', 'ServiceException', 500, undefined],
    ['INTERNAL', 'ServiceException', 500, undefined],
  ] as const)('tells a failure of the platform: %s', async (code, name, status, reason) => {
    script.invoke = () => Promise.reject(new RunnerError(code, 'failed'));
    const found = await refusal(() => client.send(new InvokeCommand({ FunctionName: 'hello' })));
    expect([found.name, found.status, found.reason]).toEqual([name, status, reason]);
  });

  it('passes the reservation on', async () => {
    await client.send(new PutFunctionConcurrencyCommand({ FunctionName: 'hello', ReservedConcurrentExecutions: 0 }));
    let most: number | undefined;
    script.invoke = (_, event, { concurrencyMax }) => {
      most = concurrencyMax;
      return Promise.resolve(answered(event));
    };
    await client.send(new InvokeCommand({ FunctionName: 'hello' }));
    expect(most).toBe(0);
  });

  it('takes events up to the limit and not one byte more', async () => {
    script.invoke = (_, event) => Promise.resolve(answered(String(event.length)));
    const payload = (bytes: number): string => `"${'x'.repeat(bytes - 2)}"`;
    const send = (bytes: number, InvocationType?: 'Event') =>
      client.send(new InvokeCommand({ FunctionName: 'hello', Payload: payload(bytes), ...(InvocationType && { InvocationType }) }));
    expect(textOf((await send(6_291_456)).Payload)).toBe('6291456');
    const over = await refusal(() => send(6_291_457));
    expect(over).toEqual({
      name: 'RequestTooLargeException',
      status: 413,
      message: '6291457 byte payload is too large for the RequestResponse invocation type (limit 6291456 bytes)',
    });
    expect((await send(1_048_576, 'Event')).StatusCode).toBe(202);
    expect((await refusal(() => send(1_048_577, 'Event'))).message).toContain('Event invocation type (limit 1048576 bytes)');
  });

  it('passes answers up to the limit on and not one byte more', async () => {
    for (const [bytes, error] of [
      [6_291_556, undefined],
      [6_291_557, 'Unhandled'],
    ] as const) {
      script.invoke = () => Promise.resolve(answered(Buffer.alloc(bytes, 'x')));
      expect((await client.send(new InvokeCommand({ FunctionName: 'hello' }))).FunctionError).toBe(error);
    }
  });

  it('refuses types that there are not', async () => {
    for (const input of [{ InvocationType: 'Later' }, { LogType: 'Head' }]) {
      const command = new InvokeCommand({ FunctionName: 'hello', ...(input as object) });
      expect((await refusal(() => client.send(command))).name).toBe('ValidationException');
    }
  });

  it('queues a call and runs it', async () => {
    const ran = Promise.withResolvers<string>();
    script.invoke = (_, event) => {
      ran.resolve(textOf(event));
      return Promise.resolve(answered('{}'));
    };
    const reply = await client.send(new InvokeCommand({ FunctionName: 'hello', InvocationType: 'Event', Payload: '{"a":1}' }));
    expect([reply.StatusCode, textOf(reply.Payload), await ran.promise]).toEqual([202, '', '{"a":1}']);
    // oxlint-disable-next-line typescript/no-deprecated -- the service still has it
    expect((await client.send(new InvokeAsyncCommand({ FunctionName: 'hello', InvokeArgs: '{}' }))).Status).toBe(202);
  });
});

describe('InvokeWithResponseStream', () => {
  beforeEach(async () => {
    await client.send(fn());
  });

  async function read(input: { LogType?: 'Tail' } = {}): Promise<readonly (string | Readonly<Record<string, unknown>>)[]> {
    const { EventStream } = await client.send(new InvokeWithResponseStreamCommand({ FunctionName: 'hello', Payload: '{}', ...input }));
    const events: (string | Readonly<Record<string, unknown>>)[] = [];
    for await (const event of EventStream ?? [])
      events.push(event.PayloadChunk ? textOf(event.PayloadChunk.Payload) : { ...event.InvokeComplete });
    return events;
  }

  function streamed(chunks: AsyncIterable<Uint8Array>): Promise<StreamedInvocation> {
    return Promise.resolve({
      contentType: 'x',
      requestId: 'r',
      chunks,
      done: Promise.resolve({ report: REPORT, logTail: Buffer.from('log') }),
    });
  }

  it('passes each chunk on when it is written', async () => {
    const gate = Promise.withResolvers<void>();
    script.stream = () =>
      streamed(
        (async function* () {
          yield Buffer.from('one');
          // Nothing more before the client has seen the first.
          await gate.promise;
          yield Buffer.from('two');
        })(),
      );
    const { EventStream, ExecutedVersion } = await client.send(new InvokeWithResponseStreamCommand({ FunctionName: 'hello' }));
    const seen: string[] = [];
    for await (const event of EventStream ?? []) {
      seen.push(event.PayloadChunk ? textOf(event.PayloadChunk.Payload) : 'complete');
      gate.resolve();
    }
    expect([seen, ExecutedVersion]).toEqual([['one', 'two', 'complete'], '$LATEST']);
  });

  it('ends with the log, and with what the function threw', async () => {
    script.stream = () => streamed((async function* () {})());
    const [complete] = await read({ LogType: 'Tail' });
    expect(Buffer.from(String((complete as Record<string, unknown>)['LogResult']), 'base64').toString()).toContain('\nlog\nEND');
    script.stream = () =>
      streamed(
        (async function* () {
          yield Buffer.from('one');
          throw new RunnerError('FUNCTION_FAILED', 'x', {
            details: { errorType: 'RangeError', errorMessage: 'm', body: '{"errorType":"RangeError","errorMessage":"m"}' },
          });
        })(),
      );
    expect(await read()).toEqual(['one', { ErrorCode: 'RangeError', ErrorDetails: '{"errorType":"RangeError","errorMessage":"m"}' }]);
    script.stream = () => Promise.reject(new RunnerError('EXECUTOR_TIMEOUT', 'x'));
    expect(await read()).toMatchObject([{ ErrorCode: 'Sandbox.Timedout' }]);
  });

  it('breaks off when the platform fails, and refuses before it began', async () => {
    script.stream = () =>
      streamed(
        (async function* () {
          yield Buffer.from('one');
          throw new RunnerError('INTERNAL', 'x');
        })(),
      );
    await expect(read()).rejects.toThrow(/aborted|terminated|ECONNRESET|hang up/);
    script.stream = () => Promise.reject(new RunnerError('EXECUTOR_THROTTLED', 'x'));
    expect((await refusal(() => read())).name).toBe('TooManyRequestsException');
  });

  it('stops at the limit of the provider', async () => {
    await client.send(fn({ FunctionName: 'small', Tags: { 'bpr:profile': 'digitalocean' } }));
    script.stream = () =>
      streamed(
        (async function* () {
          yield Buffer.alloc(1024 * 1024);
          yield Buffer.from('x');
        })(),
      );
    const { EventStream } = await client.send(new InvokeWithResponseStreamCommand({ FunctionName: 'small' }));
    const codes: (string | undefined)[] = [];
    for await (const event of EventStream ?? []) if (event.InvokeComplete) codes.push(event.InvokeComplete.ErrorCode);
    expect(codes).toEqual(['Function.ResponseSizeTooLarge']);
  });
});

describe('the routes', () => {
  it('are one for each operation', () => {
    expect(api.routes).toHaveLength(Object.keys(OPERATIONS).length);
    expect(new Set(api.routes.map(({ method, path }) => `${method} ${path}`)).size).toBe(api.routes.length);
  });

  it('answer every malformed request with a 4xx and a type, and make nothing of it', async () => {
    await client.send(fn());
    const before = store.list().items;
    const methods = Object.values(OPERATIONS).filter(
      ({ method, scope }) => (method === 'POST' || method === 'PUT') && scope === 'functions:write',
    );
    const members = ['FunctionName', 'Role', 'Runtime', 'Handler', 'Code', 'Timeout', 'MemorySize', 'Environment', 'Layers', 'Tags', 'Content', 'Name', 'FunctionVersion', 'RoutingConfig', 'StatementId', 'Action', 'Principal', 'ZipFile', 'EphemeralStorage', 'Architectures', 'DestinationConfig', 'MaximumRetryAttempts', 'RevisionId', 'ProvisionedConcurrentExecutions', 'ReservedConcurrentExecutions']; // prettier-ignore
    const odd = fc.oneof(
      fc.jsonValue({ maxDepth: 2 }),
      fc.string(),
      fc.constantFrom('hello', ROLE, '$LATEST', '', '../x', -1, 1e300, null, 'arn:aws:lambda:us-east-1:000000000000:layer:x:0'),
    );
    const body = fc.oneof(fc.dictionary(fc.constantFrom(...members), odd, { maxKeys: 8, noNullPrototype: true }), fc.jsonValue());
    const text = fc.oneof(
      body.map((value) => JSON.stringify(value)),
      fc.string(),
    );
    const name = fc.oneof(
      fc.constantFrom('nobody', 'arn:aws:lambda:us-east-1:000000000000:function:nobody', 'a%20b', '%00', '..', 'x'.repeat(300), 'a:b:c:d'),
      fc.string().map((value) => encodeURIComponent(value.replaceAll(/[\ud800-\udfff]/g, ''))),
    );
    let made = 0;
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...methods), name, text, async ({ method, path }, value, content) => {
        const target = path.replaceAll(/\{\w+\}/g, value === '' ? 'x' : value);
        const response = await fetch(`${origin}${target}`, { method, body: content });
        const shown = await response.text();
        if (response.status < 300) made += 1;
        else expect([response.status >= 400 && response.status < 500, shown.length > 2]).toEqual([true, true]);
      }),
      { numRuns: 1_500 },
    );
    expect(made).toBeLessThan(50);
    expect(store.list().items.filter(({ name: one }) => one === 'hello')).toEqual(before);
  }, 120_000);

  it('refuse bodies that are no JSON or of other types', async () => {
    const post = async (body: string): Promise<string | null> => {
      const response = await fetch(`${origin}/2015-03-31/functions`, { method: 'POST', body });
      expect(response.status).toBe(400);
      return response.headers.get('x-amzn-errortype');
    };
    expect(await post('{')).toBe('InvalidRequestContentException');
    expect(await post('[]')).toBe('InvalidRequestContentException');
    expect(await post('{"FunctionName":7}')).toBe('SerializationException');
    expect(await post('{}')).toBe('ValidationException');
    expect(await post(`{"FunctionName":"a","Role":"${ROLE}","Runtime":"nodejs24.x","Handler":"a.b","Code":{"ZipFile":"***"}}`)).toBe(
      'SerializationException',
    );
    expect(await post('{"__proto__":{"FunctionName":"a"}}')).toBe('ValidationException');
  });
});
