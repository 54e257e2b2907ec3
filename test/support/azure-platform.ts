/** The emulator of Azure as the suite of deployers wants it. */

import { createHash } from 'node:crypto';
import { AzureDeployer } from '../../plugins/azure/index.ts';
import type { AzureOptions } from '../../plugins/azure/index.ts';
import { systemClock } from '../../src/clock.ts';
import { conformanceFunction } from '../../src/conformance/conformance.ts';
import type { Connection, DeployerPlatform } from '../../src/conformance/conformance.ts';
import type { FunctionPackage } from '../../src/executor/deployer.ts';
import { startAzure } from './azure.ts';
import type { AzureEmulator, AzureEmulatorOptions } from './azure.ts';
import { AzureApp } from './azure-app.ts';
import { startFaultyProxy } from './faulty-proxy.ts';
import type { FaultyProxy } from './faulty-proxy.ts';
import { zipOf } from './gateway.ts';

export const IDENTITY = {
  tenant: 'tenant-of-tests',
  clientId: 'client-of-tests',
  clientSecret: 'secret-of-tests-only',
  subscription: 'subscription-1',
};
const INSIGHTS = 'insights-of-tests';

/**
 * A package with a programming model of its own, a few lines long: what `@azure/functions` does for one HTTP function that answers with the
 * result, and for timers.
 */
function model(tag: string): string {
  return `import { createRequire } from 'node:module';
const core = createRequire(import.meta.url)('@azure/functions-core');
const run = (event) => (${conformanceFunction(tag)})(event, process.env);
const answer = async (data) => {
  try {
    const event = JSON.parse(Buffer.from(data.http.body.bytes).toString());
    return { http: { statusCode: '200', body: { string: JSON.stringify(await run(event)) } } };
  } catch (error) {
    return { http: { statusCode: '500', body: { string: JSON.stringify({ error: error.message }) } } };
  }
};
core.setProgrammingModel({
  name: 'few-lines',
  getInvocationModel: ({ request, metadata }) => ({
    getArguments: async () => ({ context: {}, inputs: [request.inputData[0].data] }),
    invokeFunction: async (context, inputs, callback) => callback(inputs[0]),
    getResponse: async (context, returnValue) => ({ returnValue }),
  }),
});
core.registerFunction({ name: 'call', bindings: { req: { type: 'httpTrigger', methods: ['GET', 'HEAD', 'POST'], route: '{*path}' } } }, answer);
for (const { name, cron, event } of JSON.parse(process.env.BLUEPRINT_SCHEDULES ?? '[]'))
  core.registerFunction({ name, bindings: { timer: { type: 'timerTrigger', schedule: cron } } }, () => run(event));
`;
}

export function codeOf(tag: string): FunctionPackage {
  const zip = zipOf({
    'host.json': JSON.stringify({ version: '2.0', extensions: { http: { routePrefix: '' } } }),
    'package.json': JSON.stringify({ type: 'module', main: 'handler.mjs' }),
    'handler.mjs': model(tag),
  });
  return { zip, sha256: createHash('sha256').update(zip).digest('hex') };
}

function optionsFor(endpoints: Readonly<Record<string, string>>): AzureOptions {
  return {
    subscriptionId: IDENTITY.subscription,
    tenantId: IDENTITY.tenant,
    clientId: IDENTITY.clientId,
    clientSecret: () => IDENTITY.clientSecret,
    insightsAppId: INSIGHTS,
    endpoints,
    pollMs: 5,
  };
}

/** What is not the same after every way that leads to a state: keys, ids of deployments, kept versions. */
function snapshot({ groups }: AzureEmulator): unknown {
  return [...groups.values()].flatMap(({ name, fields, accounts, plans, apps }) => [
    [name, fields['tags']],
    ...[...accounts.values()].map(({ fields: account, blobs }) => [
      account['name'],
      account['tags'],
      [...blobs.containers.keys()].toSorted(),
    ]),
    ...[...plans.keys()].toSorted(),
    ...[...apps.values()]
      .map((app) => {
        const { 'blueprint-deployment': _, ...tags } = app.tags;
        const { AzureWebJobsStorage: __, DEPLOYMENT_STORAGE_CONNECTION_STRING: ___, ...settings } = app.settings;
        const sorted = (object: object): unknown => Object.entries(object).toSorted(([a], [b]) => (a < b ? -1 : 1));
        const sha256 = app.zip && createHash('sha256').update(app.zip).digest('hex');
        return JSON.stringify([app.name, sorted(tags), sorted(settings), app.functionAppConfig, app.timers, sha256]);
      })
      .toSorted(),
  ]);
}

/** What only reads or runs something, though it is sent with POST. */
const READS = /^\/(?:login|insights|app)\/|\/list(?:k|K)eys\b|\/appsettings\/list\b/;

export interface AzureTestPlatform extends DeployerPlatform {
  readonly emulator: AzureEmulator;
  readonly options: AzureOptions;
  /** Paths of all writes. */
  readonly written: readonly string[];
  readonly lose: FaultyProxy['lose'];
}

export async function azurePlatform(more: Partial<AzureEmulatorOptions> = {}): Promise<AzureTestPlatform> {
  const emulator = await startAzure({ ...IDENTITY, ...more });
  const isWrite = (method: string, path: string): boolean => method !== 'GET' && method !== 'HEAD' && !READS.test(path);
  const proxy = await startFaultyProxy({ target: emulator.url, isWrite });
  emulator.publicUrl = proxy.url;
  const options = optionsFor(emulator.endpoints());
  const connect = (how: Connection): AzureDeployer => {
    const nobody = emulator.endpoints('http://127.0.0.1:1');
    const changed =
      how === 'nowhere' ? { endpoints: nobody } : how === 'nameless' ? { clientSecret: 'env:NO_SUCH_VARIABLE_FOR_A_SECRET' } : {};
    return new AzureDeployer({ ...options, ...changed }, { clock: systemClock });
  };
  return {
    ...proxy,
    emulator,
    options,
    connect,
    codeOf,
    snapshot: () => snapshot(emulator),
    schedules: () => emulator.apps.reduce((sum, { timers }) => sum + timers.length, 0),
    async makeForeign(name) {
      const id = `/subscriptions/${IDENTITY.subscription}/resourceGroups/blueprint-eastus`;
      const empty = { accounts: new Map(), plans: new Map(), apps: new Map() };
      const group = emulator.groups.get('blueprint-eastus') ?? {
        ...empty,
        name: 'blueprint-eastus',
        fields: { id, name: 'blueprint-eastus', location: 'eastus', tags: {} },
      };
      emulator.groups.set('blueprint-eastus', group);
      const app = new AzureApp(name, `${id}/providers/Microsoft.Web/sites/${name}`);
      app.tags = { owner: 'somebody' };
      group.apps.set(name, app);
    },
    async close() {
      await proxy.close();
      await emulator.close();
    },
  };
}
