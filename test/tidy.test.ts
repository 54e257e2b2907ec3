/**
 * The house rules that lie between files: who may import whom, where time and the environment come in, how files are named.
 * What lies within one function (sizes, parameters, promises) is the linter's.
 */

import { readFileSync, readdirSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parseAst } from 'vitest/node';

interface RoomRule {
  /** Rooms, or with `:contract` only the file named like its room, and what `CONTRACTS` adds. */
  readonly rooms: readonly string[];
  readonly packages?: readonly string[];
}

const BASE = ['job', 'telemetry', 'clock', 'errors'];

const AWS_PACKAGES = ['lambda', 'iam', 'cloudwatch-logs', 'scheduler', 'eventbridge', 's3', 'sqs', 'ec2', 'sts'].map(
  (name) => `@aws-sdk/client-${name}`,
);

const NATS_PACKAGES = ['@nats-io/transport-node', '@nats-io/jetstream'];

/** The import table. `index` and `plugin-entry` are the files that list what the package exports. */
const TABLE: Readonly<Record<string, RoomRule>> = {
  errors: { rooms: [] },
  'error-texts': { rooms: ['errors'] },
  clock: { rooms: ['errors'] },
  job: { rooms: ['errors'], packages: ['viem'] },
  telemetry: { rooms: ['errors'], packages: ['pino', 'prom-client', '@opentelemetry/api'] },
  'map-limited': { rooms: [] },
  folder: { rooms: [] },
  'sqlite-file': { rooms: ['folder', 'errors'] },
  ledger: { rooms: ['sqlite-file', ...BASE] },
  executor: { rooms: ['schedule:contract', ...BASE] },
  runtime: { rooms: ['map-limited', 'executor', ...BASE] },
  chain: { rooms: ['map-limited', 'ledger', ...BASE], packages: ['viem', 'undici', 'ws'] },
  // Of the queue only its contract is below the plugins, which lie below http.
  queue: { rooms: ['sqlite-file', 'http', 'executor:contract', ...BASE] },
  // Engines elsewhere, which workers call, or a control plane for them.
  engine: { rooms: ['executor', 'runtime', 'http', ...BASE] },
  control: { rooms: ['folder', 'sqlite-file', 'queue', 'gateway', 'runtime', 'engine', ...BASE] },
  worker: { rooms: ['queue', 'executor', 'runtime', 'engine', 'http', ...BASE] },
  // Files for those who watch; of the others it knows the names of metrics, which a test compares.
  operations: { rooms: [], packages: ['yaml'] },
  schedule: { rooms: ['errors', 'clock'] },
  topology: { rooms: ['queue', 'map-limited', 'executor:contract', 'errors'], packages: ['yaml'] },
  plugin: {
    rooms: [
      'executor:contract',
      'runtime:contract',
      'queue:contract',
      'chain:contract',
      'schedule:contract',
      'telemetry',
      'clock',
      'errors',
    ],
    packages: ['tsyringe', 'reflect-metadata'],
  },
  deploy: {
    rooms: ['folder', 'map-limited', 'job', 'executor', 'chain', 'schedule', 'plugin', 'runner', 'telemetry', 'clock', 'errors'],
    packages: ['esbuild', 'fflate', 'smol-toml', 'yaml'],
  },
  http: { rooms: ['executor', 'plugin', 'job', 'clock', 'errors'], packages: ['undici'] },
  runner: { rooms: ['ledger', 'executor', 'runtime', 'chain', 'queue', 'schedule', 'plugin', ...BASE], packages: ['eventemitter3'] },
  gateway: { rooms: ['runner', 'runtime', 'executor', 'queue', 'deploy', ...BASE], packages: ['ws'] },
  dashboard: { rooms: ['gateway'] },
  testing: { rooms: ['ledger', 'executor', 'chain', 'queue', 'plugin', 'runner', ...BASE], packages: ['viem', 'undici', 'ws', 'fflate'] },
  conformance: {
    rooms: [
      'executor:contract',
      'runtime',
      'queue:contract',
      'chain:contract',
      'schedule:contract',
      'ledger:contract',
      'plugin:contract',
      ...BASE,
    ],
    packages: ['viem'],
  },
  index: { rooms: ['ledger', 'executor', 'runtime', 'chain', 'queue', 'worker', 'schedule', 'plugin', 'deploy', 'runner', ...BASE] },
  'plugin-entry': { rooms: ['http', 'executor', 'runtime', 'queue', 'chain', 'schedule', 'plugin', ...BASE] },
  operator: { rooms: ['chain', ...BASE] },
  handler: { rooms: ['job', 'errors'], packages: ['@azure/functions'] },
  'plugins/process': { rooms: ['plugin-entry'] },
  'plugins/http': { rooms: ['plugin-entry'] },
  'plugins/container': { rooms: ['plugin-entry'], packages: ['dockerode'] },
  'plugins/aws-lambda': { rooms: ['plugin-entry'], packages: AWS_PACKAGES },
  'plugins/gcp': { rooms: ['plugin-entry'], packages: ['fflate'] },
  'plugins/azure': { rooms: ['plugin-entry'], packages: ['fflate'] },
  'plugins/digitalocean': { rooms: ['plugin-entry'], packages: ['undici', 'fflate'] },
  'plugins/cloudflare': { rooms: ['plugin-entry'], packages: ['fflate', 'ws'] },
  'plugins/nats': { rooms: ['plugin-entry'], packages: NATS_PACKAGES },
  'plugins/kubernetes': { rooms: ['plugin-entry'], packages: ['fflate', 'yaml'] },
  'plugins/wasm': { rooms: ['plugin-entry'] },
};
/** The command line may use every room; the handler and the plugins are reached through the catalog and by package name. */
const CLI_PACKAGES = ['commander', 'ws'];
/** Loaded on first use: never by a plain import of a value. */
const LAZY_PACKAGES = new Set([
  '@azure/functions',
  'pino',
  'prom-client',
  '@opentelemetry/api',
  'esbuild',
  'commander',
  'dockerode',
  ...AWS_PACKAGES,
  ...NATS_PACKAGES,
]);
/** Contracts of a room that has more than one. */
const CONTRACTS = new Set([
  'src/executor/deployer.ts',
  'src/executor/limits.ts',
  'src/executor/machine.ts',
  'src/executor/log-query.ts',
  'src/executor/steps.ts',
  'src/queue/objects.ts',
]);
/** The one file of src that may load built-in plugins, lazily. */
const CATALOG = 'src/plugin/catalog.ts';
const NESTED = /^src\/(?:cli\/commands|testing\/contracts|gateway\/lambda|dashboard\/\w+)\//;

/** Where time, randomness and the environment may be taken from the air, besides the command line, the handler, the test tools. */
const AMBIENT_FILES: Readonly<Record<string, string>> = {
  'src/clock.ts': 'it is the clock',
  'src/runner/environment.ts': 'it parses the environment',
  'src/runtime/node-client.ts': 'it is the program inside an instance',
  'src/runtime/node-client-lane.ts': 'it is part of the program inside an instance',
  'src/runtime/node-client-handler.ts': 'it is part of the program inside an instance',
  'plugins/wasm/thread.ts': 'it is the program inside an instance',
  'src/gateway/client-wire.ts': 'it runs in browsers, where nobody has a clock to give',
  'src/job/middleware.ts': 'its default clock is part of the handler bundle, which carries no other',
};
const AMBIENT_ROOMS = new Set(['cli', 'handler', 'testing', 'conformance']);
const AMBIENT = new Set(['Date.now', 'Math.random', 'performance.now', 'process.env', 'setTimeout', 'setInterval']);

const FILE_NAME = /^[a-z0-9]+(?:-[a-z0-9]+)*(?:\.test|\.test-d|\.bench)?\.ts$/;
const UNFINISHED = /\b(?:TODO|FIXME|XXX|HACK)\b/;
const FOREIGN = /\/work\/|\/root\/|from '\/|npmmirror|verdaccio|artifactory|\bS\d-\d{2}\b|\bU-(?:D)?\d{1,2}\b/;
const WEAK_ASSERTIONS = new Set(['toBeDefined', 'toBeTruthy', 'toBeFalsy']);
const TEST_NAMES = new Set(['it', 'test', 'describe', 'bench']);
const TEST_SWITCHES = new Set(['skip', 'only', 'todo', 'skipIf', 'runIf', 'fails']);

interface Node {
  readonly type: string;
  readonly start: number;
  readonly [field: string]: unknown;
}

interface Source {
  readonly path: string;
  readonly text: string;
  readonly ast: Node;
}

interface Import {
  readonly specifier: string;
  readonly kind: 'value' | 'type' | 'lazy';
  readonly node: Node;
}

type Rule = (source: Source) => readonly string[];

function parse(path: string, text: string): Source {
  // oxlint-disable-next-line typescript/no-deprecated -- the only parser that a declared dependency exports
  return { path, text, ast: parseAst(text, { lang: 'ts', astType: 'ts' }) as unknown as Node };
}

function at({ path, text }: Source, node: Node, problem: string): string {
  return `${path}:${text.slice(0, node.start).split('\n').length} ${problem}`;
}

function isNode(value: unknown): value is Node {
  return typeof value === 'object' && value !== null && 'type' in value && typeof value.type === 'string';
}

/** Every node with its parent, outermost first. */
function* walk(node: Node, parent?: Node): Generator<readonly [node: Node, parent: Node | undefined]> {
  yield [node, parent];
  for (const value of Object.values(node)) {
    if (isNode(value)) yield* walk(value, node);
    else if (Array.isArray(value)) for (const item of value) if (isNode(item)) yield* walk(item, node);
  }
}

/** `a.b` for a member access by name, `a` for an identifier. */
function dotted(node: unknown): string {
  if (!isNode(node)) return '';
  if (node.type === 'Identifier') return String(node['name']);
  return node.type === 'MemberExpression' && node['computed'] === false ? `${dotted(node['object'])}.${dotted(node['property'])}` : '';
}

function isTest(path: string): boolean {
  return /\.(?:test|test-d)\.ts$/.test(path) || path.startsWith('test/');
}

function roomOf(path: string): string {
  const [top, room = '', ...rest] = path.split('/');
  if (top === 'handler') return 'handler';
  if (top === 'plugins') return `plugins/${room}`;
  if (rest.length > 0) return room;
  const file = room.replace(/\.ts$/, '');
  return file === 'plugin' ? 'plugin-entry' : file;
}

function importsOf({ ast }: Source): Import[] {
  const imports: Import[] = [];
  for (const [node] of walk(ast)) {
    const specifier = isNode(node['source']) ? node['source']['value'] : undefined;
    if (typeof specifier !== 'string') continue;
    if (node.type === 'ImportExpression') imports.push({ specifier, kind: 'lazy', node });
    else if (node.type === 'TSImportType' || node['importKind'] === 'type' || node['exportKind'] === 'type')
      imports.push({ specifier, kind: 'type', node });
    else imports.push({ specifier, kind: 'value', node });
  }
  return imports;
}

/** What is wrong with one import, if anything. */
function importProblem(path: string, { specifier, kind }: Import): string | undefined {
  if (specifier.startsWith('node:'))
    return specifier.startsWith('node:timers') && !ambientAllowed(path) ? `imports ${specifier}; time comes from the clock` : undefined;
  const room = roomOf(path);
  const rule = TABLE[room];
  if (!specifier.startsWith('.')) {
    const name = specifier.split('/', specifier.startsWith('@') ? 2 : 1).join('/');
    if (kind === 'value' && LAZY_PACKAGES.has(name) && room !== 'cli') return `loads ${name} at once; import() it on first use`;
    const packages = room === 'cli' ? CLI_PACKAGES : (rule?.packages ?? []);
    return packages.includes(name) ? undefined : `${room} may not import the package ${name}`;
  }
  if (!specifier.endsWith('.ts')) return `imports ${specifier} without .ts`;
  const target = normalize(join(dirname(path), specifier));
  const targetRoom = roomOf(target);
  if (targetRoom === room) return undefined;
  if (isTest(target)) return `imports the test file ${target}`;
  if (path === CATALOG && target.startsWith('plugins/') && kind === 'lazy') return undefined;
  if (room === 'cli') return target.startsWith('src/') ? undefined : `imports ${target}; plugins come from the catalog`;
  if (!rule) return `is in the room ${room}, which the import table does not know`;
  if (rule.rooms.includes(targetRoom) && (target.startsWith('src/') || targetRoom === room)) return undefined;
  if (rule.rooms.includes(`${targetRoom}:contract`)) {
    return target === `src/${targetRoom}/${targetRoom}.ts` || CONTRACTS.has(target)
      ? undefined
      : `${room} may import only the contract of ${targetRoom}, not ${target}`;
  }
  return `${room} may not import ${target}`;
}

function ambientAllowed(path: string): boolean {
  return path in AMBIENT_FILES || AMBIENT_ROOMS.has(roomOf(path)) || isTest(path) || path.startsWith('examples/');
}

/** `options.random ?? Math.random` and `environment = process.env`: what comes in through the constructor has a default. */
function isDefault(node: Node, parent: Node | undefined): boolean {
  if (parent === undefined) return false;
  return (
    (parent.type === 'LogicalExpression' && parent['operator'] === '??' && parent['right'] === node) ||
    (parent.type === 'AssignmentPattern' && parent['right'] === node)
  );
}

const RULES: Readonly<Record<string, Rule>> = {
  'imports follow the table': (source) =>
    isTest(source.path)
      ? []
      : importsOf(source).flatMap((one) => {
          const problem = importProblem(source.path, one);
          return problem === undefined ? [] : [at(source, one.node, problem)];
        }),

  'rooms are one level deep and files are named in kebab-case': ({ path }) => {
    const problems: string[] = [];
    if (!FILE_NAME.test(path.slice(path.lastIndexOf('/') + 1))) problems.push(`${path} is not named in kebab-case`);
    const deep = path.split('/').length > 3 && path.startsWith('src/') && !NESTED.test(path);
    return deep ? [...problems, `${path} lies deeper than its room`] : problems;
  },

  'nothing is exported wholesale': (source) =>
    [...walk(source.ast)].flatMap(([node]) => (node.type === 'ExportAllDeclaration' ? [at(source, node, 'uses export *')] : [])),

  'there is no any': (source) =>
    [...walk(source.ast)].flatMap(([node]) => (node.type === 'TSAnyKeyword' ? [at(source, node, 'says any')] : [])),

  'errors are recognised by their brand': (source) =>
    [...walk(source.ast)].flatMap(([node]) =>
      node.type === 'BinaryExpression' && node['operator'] === 'instanceof' && dotted(node['right']) === 'RunnerError'
        ? [at(source, node, 'asks instanceof RunnerError; use isRunnerError')]
        : [],
    ),

  'nothing is unfinished': ({ path, text }) =>
    text.split('\n').flatMap((line, index) => (UNFINISHED.test(line) ? [`${path}:${index + 1} ${line.trim()}`] : [])),

  'the project speaks only of itself': ({ path, text }) =>
    text.split('\n').flatMap((line, index) => (FOREIGN.test(line) ? [`${path}:${index + 1} ${line.trim()}`] : [])),

  'the console belongs to the command line': (source) => {
    if (isTest(source.path) || source.path.startsWith('examples/') || AMBIENT_ROOMS.has(roomOf(source.path))) return [];
    return [...walk(source.ast)].flatMap(([node]) =>
      /^console\.\w+$/.test(dotted(node)) ? [at(source, node, `uses ${dotted(node)}`)] : [],
    );
  },

  'time, randomness and environment come in through constructors': (source) => {
    if (ambientAllowed(source.path)) return [];
    return [...walk(source.ast)].flatMap(([node, parent]) => {
      const clockless = node.type === 'NewExpression' && dotted(node['callee']) === 'Date' && (node['arguments'] as unknown[]).length === 0;
      const used =
        clockless ||
        (AMBIENT.has(dotted(node)) && !(parent?.type === 'MemberExpression' && parent['property'] === node) && !isProperty(node, parent));
      return used && !isDefault(node, parent) ? [at(source, node, `takes ${clockless ? 'new Date()' : dotted(node)} from the air`)] : [];
    });
  },

  'tests are neither switched off nor weak': (source) =>
    isTest(source.path)
      ? [...walk(source.ast)].flatMap(([node]) => {
          const [object, property] = node.type === 'MemberExpression' ? [dotted(node['object']), dotted(node['property'])] : ['', ''];
          if (TEST_NAMES.has(object.split('.')[0] ?? '') && TEST_SWITCHES.has(property))
            return [at(source, node, `uses ${object}.${property}`)];
          if (WEAK_ASSERTIONS.has(property)) return [at(source, node, `asserts ${property}`)];
          const literal =
            node.type === 'CallExpression' && dotted(node['callee']) === 'expect' && isNode((node['arguments'] as unknown[])[0]);
          return literal && (node['arguments'] as Node[])[0]?.type === 'Literal' ? [at(source, node, 'expects a literal')] : [];
        })
      : [],
};

/** `{ setTimeout: 1 }` and `a.setTimeout` name something else. */
function isProperty(node: Node, parent: Node | undefined): boolean {
  return parent?.type === 'Property' && parent['key'] === node && parent['shorthand'] === false;
}

const ROOT = join(import.meta.dirname, '..');

function read(...folders: readonly string[]): Source[] {
  return folders.flatMap((folder) =>
    readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' })
      .filter((file) => file.endsWith('.ts') && !file.endsWith('.d.ts') && !file.includes('node_modules'))
      .toSorted()
      .map((file) => parse(join(folder, file), readFileSync(join(ROOT, folder, file), 'utf8'))),
  );
}

describe('the house is tidy', () => {
  const product = read('src', 'plugins', 'handler');
  const own = import.meta.filename.slice(ROOT.length + 1);
  const everything = [...product, ...read('test', 'examples')].filter(({ path }) => path !== own);
  const productOnly = new Set([
    'imports follow the table',
    'rooms are one level deep and files are named in kebab-case',
    'errors are recognised by their brand',
  ]);

  it.each(Object.entries(RULES))('%s', (name, rule) => {
    const sources = productOnly.has(name) ? product : everything;
    expect(sources.length).toBeGreaterThan(20);
    expect(sources.flatMap(rule).join('\n')).toBe('');
  });
});

describe('a rule sees what it forbids', () => {
  const cases: readonly (readonly [rule: string, path: string, bad: string, good: string])[] = [
    ['imports follow the table', 'src/job/x.ts', "import type { A } from '../chain/chain.ts';", "import { A } from '../errors.ts';"],
    ['imports follow the table', 'src/job/x.ts', "type A = import('../ledger/ledger.ts').A;", "type A = import('./call.ts').A;"],
    ['imports follow the table', 'src/chain/x.ts', "export { a } from '../runner/runner.ts';", "export { a } from '../ledger/ledger.ts';"],
    [
      'imports follow the table',
      'src/plugin/x.ts',
      "import type { A } from '../executor/registry.ts';",
      "import type { A } from '../executor/executor.ts';",
    ],
    ['imports follow the table', 'src/plugin/x.ts', "import('../../plugins/http/index.ts');", "import('./peer.ts');"],
    [
      'imports follow the table',
      'src/plugin/catalog.ts',
      "import '../../plugins/http/index.ts';",
      "import('../../plugins/http/index.ts');",
    ],
    ['imports follow the table', 'src/runner/x.ts', "import '../../handler/index.ts';", "import '../executor/registry.ts';"],
    ['imports follow the table', 'plugins/http/x.ts', "import '../../src/errors.ts';", "import '../../src/plugin.ts';"],
    ['imports follow the table', 'plugins/http/x.ts', "import '../nats/index.ts';", "import './client.ts';"],
    ['imports follow the table', 'handler/adapters/x.ts', "import '../../src/clock.ts';", "import '../../src/job/wire.ts';"],
    ['imports follow the table', 'handler/x.ts', "import 'undici';", "import 'node:http';"],
    ['imports follow the table', 'src/telemetry/x.ts', "import { pino } from 'pino';", "import type { Logger } from 'pino';"],
    ['imports follow the table', 'src/chain/x.ts', "import 'viemx/utils';", "import 'viem/utils';"],
    ['imports follow the table', 'src/chain/x.ts', "import './y.js';", "import './y.ts';"],
    ['imports follow the table', 'src/chain/x.ts', "import 'node:timers/promises';", "import 'node:net';"],
    ['imports follow the table', 'src/attic/x.ts', "import '../errors.ts';", "import './y.ts';"],
    ['rooms are one level deep and files are named in kebab-case', 'src/job/BadName.ts', '', ''],
    ['rooms are one level deep and files are named in kebab-case', 'src/job/deep/x.ts', '', ''],
    ['nothing is exported wholesale', 'src/job/x.ts', "export * from './y.ts';", "export { y } from './y.ts';"],
    ['there is no any', 'src/job/x.ts', 'const a = b as any;', 'const any = "any";'],
    ['errors are recognised by their brand', 'src/job/x.ts', 'a instanceof RunnerError;', 'a instanceof Error;'],
    ['nothing is unfinished', 'src/job/x.ts', '// TODO: later', '// what is to be done'],
    ['the project speaks only of itself', 'src/job/x.ts', "const a = '/root/x';", "const a = '/rooted/x';"],
    ['the console belongs to the command line', 'src/job/x.ts', "console.log('x');", 'const console = 1;'],
    ['time, randomness and environment come in through constructors', 'src/job/x.ts', 'const a = Date.now();', 'const a = clock.now();'],
    ['time, randomness and environment come in through constructors', 'src/job/x.ts', 'const a = new Date();', 'const a = new Date(5);'],
    [
      'time, randomness and environment come in through constructors',
      'src/job/x.ts',
      'setTimeout(a, 1);',
      'server.setTimeout(1); ({ setTimeout: 1 });',
    ],
    [
      'time, randomness and environment come in through constructors',
      'src/job/x.ts',
      'const a = Math.random();',
      'const a = options.random ?? Math.random;',
    ],
    [
      'time, randomness and environment come in through constructors',
      'src/job/x.ts',
      "const a = process.env['A'];",
      'function f(env = process.env) {}',
    ],
    ['tests are neither switched off nor weak', 'src/job/x.test.ts', "it.skip('x', () => {});", "it('x', () => {});"],
    [
      'tests are neither switched off nor weak',
      'src/job/x.test.ts',
      "test.only.each([1])('x', () => {});",
      "test.each([1])('x', () => {});",
    ],
    ['tests are neither switched off nor weak', 'src/job/x.test.ts', 'expect(a).toBeDefined();', 'expect(a).toBe(1);'],
    ['tests are neither switched off nor weak', 'src/job/x.test.ts', 'expect(true).toBe(true);', 'expect(a).toBe(true);'],
  ];

  it.each(cases)('%s: %s %s', (name, path, bad, good) => {
    const rule = RULES[name];
    expect(rule?.(parse(path, bad))).toHaveLength(1);
    expect(rule?.(parse(bad === good ? 'src/job/good-name.ts' : path, good))).toEqual([]);
  });
});
