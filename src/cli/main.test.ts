import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { checkNode } from './commands/doctor.ts';
import { main } from './main.ts';
import { printError, table, toJson } from './output.ts';
import { RunnerError } from '../errors.ts';

let cwd: string;

beforeEach(() => {
  cwd = mkdtempSync(join(tmpdir(), 'bpr-cli-'));
});

afterEach(() => rmSync(cwd, { recursive: true, force: true }));

interface Ran {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

class Text {
  text = '';
  write(text: string): void {
    this.text += text;
  }
}

async function bpr(args: readonly string[], env: Record<string, string> = {}): Promise<Ran> {
  const [stdout, stderr] = [new Text(), new Text()];
  const status = await main(args, { stdout, stderr, env, cwd });
  return { status, stdout: stdout.text, stderr: stderr.text };
}

const JOBS = join(import.meta.dirname, '../../test/fixtures/cli/jobs.ts');

describe('how it is called', () => {
  it.each([[['--help']], [['help']], [['build', '--help']], [['doctor', '--help']], [['help', 'build']]])(
    '%j prints help on stdout',
    async (args) => {
      const { status, stdout, stderr } = await bpr(args);
      expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
      expect(stdout).toMatch(/^Usage: bpr/);
    },
  );

  it('spans, lists and answers have defaults that can be given as they are printed', async () => {
    expect((await bpr(['control-plane', '--help'])).stdout).toMatch(/30d[^]*7d/);
    expect((await bpr(['ticket', 'create', '--help'])).stdout).toContain('default: 1h');
    expect((await bpr(['topology', 'recommend', '--help'])).stdout).toContain('default: no');
  });

  it('every command shows examples and takes --json', async () => {
    const { stdout } = await bpr(['--help']);
    const commands = [...stdout.matchAll(/^ {2}([a-z]+) \[options\]/gm)].map(([, name = '']) => name);
    expect(commands.toSorted()).toEqual([
      'build',
      'conformance',
      'dev',
      'doctor',
      'gateway',
      'init',
      'profile',
      'run',
      'schedule',
      'why',
      'worker',
    ]);
    for (const command of [...commands, 'jobs list', 'jobs show', 'jobs submit']) {
      const help = await bpr([...command.split(' '), '--help']);
      expect(help.stdout, command).toContain('Examples:\n  bpr ');
    }
  });

  it('prints the version of the package', async () => {
    const manifest = JSON.parse(readFileSync(join(import.meta.dirname, '../../package.json'), 'utf8')) as { version: string };
    expect(await bpr(['--version'])).toEqual({ status: 0, stdout: `${manifest.version}\n`, stderr: '' });
  });

  it('help of a command below another one is its own', async () => {
    const { status, stdout } = await bpr(['help', 'cloud', 'aws', 'bootstrap-role']);
    expect(status).toBe(0);
    expect(stdout).toMatch(/^Usage: bpr cloud aws bootstrap-role/);
    expect((await bpr(['help', 'cloud', 'deploy'])).stdout).toMatch(/^Usage: bpr cloud deploy/);
    expect((await bpr(['help', 'cloud'])).stdout).toMatch(/^Usage: bpr cloud \[/);
    expect((await bpr(['help'])).stdout).toMatch(/^Usage: bpr \[/);
    // Never the command itself.
    expect((await bpr(['help', 'init', 'a'])).stdout).toMatch(/^Usage: bpr init/);
  });

  it('without a command: the help, and status 2', async () => {
    const { status, stdout, stderr } = await bpr([]);
    expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
    expect(stderr).toMatch(/^Usage: bpr/);
  });

  it.each([
    [['bulid'], "unknown command 'bulid'"],
    [['build'], "missing required argument 'entry'"],
    [['build', 'a.ts', '--fast'], "unknown option '--fast'"],
  ])('%j is a usage error', async (args, message) => {
    const { status, stdout, stderr } = await bpr(args);
    expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
    expect(stderr).toContain(`CONFIG_INVALID: ${message}`);
    expect(stderr).toContain('--help');
  });

  it('a usage error with --json is one document on stdout', async () => {
    const { status, stdout, stderr } = await bpr(['build', '--json']);
    expect({ status, stderr }).toEqual({ status: 2, stderr: '' });
    expect(JSON.parse(stdout)).toMatchObject({ error: { code: 'CONFIG_INVALID', message: "missing required argument 'entry'" } });
  });
});

describe('build', () => {
  it('writes the handler and its zip, and lists the jobs', async () => {
    const { status, stdout, stderr } = await bpr(['build', JOBS, '--out', 'out', '--json']);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    const built = JSON.parse(stdout) as { file: string; fileBytes: number; zipFile: string; jobs: unknown[] };
    expect(built.file).toBe(join(cwd, 'out/handler.mjs'));
    expect(readFileSync(built.file).length).toBe(built.fileBytes);
    expect(built.zipFile).toBe(join(cwd, 'out/handler.zip'));
    expect(built.jobs).toEqual([{ id: '0', name: 'square', params: 'uint64 x', result: 'uint64', raw: false, idempotent: false }]);
  });

  it('prints a table for people', async () => {
    const { stdout } = await bpr(['build', JOBS, '--name', 'squares']);
    expect(stdout).toContain(join(cwd, 'build/squares.zip'));
    expect(stdout).toMatch(/^0 {4}square {2}\(uint64 x\) -> \(uint64\)$/m);
  });

  it('writes the package of a platform, a layer and an image when asked', async () => {
    const library = join(cwd, 'node_modules/upper');
    mkdirSync(library, { recursive: true });
    writeFileSync(join(library, 'package.json'), '{"name":"upper","version":"1.2.3"}');
    const args = ['build', JOBS, '--platform', 'digitalocean', '--layer', 'upper', '--image', 'oci', '--json'];
    const { status, stdout } = await bpr(args);
    const built = JSON.parse(stdout) as {
      zipFile: string;
      zipBytes: number;
      sha256: string;
      layer: { file: string; packages: unknown[] };
      image: { directory: string; digest: string };
    };
    const zip = readFileSync(built.zipFile);
    expect({ status, bytes: zip.length, sha256: createHash('sha256').update(zip).digest('hex') }).toEqual({
      status: 0,
      bytes: built.zipBytes,
      sha256: built.sha256,
    });
    expect(zip.includes('main.cjs')).toBe(true);
    expect(built.layer).toMatchObject({ file: join(cwd, 'build/layer.zip'), packages: [{ name: 'upper', version: '1.2.3' }] });
    expect(readFileSync(built.layer.file).includes('nodejs/node_modules/upper/package.json')).toBe(true);
    const index = JSON.parse(readFileSync(join(cwd, 'oci/index.json'), 'utf8')) as { manifests: { digest: string }[] };
    expect(index.manifests.map(({ digest }) => digest)).toEqual([built.image.digest]);
  });

  it.each(['', '../up', 'a/b'])('the name %j of the zip is refused', async (name) => {
    const { status, stderr } = await bpr(['build', JOBS, '--out', 'named', '--name', name]);
    expect({ status, stderr: stderr.split('\n')[0] }).toEqual({
      status: 1,
      stderr: `CONFIG_INVALID: the zip cannot be called ${JSON.stringify(name)}: write a name, not a path`,
    });
    expect(existsSync(join(cwd, 'named'))).toBe(false);
  });

  it('a platform that is not known is refused with the choices', async () => {
    const { status, stderr } = await bpr(['build', JOBS, '--platform', 'heroku']);
    expect([status, stderr]).toEqual([2, expect.stringContaining('Allowed choices are aws, gcp, azure')]);
  });

  it('a module that is not there is a failure with code and remedy', async () => {
    const { status, stdout, stderr } = await bpr(['build', 'missing.ts']);
    expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
    expect(stderr).toBe(
      `BUILD_FAILED: there is no ${join(cwd, 'missing.ts')}\nCorrect the error of the bundler that the message carries.\n`,
    );
  });
});

interface Doctor {
  readonly ok: boolean;
  readonly checks: readonly { readonly name: string; readonly status: string; readonly detail: string; readonly remedy?: string }[];
}

async function doctor(
  args: readonly string[],
  env?: Record<string, string>,
): Promise<Doctor & { readonly status: number; readonly text: string }> {
  const { status, stdout } = await bpr(['doctor', '--json', ...args], env);
  return { status, text: stdout, ...(JSON.parse(stdout) as Doctor) };
}

function named(report: Doctor, name: string): Doctor['checks'][number] | undefined {
  return report.checks.find((check) => check.name === name);
}

describe('doctor', () => {
  it('is content with a machine that can run jobs, and says what is not configured', async () => {
    const report = await doctor([]);
    expect({ status: report.status, ok: report.ok }).toEqual({ status: 0, ok: true });
    expect(named(report, 'plugin http')).toEqual({ name: 'plugin http', status: 'ok', detail: 'executor, deployer' });
    expect(named(report, 'chain')).toMatchObject({ status: 'warn', detail: 'not configured' });
    expect(named(report, 'backend process')).toEqual({ name: 'backend process', status: 'ok', detail: 'functions can run on it' });
  });

  it('fails on a data directory that cannot be made', async () => {
    writeFileSync(join(cwd, 'file'), '');
    const report = await doctor(['--data-dir', 'file/data']);
    expect({ status: report.status, ok: report.ok }).toEqual({ status: 1, ok: false });
    expect(named(report, 'data directory')?.status).toBe('fail');
  });

  it('takes the data directory from the environment', async () => {
    const report = await doctor([], { BPR_DATA_DIR: 'elsewhere' });
    expect(named(report, 'data directory')?.detail).toBe(`${join(cwd, 'elsewhere')} (will be made)`);
  });

  it('fails on an endpoint that does not answer, and does not show its key', async () => {
    const key = '0123456789abcdef0123456789abcdef';
    const report = await doctor(['--rpc-url', `http://127.0.0.1:1/v3/${key}`]);
    expect(report.status).toBe(1);
    expect(named(report, 'chain')).toMatchObject({ status: 'fail', remedy: 'Check the endpoints and the network.' });
    expect(report.text).not.toContain(key);
  });

  it('fails on a contract that is not an address', async () => {
    const report = await doctor(['--rpc-url', 'http://127.0.0.1:1', '--contract', '0x12']);
    expect(named(report, 'chain')).toMatchObject({
      status: 'fail',
      detail: expect.stringMatching(/^CONFIG_INVALID: contract is "0x12"/) as string,
    });
  });

  it('prints a table and the remedies for people', async () => {
    const { stdout } = await bpr(['doctor']);
    expect(stdout).toMatch(/^ok +node +\d+\.\d+\.\d+$/m);
    expect(stdout).toContain('chain: set HTTP_RPC_URL and TANGLE_CONTRACT');
  });

  it.each([
    ['22.18.9', 'fail'],
    ['22.19.0', 'ok'],
    ['24.0.0', 'ok'],
    ['20.20.2', 'fail'],
  ])('node %s: %s', (version, status) => {
    expect(checkNode(version).status).toBe(status);
  });
});

describe('output', () => {
  it('carries bigints and bytes in JSON', () => {
    expect(JSON.parse(toJson({ id: 2n ** 70n, body: Uint8Array.of(1, 255) }))).toEqual({ id: '1180591620717411303424', body: '0x01ff' });
  });

  it('aligns columns', () => {
    expect(table([['A', 'BB'], ['aaa', 'b']])).toBe('A    BB\naaa  b'); // oxfmt-ignore
  });

  it.each(['text', 'document', 'events'] as const)('an error shows no secret: %s', (form) => {
    const [stdout, stderr] = [new Text(), new Text()];
    const error = new RunnerError('RPC_UNREACHABLE', 'https://user:hunter22@rpc.example/ is down', { details: { apiKey: 'hunter22' } });
    printError({ stdout, stderr, env: {}, cwd }, form, error);
    expect(stdout.text + stderr.text).toContain('RPC_UNREACHABLE');
    expect(stdout.text + stderr.text).not.toContain('hunter22');
  });

  it('an unforeseen error says where it was thrown', () => {
    const [stdout, stderr] = [new Text(), new Text()];
    printError({ stdout, stderr, env: {}, cwd }, 'text', new TypeError('x is not a function'));
    expect(stderr.text).toContain('INTERNAL: x is not a function');
    expect(stderr.text).toContain('main.test.ts');
  });
});

describe('what comes next', () => {
  it.each([
    ['blueprint', 'blueprint'],
    ['my blueprint', "'my blueprint'"],
    ["ada's", "'ada'\\''s'"],
  ])('is a line for a shell, with a directory called %s', async (dir, word) => {
    const { stdout } = await bpr(['init', dir]);
    expect(stdout).toContain(`Next: cd ${word} && npm install && npm run dev`);
    const plugin = await bpr(['plugin', 'new', 'acme', '--dir', `${dir} 2`]);
    expect(plugin.stdout).toContain(`Next: cd '${dir.replace("'", String.raw`'\''`)} 2' && npm install && npm test`);
  });
});

describe('what comes next, in a directory that looks like an option', () => {
  it('is a line for a shell, too', async () => {
    expect((await bpr(['init', '--', '-blueprint'])).stdout).toContain('Next: cd ./-blueprint && npm install');
  });
});

describe('BPR_DATA_DIR', () => {
  it('says nothing when it is empty: the folder of the command is not meant', async () => {
    writeFileSync(join(cwd, 'topology-measured.json'), 'of somebody else');
    expect((await bpr(['topology', 'matrix', '--json'], { BPR_DATA_DIR: '' })).status).toBe(0);
    expect((await bpr(['topology', 'matrix', '--json'], { BPR_DATA_DIR: '.' })).status).toBe(1);
  });
});

describe('service status', () => {
  it('takes the id of any chain', async () => {
    const asked = await bpr(['service', 'status', '--service-id', '7', '--chain-id', '11155111'], { BPR_DEPLOYMENTS: join(cwd, 'none') });
    expect(asked).toMatchObject({ status: 1, stderr: expect.stringMatching(/^NOT_FOUND: service 7/) });
  });
});

describe('service logs', () => {
  it('with --json is one line of JSON for each line of the log', async () => {
    const host = { use: 'process', options: { folder: join(cwd, 'machines') } };
    const record = {
      version: 1,
      serviceId: '7',
      jobs: {},
      leftovers: [],
      history: [],
      orchestrator: { host, name: 'seven', healthPort: 1 },
    };
    mkdirSync(join(cwd, 'records'));
    writeFileSync(join(cwd, 'records', 'service-7-0.json'), JSON.stringify(record));
    mkdirSync(join(cwd, 'machines', 'seven'), { recursive: true });
    writeFileSync(join(cwd, 'machines', 'seven', 'machine.json'), JSON.stringify({ name: 'seven', token: 'of-no-process' }));
    writeFileSync(join(cwd, 'machines', 'seven', 'log'), 'first\nsecond\n');
    const env = { BPR_DEPLOYMENTS: join(cwd, 'records') };
    const args = ['service', 'logs', '--service-id', '7'];
    expect(await bpr(args, env)).toMatchObject({ status: 0, stdout: 'first\nsecond\n' });
    const { stdout } = await bpr([...args, '--json'], env);
    const lines = stdout.trimEnd().split('\n');
    expect(lines.map((line) => (JSON.parse(line) as { message: string }).message)).toEqual(['first', 'second']);
  });
});
