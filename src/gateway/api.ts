/** The requests and responses of the gateway's own API: one description of each, from which types, checks and documentation follow. */

import { RUNTIMES } from '../executor/limits.ts';
import { anything, base64, choice, flag, list, number, object, optional, record, text, whole } from './schema.ts';
import type { Infer } from './schema.ts';

const NAME = text({ about: 'name of a function', charsMax: 256, pattern: /^[A-Za-z0-9_@.-]+$/ });
export const QUALIFIER = text({ about: 'a version or an alias; default $LATEST', charsMax: 128, pattern: /^[A-Za-z0-9$_-]+$/ });
const BACKEND = text({ about: 'name of a backend; default: the default of this gateway', charsMax: 32, pattern: /^[a-z0-9-]+$/ });

/** What an author sets, all of it optional: the provider's defaults hold. */
export const SETTINGS = {
  runtime: optional(text({ about: `such as nodejs24.x; one of ${RUNTIMES.length} names that Lambda knows`, charsMax: 64 })),
  handler: optional(text({ about: 'such as index.handler', charsMax: 128 })),
  description: optional(text({ about: 'for people', charsMax: 256 })),
  memory_mb: optional(whole({ about: 'memory of an instance', min: 1, max: 1_048_576 })),
  timeout_ms: optional(whole({ about: 'the longest that a call may run', min: 1, max: 86_400_000 })),
  ephemeral_mb: optional(whole({ about: 'size of /tmp', min: 1, max: 1_048_576 })),
  environment: optional(record(text({ about: 'value of a variable', charsMax: 32_768 }), 'variables of the function; secrets')),
  concurrency_per_instance: optional(whole({ about: 'calls that one instance takes at the same time', min: 1, max: 1_024 })),
  network: optional(choice('none: only loopback; open: what the machine reaches', ['none', 'open'])),
  backend: optional(BACKEND),
  idempotent: optional(flag('another run of the same call does no harm; default false')),
} as const;

const IMAGE = object('a container image in place of a zip', {
  uri: text({ about: 'such as registry.example.org/jobs:1' }),
  command: optional(list(text({ about: 'one word' }), { about: "in place of the image's command", itemsMax: 100 })),
  entry_point: optional(list(text({ about: 'one word' }), { about: "in place of the image's entry point", itemsMax: 100 })),
});

/** Exactly one of them. */
const CODE = {
  zip: optional(base64('the package')),
  image: optional(IMAGE),
} as const;

export const CREATE_FUNCTION = object('a new function', { name: NAME, ...CODE, ...SETTINGS });
export type CreateFunction = Infer<typeof CREATE_FUNCTION>;

export const DEPLOY_FUNCTION = object('a function, new or in place of the one that is there', { ...CODE, ...SETTINGS });
export type DeployFunction = Infer<typeof DEPLOY_FUNCTION>;

export const UPDATE_FUNCTION = object('what is to change; the rest stays', {
  ...SETTINGS,
  revision_id: optional(text({ about: 'refused unless it is the present one', charsMax: 64 })),
});
export type UpdateFunction = Infer<typeof UPDATE_FUNCTION>;

export const PUBLISH = object('a version to be published', { description: optional(text({ about: 'for people', charsMax: 256 })) });

export const FUNCTION = object('a function, one version of it', {
  name: NAME,
  version: text({ about: '$LATEST or a number' }),
  backend: BACKEND,
  runtime: text({ about: 'empty for images' }),
  handler: text({ about: 'empty for images' }),
  description: text({ about: 'for people' }),
  memory_mb: number('memory of an instance'),
  timeout_ms: number('the longest that a call may run'),
  ephemeral_mb: number('size of /tmp'),
  environment: optional(record(text({ about: 'value' }), 'variables; only for who may change the function')),
  environment_names: list(text({ about: 'name' }), { about: 'names of the variables' }),
  concurrency_per_instance: number('calls that one instance takes at the same time'),
  network: choice('what instances reach', ['none', 'open']),
  idempotent: flag('another run of the same call does no harm'),
  package: choice('how the code came', ['zip', 'image']),
  sha256: optional(text({ about: 'of the zip, hex' })),
  zip_bytes: optional(number('size of the zip')),
  image_uri: optional(text({ about: 'of an image' })),
  fingerprint: text({ about: 'equal exactly when instances may be shared' }),
  revision_id: text({ about: 'changes with every change' }),
  modified_at: text({ about: 'ISO 8601' }),
});
export type FunctionDocument = Infer<typeof FUNCTION>;

/** Of a function, as the store gives them at once. */
export const VERSIONS_MAX = 10_000;

export const FUNCTIONS = object('a page of functions', {
  functions: list(FUNCTION, { about: 'by name', itemsMax: VERSIONS_MAX }),
  next: optional(text({ about: 'for `after` of the next page; absent on the last' })),
});
export type FunctionsDocument = Infer<typeof FUNCTIONS>;

export const REPORT = object('what a call took', {
  request_id: text({ about: 'of the call' }),
  instance_id: text({ about: 'that served it' }),
  cold_start: flag('it was the first of its instance'),
  queue_ms: number('waiting for an instance, its start included'),
  create_ms: optional(number('making the instance')),
  boot_ms: optional(number('until its program ran')),
  init_ms: optional(number('until it asked for work')),
  run_ms: number('from when the instance took the call'),
  memory_used_mb: optional(number('the most, where it is known')),
});
export type ReportDocument = Infer<typeof REPORT>;

export const EXECUTE = object('something to run: a deployed function, or code that comes with the request', {
  function: optional(NAME),
  qualifier: optional(QUALIFIER),
  mode: optional(
    choice('cached (default): a warm instance when there is one; ephemeral: an instance for this call alone', ['cached', 'ephemeral']),
  ),
  ...CODE,
  ...SETTINGS,
  payload: optional(anything('the event, any JSON; default null')),
  payload_base64: optional(base64('the event as bytes')),
  idempotency_key: optional(
    text({
      about: 'the same key and request give the same answer; also as the header Idempotency-Key',
      charsMax: 256,
      pattern: /^[!-~]+$/,
    }),
  ),
});
export type Execute = Infer<typeof EXECUTE>;

export const EXECUTED = object('the answer of the function', {
  request_id: text({ about: 'of the call' }),
  mode: choice('how it ran', ['cached', 'ephemeral']),
  content_type: text({ about: 'as the function said' }),
  output: optional(anything('what the function returned, when that is JSON')),
  output_base64: optional(text({ about: 'else the bytes' })),
  logs: text({ about: 'the last 4 KiB that it wrote' }),
  report: REPORT,
});
export type Executed = Infer<typeof EXECUTED>;

export const INSTANCE = object('an instance', {
  id: text({ about: 'unique' }),
  backend: BACKEND,
  function: NAME,
  version: text({ about: '$LATEST or a number' }),
  fingerprint: text({ about: 'of the version' }),
  state: choice('what it does', ['starting', 'idle', 'busy', 'paused', 'stopping']),
  running: number('calls on it'),
  calls: number('calls since its start'),
  started_at: text({ about: 'ISO 8601' }),
  handle: optional(record(anything('text or number'), 'what the backend calls it')),
});
export type InstanceDocument = Infer<typeof INSTANCE>;

export const INSTANCES = object('instances', { instances: list(INSTANCE, { about: 'of all backends', itemsMax: 100_000 }) });
export type InstancesDocument = Infer<typeof INSTANCES>;

export const WARM = object('instances to have ready', {
  function: NAME,
  qualifier: optional(QUALIFIER),
  count: whole({ about: 'ready at the same time', min: 1, max: 1_000 }),
});
export const DRAIN = object('a function whose instances are to end after their calls', { function: NAME });

export const LOG_LINE = object('a line that an instance wrote', {
  id: text({ about: 'for `since`' }),
  at: text({ about: 'ISO 8601' }),
  function: NAME,
  version: text({ about: '$LATEST or a number' }),
  instance_id: text({ about: 'that wrote it' }),
  stream: choice('where to', ['stdout', 'stderr']),
  request_id: optional(text({ about: 'of the call during which it was written' })),
  level: optional(text({ about: 'of a line of JSON; error: the gateway says how a call failed' })),
  text: text({ about: 'the line', charsMax: 1_048_576 }),
});
export type LogLineDocument = Infer<typeof LOG_LINE>;

export const LOGS = object('lines', { lines: list(LOG_LINE, { about: 'oldest first', itemsMax: 10_000 }) });
export type LogsDocument = Infer<typeof LOGS>;

export const INFO = object('this gateway', {
  name: text({ about: 'blueprint-runner' }),
  version: text({ about: 'of the package' }),
  default_backend: BACKEND,
  backends: list(object('a backend', { name: BACKEND, instances: number('now') }), { about: 'that work here' }),
  functions: number('deployed'),
  limits: record(number('a limit'), 'of requests, in bytes and milliseconds'),
  uptime_seconds: number('since it listens'),
});
export type InfoDocument = Infer<typeof INFO>;

export const ERROR = object('a refusal or a failure', {
  error: object('what went wrong', {
    code: text({ about: 'one of ERRORS.md' }),
    message: text({ about: 'for people', charsMax: 1_048_576 }),
    details: anything('values that help'),
    request_id: text({ about: 'of this request, for the log' }),
  }),
});
