/** The text of the runtime client as one script that runs on its own. */

import { readFileSync } from 'node:fs';
import { stripTypeScriptTypes } from 'node:module';

/** In the order in which they use each other. */
const PARTS = ['frames', 'node-client-lane', 'node-client-channel', 'node-client-handler', 'node-client'];
const BUILT_IN = /^import (\w+) from '(node:\w+)';$/gm;
const OWN = /^import [^;]* from '\.\/[^']+';$/gm;
const EXPORT = /^export (?=async |class |const |function |interface |type )/gm;

let text: string | undefined;

/**
 * CommonJS for Node 20 and later, to be written to a file that ends in `.cjs`. See `node-client.ts` for its modes.
 *
 * Joined from the parts as they are, because a bundler is not there at run time.
 */
export function nodeClientSource(): string {
  text ??= join();
  return text;
}

function join(): string {
  const isSource = import.meta.filename.endsWith('.ts');
  const builtIn = new Map<string, string>();
  const bodies = PARTS.map((part) => {
    const file = readFileSync(new URL(`./${part}${isSource ? '.ts' : '.js'}`, import.meta.url), 'utf8');
    const script = isSource ? stripTypeScriptTypes(file) : file;
    for (const [, name, module] of script.matchAll(BUILT_IN)) builtIn.set(name ?? '', module ?? '');
    return script.replace(BUILT_IN, '').replace(OWN, '').replace(EXPORT, '');
  });
  const loads = [...builtIn].map(([name, module]) => `const ${name} = process.getBuiltinModule('${module}');\n`);
  return `'use strict';\n${loads.join('')}${bodies.join('\n')}`;
}
