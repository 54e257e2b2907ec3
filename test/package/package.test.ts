import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseAst } from 'vitest/node';
import { ROOT, manifest, pack, specifiers } from './pack.ts';

/** A project with nothing but the packed package and its dependencies: no optional peers. */
let consumer: string;
let installed: string;

beforeAll(() => {
  consumer = mkdtempSync(join(tmpdir(), 'blueprint-runner-consumer-'));
  const tarball = pack(consumer);
  installed = join(consumer, 'node_modules', manifest.name);
  mkdirSync(installed, { recursive: true });
  execFileSync('tar', ['-xzf', tarball, '-C', installed, '--strip-components=1']);
  for (const name of Object.keys(manifest.dependencies)) link(name);
  writeFileSync(join(consumer, 'package.json'), '{ "name": "consumer", "private": true, "type": "module" }\n');
});

afterAll(() => rmSync(consumer, { recursive: true, force: true }));

function link(name: string): void {
  const target = join(consumer, 'node_modules', name);
  mkdirSync(join(target, '..'), { recursive: true });
  symlinkSync(join(ROOT, 'node_modules', name), target);
}

interface Ran {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Node with an environment of its own: what the tests inherit must not decide. */
function node(args: readonly string[], options: { readonly executable?: string } = {}): Ran {
  const { status, stdout, stderr } = spawnSync(options.executable ?? process.execPath, args, {
    cwd: consumer,
    env: { PATH: '/usr/bin:/bin', HOME: consumer },
    encoding: 'utf8',
    timeout: 240_000,
  });
  return { status, stdout, stderr };
}

/** What may be loaded by `import` alone: viem and what it stands on, and what is small. */
const LIGHT =
  'viem abitype ox @noble/curves @noble/hashes @scure/base @scure/bip32 @scure/bip39 eventemitter3 tsyringe tslib reflect-metadata fflate'.split(
    ' ',
  );
const EAGER: Readonly<Record<string, readonly string[]>> = {
  // Policies are JSON or TOML.
  [manifest.name]: [...LIGHT, 'smol-toml'],
  // A kubeconfig is YAML.
  [`${manifest.name}/kubernetes`]: [...LIGHT, 'yaml'],
  [`${manifest.name}/testing`]: [...LIGHT, 'undici', 'ws'],
  [`${manifest.name}/gateway`]: [...LIGHT, 'ws'],
};

const PROBE = `
import { registerHooks } from 'node:module';
const loaded = new Set();
registerHooks({
  load(url, context, next) {
    if (!url.startsWith('node:')) loaded.add(url);
    return next(url, context);
  },
});
const names = Object.keys(await import(process.argv[1]));
console.log(JSON.stringify({ names, loaded: [...loaded], resources: process.getActiveResourcesInfo() }));
`;

interface Probed {
  readonly names: readonly string[];
  readonly loaded: readonly string[];
  readonly resources: readonly string[];
}

/** The paths a file imports; code is parsed, because what it writes into other files may look like an import. */
function relativeImports(file: string, text: string): string[] {
  if (file.endsWith('.d.ts')) {
    const code = text.replace(/\/\*[^]*?\*\/|^\s*\/\/.*$/gm, '');
    return [...code.matchAll(/(?:from|import\(?)\s*['"](\.[^'"]+)['"]/g)].map(([, path = '']) => path);
  }
  const paths: string[] = [];
  // oxlint-disable-next-line typescript/no-deprecated -- the only parser that a declared dependency exports
  JSON.stringify(parseAst(text), (key, value: unknown) => {
    if (key === 'source' && typeof value === 'object' && value !== null && 'value' in value && typeof value.value === 'string')
      paths.push(value.value);
    return typeof value === 'bigint' ? value.toString() : value;
  });
  return paths.filter((path) => path.startsWith('.'));
}

describe('the packed package', () => {
  it('holds what it says and nothing else', () => {
    const files = readdirSync(installed, { recursive: true, encoding: 'utf8' });
    for (const wanted of ['README.md', 'ERRORS.md', 'LICENSE-MIT', 'LICENSE-APACHE', 'package.json', ...Object.values(manifest.bin)]) {
      expect(existsSync(join(installed, wanted)), wanted).toBe(true);
    }
    // What `bpr plugin new` writes from is source.
    const own = files.filter((file) => !file.startsWith(join('examples', 'plugin-template')));
    const odd = own.filter((file) => /\.test\.|(?:^|\/)test\/|\.tsbuildinfo$|\.map$|(?<!\.d)\.ts$/.test(file));
    expect(odd).toEqual([]);
  });

  it('has every file that its exports name', () => {
    const targets = Object.values(manifest.exports).flatMap((target) => (typeof target === 'string' ? [target] : Object.values(target)));
    expect(targets.filter((target) => !existsSync(join(installed, target)))).toEqual([]);
  });

  it('imports nothing by a path that is not in it', () => {
    const code = readdirSync(join(installed, 'dist'), { recursive: true, encoding: 'utf8' }).filter((file) => /\.(?:d\.ts|js)$/.test(file));
    const broken = code.flatMap((file) => {
      const paths = relativeImports(file, readFileSync(join(installed, 'dist', file), 'utf8'));
      // In a declaration TypeScript reads `./x.ts` as `./x.d.ts`.
      const targets = file.endsWith('.d.ts') ? paths.map((path) => path.replace(/(?<!\.d)\.ts$/, '.d.ts')) : paths;
      return targets.filter((path) => !existsSync(join(installed, 'dist', file, '..', path))).map((path) => `${file}: ${path}`);
    });
    expect(broken).toEqual([]);
  });
});

describe.each(specifiers)('import %s', (specifier) => {
  it('works without optional peers, loads only light packages, and does no I/O', () => {
    // Reading the code is all that is allowed: no writing, no processes, no workers.
    const { status, stdout, stderr } = node(['--permission', '--allow-fs-read=*', '--input-type=module', '--eval', PROBE, specifier]);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    const { names, loaded, resources } = JSON.parse(stdout) as Probed;
    expect(names.length).toBeGreaterThan(0);
    const packages = new Set(loaded.map((url) => /\/node_modules\/((?:@[^/]+\/)?[^/]+)\/(?!.*\/node_modules\/)/.exec(url)?.[1] ?? url));
    packages.delete(manifest.name);
    const allowed = EAGER[specifier] ?? LIGHT;
    expect([...packages].filter((name) => !allowed.includes(name))).toEqual([]);
    expect(resources.filter((name) => !/^(?:PipeWrap|TTYWrap|FSReqPromise|CloseReq)$/.test(name))).toEqual([]);
  });
});

describe('a consumer in TypeScript', () => {
  it('compiles against every entry, strictly, with the declarations checked', () => {
    link('@types/node');
    link('undici-types');
    // Whoever imports the entry of AWS or of NATS has its packages.
    for (const name of Object.keys(manifest.peerDependencies)) if (/^@(?:aws-sdk|nats-io)\//.test(name)) link(name);
    const lines = specifiers.map(
      (specifier, index) =>
        `import * as entry${index} from '${specifier}';\nexport const names${index}: readonly string[] = Object.keys(entry${index});`,
    );
    writeFileSync(join(consumer, 'consumer.ts'), `${lines.join('\n')}\n`);
    const compilerOptions = {
      module: 'nodenext',
      target: 'es2024',
      lib: ['es2024', 'esnext.disposable'],
      strict: true,
      noEmit: true,
      types: ['node'],
      skipLibCheck: false,
    };
    writeFileSync(join(consumer, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['consumer.ts'] }));
    const { stdout } = node([join(ROOT, 'node_modules', 'typescript', 'bin', 'tsc'), '-p', 'tsconfig.json', '--pretty', 'false']);
    // Declarations of other packages are theirs to keep right.
    const ours = stdout
      .split('\n')
      .filter((line) => line.startsWith('consumer.ts') || line.startsWith(join('node_modules', manifest.name)));
    expect(ours.join('\n')).toBe('');
  });
});

describe('the command', () => {
  const launcher = (): string => join(installed, manifest.bin['bpr'] ?? '');

  it('prints its help', () => {
    const { status, stdout, stderr } = node([launcher(), '--help']);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toMatch(/Usage: (?:bpr|blueprint-runner)/);
  });

  it('tells an old version of node what is needed', () => {
    const old = join(consumer, 'old.mjs');
    const text = readFileSync(launcher(), 'utf8').replace('process.versions.node.split', "'20.20.2'.split");
    writeFileSync(old, text);
    const { status, stderr } = node([old, '--help']);
    expect(status).toBe(1);
    expect(stderr).toContain('needs Node.js 22.19 or newer');
  });

  it('is written in a syntax that old versions read', () => {
    expect(readFileSync(launcher(), 'utf8')).not.toMatch(/\?\?|\?\.|=>|`|\b(?:await|async|const|let|class)\b/);
  });
});
