/** A Worker on its way to and from Cloudflare: one form with the metadata as JSON and the module as a file. */

import { unzipSync } from 'fflate';
import { RunnerError } from '../../src/plugin.ts';
import type { FunctionPackage, HttpResponse } from '../../src/plugin.ts';
import type { Fields, Form } from './client.ts';

export interface Module {
  readonly name: string;
  readonly source: Uint8Array;
}

/** What the bundle of `buildHandler` calls the module of a Worker. */
export const MAIN_MODULE = 'handler.mjs';
const MODULE_TYPE = 'application/javascript+module';

/** The module out of a package. Throws `PACKAGE_INVALID`. */
export function moduleOf({ zip }: FunctionPackage, name = MAIN_MODULE): Module {
  let source: Uint8Array | undefined;
  try {
    source = unzipSync(zip, { filter: (file) => file.name === name })[name];
  } catch (cause) {
    throw new RunnerError('PACKAGE_INVALID', 'the package is no zip that can be read', { cause });
  }
  if (!source)
    throw new RunnerError('PACKAGE_INVALID', `the package holds no ${name}: build it with buildHandler, or name its module as handler`);
  return { name, source };
}

/** https://developers.cloudflare.com/workers/configuration/multipart-upload-metadata/ */
export async function formOf(metadata: Fields, { name, source }: Module): Promise<Form> {
  const form = new FormData();
  form.set('metadata', JSON.stringify({ main_module: name, ...metadata }));
  // A copy with a buffer of its own, as a file wants it.
  form.set(name, new File([Uint8Array.from(source)], name, { type: MODULE_TYPE }));
  const encoded = new Response(form);
  return { type: encoded.headers.get('content-type') ?? '', body: new Uint8Array(await encoded.arrayBuffer()) };
}

/** The main module of what `content/v2` gives. Throws `EXECUTOR_RESPONSE_INVALID`. */
export async function moduleIn({ headers, body }: HttpResponse): Promise<Module> {
  const type = String(headers['content-type']);
  // oxlint-disable-next-line typescript/no-deprecated -- one small form of a platform that is trusted with the code
  const form = await new Response(Uint8Array.from(body), { headers: { 'content-type': type } }).formData().catch((cause: unknown) => {
    throw new RunnerError('EXECUTOR_RESPONSE_INVALID', `Cloudflare gives a Worker as ${type}, which is no form`, { cause });
  });
  const entry = headers['cf-entrypoint'];
  const files = [...form.entries()].flatMap(([name, part]) => (typeof part === 'string' ? [] : [{ name, part }]));
  const main = files.find(({ name }) => name === entry) ?? files[0];
  if (!main || files.length > 1)
    throw new RunnerError('EXECUTOR_RESPONSE_INVALID', `Cloudflare gives a Worker of ${files.length} modules; deploy its package again`);
  return { name: main.name, source: new Uint8Array(await main.part.arrayBuffer()) };
}
