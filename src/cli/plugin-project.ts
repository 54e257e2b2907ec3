/** The files of a new plugin: those of `examples/plugin-template`, which are tested where they lie, under another name. */

import { readFileSync, readdirSync } from 'node:fs';
import { RunnerError } from '../errors.ts';
import { BUILT_IN_PLUGINS } from '../plugin/catalog.ts';
import { TSCONFIG } from './project.ts';
import { ownDependency, ownVersion, packageFolder } from './version.ts';

export const PLUGIN_KINDS = ['deployer', 'executor', 'backend'] as const;
export type PluginKind = (typeof PLUGIN_KINDS)[number];

const NAME = /^[a-z][a-z0-9]*(?:-[a-z0-9]+)*$/;
const NAME_LENGTH_MAX = 50;
/** Files without which an executor is complete. */
const OF_DEPLOYERS = new Set(['deployer.ts', 'schedules.ts']);
const OF_DEPLOYERS_LINES = /^[ \t]*\/\/ deployer:begin\n[\s\S]*?^[ \t]*\/\/ deployer:end\n/gm;
const MARKER = /^[ \t]*\/\/ deployer:(?:begin|end)\n/gm;
/** What a file within this package imports, and what one outside of it does. */
const ENTRIES: readonly (readonly [RegExp, string])[] = [
  [/'\.\.\/\.\.\/\.\.\/src\/plugin\.ts'/g, "'blueprint-runner/plugin'"],
  [/'\.\.\/\.\.\/\.\.\/src\/conformance\/conformance\.ts'/g, "'blueprint-runner/conformance'"],
  [/'\.\.\/\.\.\/\.\.\/handler\/index\.ts'/g, "'blueprint-runner/handler'"],
];

/** Node runs TypeScript, but not below node_modules: what is published is JavaScript. */
const TSCONFIG_BUILD = {
  extends: './tsconfig.json',
  compilerOptions: { noEmit: false, outDir: 'dist', declaration: true, rewriteRelativeImportExtensions: true },
  exclude: ['*.test.ts', 'reference-platform.ts', 'dist'],
};

/** Throws `CONFIG_INVALID` for a name that cannot be that of a plugin and of a package, or that a built-in plugin has. */
export function checkPluginName(name: string): void {
  if (!NAME.test(name) || name.length > NAME_LENGTH_MAX) {
    const rule = `up to ${NAME_LENGTH_MAX} lower-case letters and digits, in words with single dashes between, beginning with a letter`;
    throw new RunnerError('CONFIG_INVALID', `${JSON.stringify(name)} cannot be the name of a plugin; write ${rule}`);
  }
  if (BUILT_IN_PLUGINS.has(name))
    throw new RunnerError('CONFIG_INVALID', `there is a built-in plugin ${name}; choose another name`, { details: { name } });
}

/** Paths and contents. */
export function pluginFiles(name: string, kind: PluginKind): Readonly<Record<string, string>> {
  const folder = new URL(`examples/plugin-template/${kind === 'backend' ? 'backend' : 'platform'}/`, packageFolder());
  const files: Record<string, string> = {
    'package.json': `${JSON.stringify(manifest(name, kind), null, 2)}\n`,
    'tsconfig.json': `${JSON.stringify({ ...TSCONFIG, include: ['*.ts'] }, null, 2)}\n`,
    'tsconfig.build.json': `${JSON.stringify(TSCONFIG_BUILD, null, 2)}\n`,
    '.gitignore': 'node_modules/\ndist/\n.env\n',
  };
  for (const file of readdirSync(folder).toSorted()) {
    if (kind === 'executor' && OF_DEPLOYERS.has(file)) continue;
    files[file] = fitted(readFileSync(new URL(file, folder), 'utf8'), name, kind);
  }
  return files;
}

function fitted(template: string, name: string, kind: PluginKind): string {
  const words = name.split('-');
  const pascal = words.map((word) => word.charAt(0).toUpperCase() + word.slice(1)).join('');
  const camel = pascal.charAt(0).toLowerCase() + pascal.slice(1);
  let text = template.replace(kind === 'executor' ? OF_DEPLOYERS_LINES : MARKER, '');
  for (const [own, published] of ENTRIES) text = text.replaceAll(own, published);
  return text
    .replaceAll('ACME', name.replaceAll('-', '_').toUpperCase())
    .replaceAll('Acme', pascal)
    .replaceAll(/\bacme(?=[A-Z])/g, camel)
    .replaceAll('acme', name);
}

function manifest(name: string, kind: PluginKind): object {
  return {
    name: `blueprint-plugin-${name}`,
    version: '0.1.0',
    private: true,
    description: `A ${kind} for blueprint-runner: ${name}.`,
    type: 'module',
    engines: { node: '>=22.19' },
    files: ['dist'],
    exports: { types: './dist/index.d.ts', default: './dist/index.js' },
    scripts: { test: 'node --test', check: 'tsc', build: 'tsc -p tsconfig.build.json', prepack: 'npm run build' },
    peerDependencies: { 'blueprint-runner': `^${ownVersion()}` },
    devDependencies: { '@types/node': '^24.0.0', 'blueprint-runner': ownDependency(), typescript: '>=5.9.0' },
  };
}
