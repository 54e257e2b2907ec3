/**
 * Functions as actions of OpenWhisk. What has to be known again stands in their annotations.
 *
 * | annotation                       | meaning                                                                |
 * | -------------------------------- | ---------------------------------------------------------------------- |
 * | `managed-by`                     | `blueprint-runner`: this tool made it                                  |
 * | `blueprint-sha256`               | of the package                                                         |
 * | `blueprint-revision`             | the version of the action that these annotations were written with     |
 * | `blueprint-version-of`           | of a kept version: the function that it belongs to                     |
 * | `web-export`, `raw-http`         | calls come over HTTP, their bodies as they are                         |
 * | `require-whisk-auth`             | the secret that calls must know                                        |
 */

import { createHash, randomBytes } from 'node:crypto';
import { RunnerError } from '../../src/plugin.ts';
import type { FunctionConfig, FunctionPackage } from '../../src/plugin.ts';
import { asFields, failure, fieldsOf, listOf, parsed } from './client.ts';
import type { Fields } from './client.ts';
import type { Namespaces } from './namespace.ts';

export interface Action {
  readonly name: string;
  readonly isOurs: boolean;
  readonly sha256: string | undefined;
  readonly kind: string | undefined;
  readonly main: string | undefined;
  readonly version: string;
  readonly updatedAt: string | undefined;
  readonly config: FunctionConfig;
  /** What callers over HTTP must know. */
  readonly webSecret: string | undefined;
  /** Of a kept version. */
  readonly versionOf: string | undefined;
  readonly annotations: Fields;
}

export interface ActionUpload {
  readonly code: FunctionPackage;
  readonly kind: string;
  readonly main: string;
}

const MANAGED_BY = 'blueprint-runner';
const PAGE = 200;
const WEB_SECRET_BYTES = 24;

export class Actions {
  readonly #namespaces: Namespaces;

  constructor(namespaces: Namespaces) {
    this.#namespaces = namespaces;
  }

  async find(name: string, signal: AbortSignal | undefined): Promise<Action | undefined> {
    if (!(await this.#namespaces.find(signal))) return undefined;
    const path = `${pathOf(name)}?code=false`;
    const response = await this.#namespaces.whisk({ method: 'GET', path, signal });
    if (response.status === 404) return undefined;
    const action = actionOf(parsed(`describe function ${name}`, response));
    if (!action.isOurs || action.annotations['blueprint-revision'] === action.version) return action;
    // Somebody else wrote to it since: what it runs now is told only by the code itself.
    const { code } = await this.download(name, signal);
    return { ...action, sha256: code.sha256 };
  }

  async *list(signal: AbortSignal | undefined): AsyncGenerator<Action> {
    if (!(await this.#namespaces.find(signal))) return;
    for (let skip = 0; ; skip += PAGE) {
      const response = await this.#namespaces.whisk({ method: 'GET', path: `/actions?limit=${PAGE}&skip=${skip}`, signal });
      if (response.status >= 300) throw failure('list functions', response);
      const page: unknown = JSON.parse(Buffer.from(response.body).toString('utf8'));
      const actions = listOf(page);
      for (const fields of actions) yield actionOf(fields);
      if (actions.length < PAGE) return;
    }
  }

  async download(name: string, signal: AbortSignal | undefined): Promise<ActionUpload> {
    const response = await this.#namespaces.whisk({ method: 'GET', path: `${pathOf(name)}?code=true`, signal });
    const exec = asFields(parsed(`read the code of ${name}`, response)['exec']);
    const { code, kind, main } = exec ?? {};
    if (typeof code !== 'string' || typeof kind !== 'string')
      throw new RunnerError('EXECUTOR_RESPONSE_INVALID', `DigitalOcean gives the function ${name} without its code`);
    const zip = Buffer.from(code, 'base64');
    const sha256 = createHash('sha256').update(zip).digest('hex');
    return { code: { zip, sha256 }, kind, main: typeof main === 'string' ? main : 'main' };
  }

  /** Creates or replaces; what is not said of one that is there stays: OpenWhisk merges. */
  async put(name: string, { present, upload, config }: Put, signal: AbortSignal | undefined): Promise<void> {
    const json = {
      ...(upload && { exec: execOf(upload) }),
      ...limitsOf(config),
      ...(config.environment && { parameters: parametersOf(config.environment) }),
      annotations: listed({ ...annotationsFor(present, config), 'blueprint-sha256': upload?.code.sha256 ?? present?.sha256 }),
    };
    await this.#put(name, json, signal);
  }

  /** A copy with the configuration of this moment; no call goes to it unless it is asked for by its version. */
  async keep(name: string, { upload, of, config }: Copy, signal: AbortSignal | undefined): Promise<void> {
    const annotations = { 'managed-by': MANAGED_BY, 'blueprint-version-of': of, 'blueprint-sha256': upload.code.sha256 };
    const json = {
      exec: execOf(upload),
      ...limitsOf(config),
      parameters: parametersOf(config.environment ?? {}),
      annotations: listed({ ...annotations, 'blueprint-revision': nextRevision(undefined), 'web-export': false }),
    };
    await this.#put(name, json, signal);
  }

  async delete(name: string, signal: AbortSignal | undefined): Promise<void> {
    const response = await this.#namespaces.whisk({ method: 'DELETE', path: pathOf(name), signal });
    if (response.status >= 300 && response.status !== 404) throw failure(`remove function ${name}`, response);
  }

  async #put(name: string, json: unknown, signal: AbortSignal | undefined): Promise<void> {
    const response = await this.#namespaces.whisk({ method: 'PUT', path: `${pathOf(name)}?overwrite=true`, json, signal });
    if (response.status < 300) return;
    const said = fieldsOf(response.body)?.['error'];
    const isLimit = response.status === 400 && typeof said === 'string' && /limit|exceed|range/i.test(said);
    throw failure(`deploy function ${name}`, response, isLimit ? 'LIMIT_EXCEEDED' : undefined);
  }
}

export interface Put {
  readonly present: Action | undefined;
  readonly upload?: ActionUpload;
  readonly config: FunctionConfig;
}

export interface Copy {
  readonly upload: ActionUpload;
  readonly of: string;
  readonly config: FunctionConfig;
}

export function pathOf(name: string): string {
  return `/actions/${encodeURIComponent(name)}`;
}

/** What OpenWhisk counts up with every write. */
function nextRevision(present: Action | undefined): string {
  if (!present) return '0.0.1';
  const [major, minor, patch] = present.version.split('.').map(Number);
  return `${major}.${minor}.${(patch ?? 0) + 1}`;
}

function annotationsFor(present: Action | undefined, config: FunctionConfig): Fields {
  const { exec: _, 'provide-api-key': __, ...kept } = present?.annotations ?? {};
  return {
    ...kept,
    'managed-by': MANAGED_BY,
    'blueprint-revision': nextRevision(present),
    'web-export': true,
    'raw-http': true,
    'require-whisk-auth': present?.webSecret ?? randomBytes(WEB_SECRET_BYTES).toString('base64url'),
    ...(config.description !== undefined && { description: config.description }),
    ...(config.tags && { 'blueprint-tags': config.tags }),
  };
}

function listed(fields: Fields): readonly { readonly key: string; readonly value: unknown }[] {
  return Object.entries(fields)
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => ({ key, value }));
}

function execOf({ code, kind, main }: ActionUpload): Fields {
  return { kind, main, binary: true, code: Buffer.from(code.zip).toString('base64') };
}

function limitsOf({ memoryMb, timeoutMs }: FunctionConfig): Fields {
  const limits = { ...(memoryMb !== undefined && { memory: memoryMb }), ...(timeoutMs !== undefined && { timeout: timeoutMs }) };
  return Object.keys(limits).length === 0 ? {} : { limits };
}

/** `init` makes a parameter a variable of the environment. */
function parametersOf(environment: Readonly<Record<string, string>>): readonly Fields[] {
  return Object.entries(environment).map(([key, value]) => ({ key, value, init: true }));
}

function actionOf(fields: Fields): Action {
  const annotations = Object.fromEntries(listOf(fields['annotations']).map(({ key, value }) => [String(key), value]));
  const exec = asFields(fields['exec']) ?? {};
  const { memory, timeout } = asFields(fields['limits']) ?? {};
  const variables = listOf(fields['parameters']).filter(({ init }) => init === true);
  const tags = asFields(annotations['blueprint-tags']);
  const description = annotations['description'];
  const secret = annotations['require-whisk-auth'];
  const versionOf = annotations['blueprint-version-of'];
  const updated = fields['updated'];
  return {
    name: String(fields['name']),
    isOurs: annotations['managed-by'] === MANAGED_BY,
    sha256: text(annotations['blueprint-sha256']),
    kind: text(exec['kind']) ?? text(annotations['exec']),
    main: text(exec['main']),
    version: String(fields['version']),
    updatedAt: typeof updated === 'number' ? new Date(updated).toISOString() : undefined,
    webSecret: text(secret),
    versionOf: text(versionOf),
    annotations,
    config: {
      ...(typeof description === 'string' && { description }),
      ...(typeof memory === 'number' && { memoryMb: memory }),
      ...(typeof timeout === 'number' && { timeoutMs: timeout }),
      ...(variables.length > 0 && { environment: Object.fromEntries(variables.map(({ key, value }) => [String(key), String(value)])) }),
      // Values were text when they were written.
      ...(tags && { tags: tags as Record<string, string> }),
    },
  };
}

function text(value: unknown): string | undefined {
  return typeof value === 'string' ? value : undefined;
}
