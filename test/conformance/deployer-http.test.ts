import { createHash } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { HttpFaasDeployer } from '../../plugins/http/index.ts';
import { ProcessBackend } from '../../plugins/process/backend.ts';
import { conformanceFunction, runDeployerConformance } from '../../src/conformance/conformance.ts';
import type { Connection, DeployerPlatform } from '../../src/conformance/conformance.ts';
import type { FunctionPackage } from '../../src/executor/deployer.ts';
import { Gateway } from '../../src/gateway/gateway.ts';
import { startFaasServer } from '../../src/testing/testing.ts';
import { startFaultyProxy } from '../support/faulty-proxy.ts';
import type { FaultyProxy } from '../support/faulty-proxy.ts';
import { send, zipOf } from '../support/gateway.ts';

const NOWHERE = 'http://127.0.0.1:1';

function packageOf(files: Readonly<Record<string, string>>): FunctionPackage {
  const zip = zipOf(files);
  return { zip, sha256: createHash('sha256').update(zip).digest('hex') };
}

function connect(proxy: FaultyProxy, how: Connection): HttpFaasDeployer {
  const bearer = how === 'nameless' ? 'env:NO_SUCH_VARIABLE_FOR_A_TOKEN' : () => 'key-of-a-platform';
  return new HttpFaasDeployer(how === 'nowhere' ? NOWHERE : proxy.url, { bearer });
}

const isWrite = (method: string, path: string): boolean => method !== 'GET' && method !== 'HEAD' && !path.includes('/invoke');

async function ask(url: string, path: string): Promise<unknown> {
  const response = await fetch(url + path, { headers: { authorization: 'Bearer key-of-a-platform' } });
  return response.status === 404 ? undefined : response.json();
}

async function gatewayPlatform(): Promise<DeployerPlatform> {
  const folder = await mkdtemp(join(tmpdir(), 'gw-'));
  const gateway = new Gateway({ folder, backends: new Map([['process', new ProcessBackend({ folder: join(folder, 'b') })]]) });
  const target = await gateway.listen({ port: 0 });
  const proxy = await startFaultyProxy({ target, isWrite });
  return {
    ...proxy,
    connect: (how) => connect(proxy, how),
    codeOf: (tag) =>
      packageOf({
        'handler.mjs': `export const handler = (event) => (${conformanceFunction(tag)})(event, process.env);`,
        'handler.json': '{}',
      }),
    async snapshot() {
      const { functions } = (await ask(target, '/api/v1/functions?limit=1000')) as { functions: Record<string, unknown>[] };
      return functions.map(({ revision_id: _, modified_at: __, fingerprint: ___, ...rest }) => rest);
    },
    async makeForeign(name) {
      const zip = Buffer.from(zipOf({ 'index.mjs': 'export const handler = async () => 1;' })).toString('base64');
      const body = JSON.stringify({ name, zip, runtime: 'nodejs24.x', handler: 'index.handler' });
      const { status, text } = await send(target, 'POST /api/v1/functions', { body, headers: { 'content-type': 'application/json' } });
      if (status !== 201) throw new Error(text);
    },
    async close() {
      await proxy.close();
      await gateway.close(0);
      await rm(folder, { recursive: true, force: true });
    },
  };
}

async function specifiedPlatform(): Promise<DeployerPlatform> {
  const server = await startFaasServer({ apiKey: 'key-of-a-platform' });
  const proxy = await startFaultyProxy({ target: server.url, isWrite });
  const source = (tag: string): string => `#!${process.execPath}
const run = ${conformanceFunction(tag)};
require('node:stream/consumers').json(process.stdin).then(({ job_id, args }) => run(args[0], process.env).then(
  (answer) => process.stdout.write(JSON.stringify({ job_id, result: [answer] })),
  (error) => process.stdout.write(JSON.stringify({ job_id, result: [], success: false, error: error.message })),
));
`;
  const { url, ...faults } = proxy;
  return {
    ...faults,
    connect: (how) => connect(proxy, how),
    codeOf: (tag) => packageOf({ bootstrap: source(tag).replace('console.log(event.say)', 'console.error(event.say)') }),
    async snapshot() {
      const names = new Set(proxy.written.flatMap((line) => /^PUT (.*)$/.exec(line)?.[1] ?? []));
      const found = await Promise.all([...names].toSorted().map((path) => ask(server.url, path)));
      return found.flatMap((each) => {
        const { deployed_at: _, cold_start_ms: __, ...rest } = (each ?? {}) as Record<string, unknown>;
        return each === undefined ? [] : [rest];
      });
    },
    wrap: (event) => Buffer.from(`{"job_id":0,"args":[${Buffer.from(event).toString()}]}`),
    unwrap(body) {
      const { result, success } = JSON.parse(Buffer.from(body).toString()) as { result: unknown[]; success: boolean };
      return success ? Buffer.from(JSON.stringify(result[0])) : body;
    },
    async close() {
      await proxy.close();
      await server.close();
    },
  };
}

describe('names of environment variables', () => {
  it.each(['A B', '1A', 'A=B', ''])('%j is refused before anything is sent, as a limit of all platforms', async (name) => {
    const deployer = new HttpFaasDeployer(NOWHERE);
    const config = { environment: { [name]: '1', FINE_1: '1', _fine: '2' } };
    for (const dryRun of [true, false])
      await expect(deployer.deploy('hello', packageOf({ bootstrap: '' }), config, { dryRun })).rejects.toMatchObject({
        code: 'LIMIT_EXCEEDED',
        details: { violations: [{ limit: 'environment', value: name }] },
      });
    await deployer.close();
  });
});

runDeployerConformance(
  { describe, it },
  {
    name: 'http, the gateway',
    create: gatewayPlatform,
    lacks: { async: 'the gateway answers every call', schedules: 'the gateway starts nothing by itself' },
  },
);

runDeployerConformance(
  { describe, it },
  {
    name: 'http, a platform of the specification',
    create: specifiedPlatform,
    lacks: {
      async: 'the specification has only calls with an answer',
      code: 'the specification deploys a function as a whole',
      configuration: 'the specification deploys a function as a whole',
      logs: 'the specification has none',
      follow: 'the specification has no logs',
      list: 'the specification has none',
      versions: 'the specification has none',
      rollback: 'the specification has no versions',
      schedules: 'the specification has none',
    },
    skip: { 'does not touch what others made': 'the specification does not say whose a function is' },
  },
);
