/** Exports, judged by the tools that they are for. */

import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { parseAllDocuments } from 'yaml';
import { buildHandler } from '../../src/deploy/package.ts';
import { exportPlan } from '../../src/deploy/export.ts';
import type { ExportFormat } from '../../src/deploy/export.ts';
import type { ExportInput } from '../../src/deploy/export-files.ts';
import { packFiles } from '../../src/deploy/zip.ts';
import type { FunctionConfig } from '../../src/executor/deployer.ts';
import { calendar, periodic } from '../../src/schedule/schedule.ts';
import { requirePeer, runs } from '../require.ts';
import { probeMoto, startMoto } from '../support/moto.ts';

const run = promisify(execFile);
const MIRROR = process.env['TERRAFORM_MIRROR'] ?? '';
const testLint = requirePeer('cfn-lint', () => runs('cfn-lint', '--version'));
const testTerraform = requirePeer('terraform', () => {
  runs('terraform', 'version');
  probeMoto();
  if (!existsSync(join(MIRROR, 'registry.terraform.io', 'hashicorp', 'aws')))
    throw new Error('TERRAFORM_MIRROR names no folder with the provider hashicorp/aws');
});
const testSystemd = requirePeer('systemd-analyze', () => runs('systemd-analyze', '--version'));

/** What is looked at of a description of Kubernetes. */
interface Mounted {
  readonly kind: string;
  readonly binaryData?: Readonly<Record<string, string>>;
  readonly spec?: { readonly template?: { readonly spec: { readonly containers: readonly { readonly command: readonly string[] }[] } } };
}

let built: string;
let folder: string;
let input: ExportInput;

beforeAll(async () => {
  built = mkdtempSync(join(tmpdir(), 'export-'));
  const { zipFile, sha256 } = await buildHandler({ entry: new URL('../fixtures/deploy/jobs.ts', import.meta.url).pathname, outDir: built });
  input = {
    functions: [
      {
        name: 'squaring',
        code: { zip: readFileSync(zipFile), sha256 },
        config: {
          description: 'squares ${numbers}',
          memoryMb: 512,
          timeoutMs: 30_000,
          environment: { COLOUR: 'blue', TEMPLATE: '${not_a_reference} %{nor_this}' },
          concurrencyMax: 5,
          tags: { team: 'a' },
          logRetentionDays: 7,
          schedules: [
            {
              name: 'daily',
              schedule: calendar('Mon-Fri 09:00 Europe/Berlin', { randomizedDelayMs: 300_000 }),
              event: { job_id: 0, args: [3] },
            },
            { name: 'often', schedule: periodic(300) },
          ],
        },
      },
      { name: 'plain-one', code: { zip: readFileSync(zipFile), sha256 }, config: {} },
    ],
    program: {
      name: 'blueprint-7-orchestrator',
      files: { 'orchestrator.mjs': Buffer.from('console.log(1)'), 'deployment.json': Buffer.from('{"version":1}') },
      args: ['orchestrator.mjs'],
      environment: { NODE_ENV: 'production', ODD: 'a "b" $c %d' },
      secrets: { OPERATOR_PRIVATE_KEY: 'env:OPERATOR_PRIVATE_KEY' },
      healthPort: 9_100,
    },
  };
});
afterAll(() => rmSync(built, { recursive: true }));
beforeEach(() => (folder = mkdtempSync(join(tmpdir(), 'export-'))));
afterEach(() => rmSync(folder, { recursive: true }));

function write(format: ExportFormat, given = input): void {
  for (const [path, content] of Object.entries(exportPlan(format, given).files)) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), content);
  }
}

describe('templates of AWS', () => {
  for (const format of ['cloudformation', 'sam'] as const) {
    testLint(
      `${format} passes its validator without a word`,
      async () => {
        const functions = input.functions.map((each) => ({ ...each, config: { ...each.config, instancesMin: 1 } }));
        write(format, { ...input, functions });
        expect(await run('cfn-lint', [join(folder, 'template.json')])).toEqual({ stdout: '', stderr: '' });
      },
      180_000,
    );
  }

  testTerraform(
    'terraform makes everything, and finds nothing to change afterwards',
    async () => {
      const moto = await startMoto();
      try {
        write('terraform');
        writeFileSync(join(folder, 'rc'), `provider_installation { filesystem_mirror { path = "${MIRROR}" } }`);
        const services = ['lambda', 'iam', 'cloudwatchlogs', 'scheduler', 'sts'];
        const override = {
          provider: {
            aws: {
              access_key: 'a',
              secret_key: 'b',
              skip_credentials_validation: true,
              skip_requesting_account_id: true,
              skip_metadata_api_check: true,
              endpoints: [Object.fromEntries(services.map((name) => [name, moto.url]))],
            },
          },
        };
        writeFileSync(join(folder, 'main_override.tf.json'), JSON.stringify(override));
        const terraform = async (...args: string[]): Promise<{ code: number; output: string }> => {
          const env = { PATH: process.env['PATH'], HOME: folder, TF_CLI_CONFIG_FILE: join(folder, 'rc'), TF_IN_AUTOMATION: '1' };
          return run('terraform', args, { cwd: folder, env }).then(
            ({ stdout }) => ({ code: 0, output: stdout }),
            (error: { code: number; stdout: string; stderr: string }) => ({ code: error.code, output: error.stdout + error.stderr }),
          );
        };
        expect(await terraform('init', '-input=false', '-no-color')).toMatchObject({ code: 0 });
        const applied = await terraform('apply', '-auto-approve', '-input=false', '-no-color');
        expect(applied, applied.output).toMatchObject({ code: 0 });
        // 2 would be: there is something to change.
        const planned = await terraform('plan', '-detailed-exitcode', '-input=false', '-no-color');
        expect(planned, planned.output).toMatchObject({ code: 0 });
        // moto tells the services apart by what a request is signed for.
        const authorization = 'AWS4-HMAC-SHA256 Credential=a/20261121/us-east-1/lambda/aws4_request, SignedHeaders=host, Signature=b';
        const answer = await fetch(`${moto.url}/2015-03-31/functions/squaring`, { headers: { authorization } });
        const { Configuration } = (await answer.json()) as { Configuration: { Environment: { Variables: Record<string, string> } } };
        expect(Configuration.Environment.Variables).toEqual({ COLOUR: 'blue', TEMPLATE: '${not_a_reference} %{nor_this}' });
      } finally {
        await moto.close();
      }
    },
    240_000,
  );

  it('another configuration of the same package is another version, and one that differs in nothing is not', () => {
    const [first] = input.functions;
    if (!first) throw new Error('there is a function');
    const resourcesOf = (format: ExportFormat, config: FunctionConfig): [string, { Type: string; Properties: object }][] => {
      const template = String(exportPlan(format, { functions: [{ ...first, config }] }).files['template.json']);
      return Object.entries((JSON.parse(template) as { Resources: Record<string, { Type: string; Properties: object }> }).Resources);
    };
    const versionOf = (config: FunctionConfig) =>
      resourcesOf('cloudformation', config).find(([, { Type }]) => Type === 'AWS::Lambda::Version')?.[0];
    const bare = versionOf({ memoryMb: 512, environment: { A: '1', B: '2' } });
    expect(versionOf({ environment: { B: '2', A: '1' }, memoryMb: 512, tags: { team: 'a' }, concurrencyMax: 3 })).toBe(bare);
    const others = [{ memoryMb: 1_024 }, { timeoutMs: 9_000 }, { environment: { A: '2', B: '2' } }, { description: 'other' }];
    const all = others.map((other) => versionOf({ memoryMb: 512, environment: { A: '1', B: '2' }, ...other }));
    expect(new Set([bare, ...all]).size).toBe(5);
    expect(resourcesOf('sam', {}).map(([, { Properties }]) => Properties)).toContainEqual(
      expect.objectContaining({ AutoPublishAlias: 'live', AutoPublishAliasAllProperties: true }),
    );
  });

  it.each(['cloudformation', 'sam', 'terraform'] as const)('%s keeps instances ready, and says what it leaves out', (format) => {
    const [first] = input.functions;
    if (!first) throw new Error('there is a function');
    const config = { instancesMin: 2, platform: { role: 'arn:aws:iam::123456789012:role/mine', tracing: true } };
    const { files, warnings } = exportPlan(format, { functions: [{ ...first, config }] });
    expect(String(files['template.json'] ?? files['main.tf.json'])).toMatch(
      /"(?:ProvisionedConcurrentE|provisioned_concurrent_e)xecutions": 2/,
    );
    expect(warnings).toEqual(['squaring: platform settings are left out: role, tracing']);
  });

  it.each(['cloudformation', 'sam', 'terraform', 'knative'] as const)('%s gives long schedules names that fit and differ', (format) => {
    const [first] = input.functions;
    if (!first) throw new Error('there is a function');
    const [name, schedule] = ['a'.repeat(45), periodic(300)];
    const schedules = ['b'.repeat(20), `${'b'.repeat(20)}c`].map((each) => ({ name: each, schedule }));
    const text = Object.values(exportPlan(format, { functions: [{ ...first, name, config: { schedules } }] }).files).map(String);
    const names = new Set(text.join('').match(/(?<="?[Nn]ame"?: "?)a{30,}-b?[\w-]*/g));
    expect(names.size).toBe(2);
    for (const each of names) expect(each.length).toBeLessThanOrEqual(format === 'knative' ? 52 : 64);
  });

  it('terraform names everything as it may be named', () => {
    const [first] = input.functions;
    if (!first) throw new Error('there is a function');
    const { resource, output } = JSON.parse(
      String(exportPlan('terraform', { functions: [{ ...first, name: '2fa' }] }).files['main.tf.json']),
    ) as {
      readonly resource: Readonly<Record<string, object>>;
      readonly output: object;
    };
    const names = [output, ...Object.values(resource)].flatMap((each) => Object.keys(each));
    // https://developer.hashicorp.com/terraform/language/syntax/configuration#identifiers
    for (const name of names) expect(name).toMatch(/^[A-Za-z_][\w-]*$/);
  });

  it('names what a schedule loses, and how the files are used', () => {
    const [first] = input.functions;
    if (!first) throw new Error('there is a function');
    const lossy = { ...first, config: { schedules: [{ name: 'x', schedule: periodic(300, { relativeTo: 'finish' }) }] } };
    const { warnings, usage } = exportPlan('cloudformation', { functions: [lossy] });
    expect(warnings).toEqual([expect.stringContaining('schedule x of squaring')]);
    expect(usage).toContain('aws cloudformation deploy');
  });
});

describe('descriptions of the orchestrator', () => {
  it('for Kubernetes: everything that a cautious cluster asks for, and no secret', async () => {
    const text = String(exportPlan('kubernetes', input).files['manifests.yaml']);
    const documents = parseAllDocuments(text).map((document) => document.toJS() as { kind: string; apiVersion: string });
    expect(documents.map(({ kind }) => kind)).toEqual(['ConfigMap', 'PersistentVolumeClaim', 'Deployment']);
    const { ConfigMap } = await import('kubernetes-models/v1');
    const { PersistentVolumeClaim } = await import('kubernetes-models/v1');
    const { Deployment } = await import('kubernetes-models/apps/v1');
    const [config, claim, deployment] = documents;
    for (const [Model, document] of [
      [ConfigMap, config],
      [PersistentVolumeClaim, claim],
      [Deployment, deployment],
    ] as const)
      expect(() => new (Model as new (data: unknown) => { validate(): void })(document).validate()).not.toThrow();
    expect(text).toContain('runAsNonRoot: true');
    expect(text).toContain('secretKeyRef');
  });

  it.each(['kubernetes', 'knative'] as const)('for %s: a container that finds its program and runs it', async (format) => {
    const source = Buffer.from("console.log('runs', import.meta.url.split('/').at(-1));");
    const zip = await packFiles({ 'handler.mjs': { data: source, mode: 0o644 } });
    const files = { 'handler.mjs': source };
    const program = { name: 'x', files, args: ['handler.mjs'], environment: {}, healthPort: 9_100 };
    const exported = exportPlan(format, { functions: [{ name: 'x', code: { zip, sha256: '' }, config: {} }], program });
    const documents = parseAllDocuments(Object.values(exported.files).map(String).join('---\n')).map((one) => one.toJS() as Mounted);
    const packed = documents.find(({ kind }) => kind === 'ConfigMap')?.binaryData ?? {};
    for (const [name, data] of Object.entries(packed)) writeFileSync(join(folder, name), Buffer.from(data, 'base64'));
    const [command = '', ...args] = documents.find(({ spec }) => spec?.template)?.spec?.template?.spec.containers[0]?.command ?? [];
    const moved = args.map((arg) => arg.replaceAll('/var/task', folder).replaceAll('/tmp/program', join(folder, 'program')));
    expect((await run(command, moved)).stdout).toBe('runs handler.mjs\n');
  });

  it('for Compose: a locked-down service that asks for its secrets', () => {
    const { files } = exportPlan('compose', input);
    expect(Object.keys(files)).toEqual(['compose.yaml', 'program/orchestrator.mjs', 'program/deployment.json']);
    const [document] = parseAllDocuments(String(files['compose.yaml'])).map((one) => one.toJS() as Record<string, unknown>);
    expect(document).toMatchObject({
      services: {
        orchestrator: {
          read_only: true,
          cap_drop: ['ALL'],
          security_opt: ['no-new-privileges:true'],
          environment: { OPERATOR_PRIVATE_KEY: '${OPERATOR_PRIVATE_KEY:?set OPERATOR_PRIVATE_KEY}' },
          user: '65532:65532',
          depends_on: { data: { condition: 'service_completed_successfully' } },
        },
        // A new volume belongs to root: the image has no folder of this name.
        data: {
          command: ['chown', '65532:65532', '/var/lib/blueprint-runner'],
          cap_drop: ['ALL'],
          cap_add: ['CHOWN'],
          network_mode: 'none',
        },
      },
    });
  });

  testSystemd('for systemd: a unit without a fault', async () => {
    write('systemd');
    const unit = join(folder, 'blueprint-7-orchestrator.service');
    const { stderr } = await run('systemd-analyze', ['verify', '--man=no', unit]);
    expect(stderr).not.toContain('orchestrator');
    expect(readFileSync(unit, 'utf8')).toContain('Environment="ODD=a \\"b\\" $$c %%d"');
  });

  it('refuses a format that there is nothing for', () => {
    expect(() => exportPlan('terraform', { functions: [] })).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
    expect(() => exportPlan('compose', { functions: input.functions })).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
  });
});
