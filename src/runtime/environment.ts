/** The environment that a function sees (https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html). */

import type { FunctionVersion } from './runtime.ts';

/** Names that are the platform's: what the author sets for them has no effect. */
export const RESERVED_ENVIRONMENT: ReadonlySet<string> = new Set([
  '_HANDLER',
  '_X_AMZN_TRACE_ID',
  'AWS_DEFAULT_REGION',
  'AWS_REGION',
  'AWS_EXECUTION_ENV',
  'AWS_LAMBDA_FUNCTION_NAME',
  'AWS_LAMBDA_FUNCTION_MEMORY_SIZE',
  'AWS_LAMBDA_FUNCTION_VERSION',
  'AWS_LAMBDA_INITIALIZATION_TYPE',
  'AWS_LAMBDA_LOG_GROUP_NAME',
  'AWS_LAMBDA_LOG_STREAM_NAME',
  'AWS_LAMBDA_MAX_CONCURRENCY',
  'AWS_LAMBDA_RUNTIME_API',
  'AWS_ACCESS_KEY',
  'AWS_ACCESS_KEY_ID',
  'AWS_SECRET_ACCESS_KEY',
  'AWS_SESSION_TOKEN',
  'LAMBDA_TASK_ROOT',
  'LAMBDA_RUNTIME_DIR',
]);

const RUNTIME_DIR = '/var/runtime';
const TASK_ROOT = '/var/task';

/** What the author may replace. */
function defaults({ runtime }: FunctionVersion): Record<string, string> {
  const common = {
    LANG: 'en_US.UTF-8',
    TZ: ':UTC',
    PATH: '/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin',
    LD_LIBRARY_PATH: `/var/lang/lib:/lib64:/usr/lib64:${RUNTIME_DIR}:${RUNTIME_DIR}/lib:${TASK_ROOT}:${TASK_ROOT}/lib:/opt/lib`,
  };
  const [, major] = /^nodejs(\d+)/.exec(runtime) ?? [];
  if (major !== undefined) {
    return { ...common, NODE_PATH: `/opt/nodejs/node${major}/node_modules:/opt/nodejs/node_modules:${RUNTIME_DIR}/node_modules` };
  }
  return runtime.startsWith('python') ? { ...common, PYTHONPATH: RUNTIME_DIR } : common;
}

export interface EnvironmentOptions {
  /** Default `us-east-1`. */
  readonly region?: string;
  /** Names the log stream. */
  readonly instanceId: string;
  /** Milliseconds since the epoch. */
  readonly startedAt: number;
  /** Of the operator, for all functions: credentials and the like. Wins over the author's, not over what describes the instance. */
  readonly shared?: Readonly<Record<string, string>>;
}

/** All but `AWS_LAMBDA_RUNTIME_API`, which the backend knows. */
export function instanceEnvironment(fn: FunctionVersion, options: EnvironmentOptions): Record<string, string> {
  const { region = 'us-east-1' } = options;
  const environment = defaults(fn);
  for (const [name, value] of Object.entries(fn.environment)) if (!RESERVED_ENVIRONMENT.has(name)) environment[name] = value;
  const day = new Date(options.startedAt).toISOString().slice(0, 10).replaceAll('-', '/');
  return {
    ...environment,
    AWS_REGION: region,
    AWS_DEFAULT_REGION: region,
    ...options.shared,
    _HANDLER: fn.handler,
    ...(fn.code.kind === 'folder' && { AWS_EXECUTION_ENV: `AWS_Lambda_${fn.runtime}` }),
    AWS_LAMBDA_FUNCTION_NAME: fn.name,
    AWS_LAMBDA_FUNCTION_VERSION: fn.version,
    AWS_LAMBDA_FUNCTION_MEMORY_SIZE: String(fn.memoryMb),
    AWS_LAMBDA_INITIALIZATION_TYPE: 'on-demand',
    AWS_LAMBDA_LOG_GROUP_NAME: `/aws/lambda/${fn.name}`,
    AWS_LAMBDA_LOG_STREAM_NAME: `${day}/[${fn.version}]${options.instanceId}`,
    LAMBDA_TASK_ROOT: TASK_ROOT,
    LAMBDA_RUNTIME_DIR: RUNTIME_DIR,
    ...(fn.concurrencyPerInstance > 1 && { AWS_LAMBDA_MAX_CONCURRENCY: String(fn.concurrencyPerInstance) }),
  };
}
