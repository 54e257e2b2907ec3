/** Plugin `http`: executors behind HTTP, and deployments to platforms of the Custom FaaS Platform Specification. */

import { RunnerError } from '../../src/plugin.ts';
import type { Plugin } from '../../src/plugin.ts';
import { HttpFaasExecutor } from './executor.ts';
import type { HttpExecutorOptions } from './executor.ts';

export { HttpFaasDeployer } from './deployer.ts';
export type { HttpDeployerOptions } from './deployer.ts';
export { HttpFaasExecutor } from './executor.ts';
export type { HttpExecutorOptions } from './executor.ts';

export const httpPlugin: Plugin = {
  name: 'http',
  peers: [{ name: 'undici', range: '^8.12.0' }],
  register(registry) {
    registry.executor((options, { clock }) => {
      const { url, ...rest } = parseOptions<HttpExecutorOptions>(options, EXECUTOR_OPTIONS);
      return new HttpFaasExecutor(url, { clock, ...rest });
    });
  },
};

/** How the value of an option is checked. */
const CHECKS = {
  text: (value: unknown) => typeof value === 'string',
  count: (value: unknown) => typeof value === 'number' && Number.isInteger(value) && value > 0,
  record: (value: unknown) => typeof value === 'object' && value !== null && !Array.isArray(value),
  list: (value: unknown) => Array.isArray(value),
  secret: (value: unknown) => typeof value === 'string' || typeof value === 'function',
  mode: (value: unknown) => value === 'plain' || value === 'platform',
  wire: (value: unknown) => value === 'auto' || value === 'json' || value === 'binary',
  whenExists: (value: unknown) => value === 'replace' || value === 'refuse',
  callback: (value: unknown) => typeof value === 'function',
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
  functionId: 'callback',
  endpoints: 'list',
  wire: 'wire',
  limits: 'record',
};

function parseOptions<Options>(options: unknown, known: Readonly<Record<string, Check>>): Options & { readonly url: string } {
  if (typeof options !== 'object' || options === null)
    throw new RunnerError('CONFIG_INVALID', 'plugin http takes an object of options with a url');
  for (const [name, value] of Object.entries(options)) {
    const check = known[name];
    if (check === undefined)
      throw new RunnerError('CONFIG_INVALID', `plugin http has no option ${name}; it has ${Object.keys(known).join(', ')}`);
    if (value !== undefined && !CHECKS[check](value))
      throw new RunnerError('CONFIG_INVALID', `the option ${name} of plugin http is not a ${check}`);
  }
  if (!('url' in options)) throw new RunnerError('CONFIG_INVALID', 'plugin http needs the option url');
  // Every field was checked above.
  return options as Options & { readonly url: string };
}
