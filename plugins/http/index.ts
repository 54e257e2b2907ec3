/** Plugin `http`: executors behind HTTP, and deployments to platforms of the Custom FaaS Platform Specification. */

import { RunnerError } from '../../src/plugin.ts';
import type { Plugin } from '../../src/plugin.ts';
import { HttpFaasDeployer } from './deployer.ts';
import type { HttpDeployerOptions } from './deployer.ts';
import { HttpFaasExecutor } from './executor.ts';
import type { HttpExecutorOptions } from './executor.ts';
import { ManualFaasDeployer } from './manual.ts';
import type { ManualDeployerOptions } from './manual.ts';

export { HttpFaasDeployer } from './deployer.ts';
export type { HttpDeployerOptions } from './deployer.ts';
export { HttpFaasExecutor } from './executor.ts';
export type { HttpExecutorOptions } from './executor.ts';
export { ManualFaasDeployer } from './manual.ts';
export type { ManualDeployerOptions } from './manual.ts';

export const httpPlugin: Plugin = {
  name: 'http',
  peers: [{ name: 'undici', range: '^8.12.0' }],
  register(registry) {
    registry.executor((options, { clock }) => {
      const { url, ...rest } = parseOptions<HttpExecutorOptions>(options, EXECUTOR_OPTIONS);
      return new HttpFaasExecutor(url, { clock, ...rest });
    });
    registry.deployer((options, { clock }) => {
      if (typeof options === 'object' && options !== null && 'endpoints' in options)
        return new ManualFaasDeployer({ clock, ...checkOptions<ManualDeployerOptions>(options, MANUAL_OPTIONS) });
      const { url, ...rest } = parseOptions<HttpDeployerOptions>(options, DEPLOYER_OPTIONS);
      return new HttpFaasDeployer(url, { clock, ...rest });
    });
  },
};

const isCount = (value: unknown): boolean => typeof value === 'number' && Number.isInteger(value) && value > 0;
const LIMITS = 'record of counts, named requestBytesMax, responseBytesMax, timeoutMsMax or concurrencyMax';
const LIMIT = /^(?:(?:request|response)Bytes|timeoutMs|concurrency)Max$/;

/** How the value of an option is checked. */
const CHECKS = {
  text: (value: unknown) => typeof value === 'string',
  count: isCount,
  [LIMITS]: (value: unknown) =>
    typeof value === 'object' && value !== null && Object.entries(value).every(([name, each]) => LIMIT.test(name) && isCount(each)),
  record: (value: unknown) => typeof value === 'object' && value !== null && !Array.isArray(value),
  list: (value: unknown) => Array.isArray(value),
  secret: (value: unknown) => typeof value === 'string' || typeof value === 'function',
  mode: (value: unknown) => value === 'plain' || value === 'platform',
  wire: (value: unknown) => value === 'auto' || value === 'json' || value === 'binary',
  whenExists: (value: unknown) => value === 'replace' || value === 'refuse',
  api: (value: unknown) => value === 'auto' || value === 'specification',
  addresses: (value: unknown) =>
    typeof value === 'object' && value !== null && !Array.isArray(value) && Object.values(value).every((each) => typeof each === 'string'),
  name: (value: unknown) => typeof value === 'function' || typeof value === 'string',
} as const;

type Check = keyof typeof CHECKS;

const CONNECTION_OPTIONS: Readonly<Record<string, Check>> = {
  url: 'text',
  bearer: 'secret',
  headers: 'record',
  tls: 'record',
  socketPath: 'text',
  connectionsMax: 'count',
};
const EXECUTOR_OPTIONS: Readonly<Record<string, Check>> = {
  ...CONNECTION_OPTIONS,
  name: 'text',
  mode: 'mode',
  functionId: 'name',
  endpoints: 'list',
  wire: 'wire',
  limits: LIMITS,
};
const DEPLOYER_OPTIONS: Readonly<Record<string, Check>> = {
  ...CONNECTION_OPTIONS,
  api: 'api',
  whenExists: 'whenExists',
  timeoutMs: 'count',
};
const { url: _, ...ADDRESSLESS_OPTIONS } = CONNECTION_OPTIONS;
const MANUAL_OPTIONS: Readonly<Record<string, Check>> = { ...ADDRESSLESS_OPTIONS, endpoints: 'addresses', timeoutMs: 'count' };

function parseOptions<Options>(options: unknown, known: Readonly<Record<string, Check>>): Options & { readonly url: string } {
  const checked = checkOptions<Options & { readonly url?: string }>(options, known);
  if (checked.url === undefined) throw new RunnerError('CONFIG_INVALID', 'plugin http needs the option url');
  return { ...checked, url: checked.url };
}

function checkOptions<Options>(options: unknown, known: Readonly<Record<string, Check>>): Options {
  if (typeof options !== 'object' || options === null)
    throw new RunnerError('CONFIG_INVALID', 'plugin http takes an object of options with a url');
  for (const [name, value] of Object.entries(options)) {
    const check = known[name];
    if (check === undefined)
      throw new RunnerError('CONFIG_INVALID', `plugin http has no option ${name}; it has ${Object.keys(known).join(', ')}`);
    if (value !== undefined && !CHECKS[check](value))
      throw new RunnerError('CONFIG_INVALID', `the option ${name} of plugin http is not a ${check}`);
  }
  // Every field was checked above.
  return options as Options;
}
