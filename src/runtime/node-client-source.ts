/** The text of the runtime client as one script that runs on its own. */

import { readFileSync } from 'node:fs';
import { stripTypeScriptTypes } from 'node:module';

/** In the order in which they use each other. */
const PARTS = ['frames', 'node-client-lane', 'node-client-channel', 'node-client-handler', 'node-client'];
const THREAD_PARTS = ['frames', 'node-client-lane', 'node-client-channel', 'port-socket', 'node-client-thread'];
const BUILT_IN = /^import (\w+) from '(node:\w+)';$/gm;
const OWN = /^import [^;]* from '\.{1,2}\/[^']+';$/gm;
const EXPORT = /^export (?=async |class |const |function |interface |type )/gm;

let text: string | undefined;

/**
 * CommonJS for Node 20 and later, to be written to a file that ends in `.cjs`. See `node-client.ts` for its modes.
 *
 * Joined from the parts as they are, because a bundler is not there at run time.
 */
export function nodeClientSource(): string {
  text ??= join(urlsOf(PARTS));
  return text;
}

/**
 * CommonJS for a worker thread: the runtime client, and behind it the files of a plugin, in the order in which they use each other. They
 * import only built-in modules, by default imports, and types; the last of them calls `serveThread`.
 */
export function threadClientSource(files: readonly URL[]): string {
  return join([...urlsOf(THREAD_PARTS), ...files]);
}

function urlsOf(parts: readonly string[]): URL[] {
  const end = import.meta.filename.endsWith('.ts') ? '.ts' : '.js';
  return parts.map((part) => new URL(`./${part}${end}`, import.meta.url));
}

function join(urls: readonly URL[]): string {
  const builtIn = new Map<string, string>();
  const bodies = urls.map((url) => {
    const file = readFileSync(url, 'utf8');
    const script = url.pathname.endsWith('.ts') ? stripTypeScriptTypes(file) : file;
    for (const [, name, module] of script.matchAll(BUILT_IN)) builtIn.set(name ?? '', module ?? '');
    return script.replace(BUILT_IN, '').replace(OWN, '').replace(EXPORT, '');
  });
  const loads = [...builtIn].map(([name, module]) => `const ${name} = process.getBuiltinModule('${module}');\n`);
  return `'use strict';\n${loads.join('')}${bodies.join('\n')}`;
}
