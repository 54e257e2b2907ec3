import { mkdir, mkdtemp, chmod, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { InvalidArgumentError, Option } from 'commander';
import type { Command } from 'commander';
import { systemClock } from '../../clock.ts';
import type { ArtifactInfo, MatrixReport, Platform } from '../../conformance/matrix.ts';
import type { Artifact } from '../../conformance/matrix-platforms.ts';
import { RunnerError } from '../../errors.ts';
import type { InstanceBackend } from '../../runtime/runtime.ts';
import { print, progress, table } from '../output.ts';
import type { Cli, Io } from '../output.ts';
import { interruptible } from '../work.ts';

interface ConformanceFlags {
  readonly all?: true;
  readonly backend?: readonly string[];
  readonly require?: readonly string[];
  readonly vector?: string;
  readonly json?: true;
}

const EXAMPLES = `
Examples:
  bpr conformance                          every backend of this machine
  bpr conformance --backend in-process,process --json
  bpr conformance --require docker,runc    fail when one of them is not here
  bpr conformance --vector unicode         only vectors with this text in their name or group

One handler bundle is built and run on every backend with the same calls; its answers must be the same bytes and the same error codes
everywhere. A backend that is not on this machine is named with its reason.

Exit status: 0 all answers are equal; 1 some differ, a required backend is missing, or nothing could be run; 2 called in a wrong way;
130 and 143 interrupted by SIGINT and SIGTERM.`;

interface Variant {
  readonly name: string;
  readonly runtime?: string;
  readonly options?: Readonly<Record<string, unknown>>;
}

/** Plugins whose backend comes in several kinds; every other is one backend, and all of them take a folder. */
const VARIANTS: Readonly<Record<string, readonly Variant[]>> = {
  process: [{ name: 'process' }, { name: 'process-bootstrap', runtime: 'provided.al2023' }],
  container: [{ name: 'docker' }, { name: 'runc', options: { driver: 'runc' } }],
};

/** Backends that run something else than the bundle. */
const FOREIGN: Readonly<Record<string, string>> = {
  wasm: 'it runs WebAssembly modules, and the bundle is JavaScript; its own suites run a module',
};

function names(value: string): readonly string[] {
  const found = value
    .split(',')
    .map((name) => name.trim())
    .filter((name) => name !== '');
  if (found.length === 0) throw new InvalidArgumentError('It must name at least one backend.');
  return found;
}

/** `bpr conformance`: one artifact on every backend, byte-identical. */
export function addConformance(program: Command, cli: Cli): void {
  program
    .command('conformance')
    .description('run one handler bundle on every backend and compare the answers')
    .addOption(new Option('--all', 'every backend (the default)').conflicts('backend'))
    .option('--backend <names>', 'only these, separated by commas', names)
    .option('--require <names>', 'these must be here, separated by commas', names)
    .option('--vector <text>', 'only vectors with this in their name or group')
    .option('--json', 'print one JSON document')
    .addHelpText('after', EXAMPLES)
    // A signal ends the platforms before the program: nothing of them stays behind.
    .action((flags: ConformanceFlags) =>
      interruptible(cli.io, systemClock, async ({ signal }) => {
        const report = await run(cli.io, flags, signal);
        if (!report.ok) cli.exitCode = 1;
        print(cli.io, flags.json, { document: report, text: explain(report) });
      }),
    );
}

async function run(io: Io, flags: ConformanceFlags, signal: AbortSignal): Promise<MatrixReport> {
  const [{ runMatrix }, { vectors }] = await Promise.all([import('../../conformance/matrix.ts'), import('../../conformance/vectors.ts')]);
  const chosen = vectors.filter(({ name, group }) => flags.vector === undefined || `${group} ${name}`.includes(flags.vector));
  if (chosen.length === 0) throw new RunnerError('CONFIG_INVALID', `no vector has ${JSON.stringify(flags.vector)} in its name or group`);
  const folder = await mkdtemp(join(tmpdir(), 'bpr-conformance-'));
  try {
    progress(io, 'building the handler ...');
    const { info, artifact } = await buildArtifact(folder, io.env);
    const platforms = chosenPlatforms(await platformsOf(artifact, folder), flags);
    return await runMatrix({
      signal,
      artifact: info,
      platforms,
      vectors: chosen,
      required: flags.require ?? [],
      onResult: ({ backend, group, vector, status, ms }, done, total) =>
        progress(io, `[${done}/${total}] ${backend}: ${group}, ${vector}: ${status} (${ms} ms)`),
    });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** The zip that would be deployed, unpacked as a platform does it. */
async function buildArtifact(folder: string, env: Io['env']): Promise<{ readonly info: ArtifactInfo; readonly artifact: Artifact }> {
  const [{ buildHandler }, { unpackZip }] = await Promise.all([import('../../deploy/package.ts'), import('../../runtime/unzip.ts')]);
  const isSource = import.meta.url.endsWith('.ts');
  const entry = fileURLToPath(new URL(`../../conformance/vectors-jobs.${isSource ? 'ts' : 'js'}`, import.meta.url));
  const built = await buildHandler({ entry, outDir: join(folder, 'build'), env });
  const code = join(folder, 'code');
  await chmod(folder, 0o755);
  await mkdir(code, { mode: 0o755 });
  await unpackZip(await readFile(built.zipFile), code);
  return { info: { sha256: built.fileSha256, bytes: built.fileBytes }, artifact: { folder: code, sha256: built.sha256 } };
}

async function platformsOf(artifact: Artifact, folder: string): Promise<readonly Platform[]> {
  const [platforms, { createPluginRegistry }, { systemClock }, { silentTelemetry }] = await Promise.all([
    import('../../conformance/matrix-platforms.ts'),
    import('../../plugin/registry.ts'),
    import('../../clock.ts'),
    import('../../telemetry/telemetry.ts'),
  ]);
  const plugins = createPluginRegistry({ clock: systemClock, telemetry: silentTelemetry });
  const backends = (await plugins.describe()).filter(({ kinds }) => kinds.includes('backend'));
  return [
    platforms.inProcess(artifact),
    platforms.httpProcess(artifact, (url) => plugins.executor('http', { url })),
    platforms.stdioProcess(artifact),
    ...backends.flatMap(({ name: plugin }) =>
      (VARIANTS[plugin] ?? [{ name: plugin }]).map(({ name, runtime, options }) => {
        const foreign = FOREIGN[plugin];
        if (foreign !== undefined) return platforms.otherLanguage(name, foreign);
        const backend = (): Promise<InstanceBackend> => plugins.backend(plugin, { folder: join(folder, name), ...options });
        return platforms.functionRuntime(name, artifact, { backend, ...(runtime !== undefined && { runtime }) });
      }),
    ),
  ];
}

function chosenPlatforms(platforms: readonly Platform[], flags: ConformanceFlags): readonly Platform[] {
  const known = platforms.map(({ name }) => name);
  for (const name of [...(flags.backend ?? []), ...(flags.require ?? [])]) {
    if (known.includes(name)) continue;
    throw new RunnerError('CONFIG_INVALID', `there is no backend ${name}; known are ${known.join(', ')}`, { details: { known } });
  }
  if (flags.backend === undefined) return platforms;
  const wanted = new Set([...flags.backend, ...(flags.require ?? [])]);
  return platforms.filter(({ name }) => wanted.has(name));
}

function explain(report: MatrixReport): string {
  const { artifact, vectors, ms, ok } = report;
  return [
    `handler.mjs ${artifact.bytes} bytes, sha256 ${artifact.sha256}`,
    '',
    table(matrixRows(report)),
    '',
    ...reasonsOf(report),
    ...differencesOf(report),
    `${vectors} vectors in ${(ms / 1_000).toFixed(1)} s. ${ok ? 'All answers are equal.' : 'Not all answers are equal, or a backend is missing.'}`,
  ].join('\n');
}

/** A row for each backend, a column for each group: how many are equal, of how many that apply. */
function matrixRows({ backends, results }: MatrixReport): string[][] {
  const groups = [...new Set(results.map(({ group }) => group))];
  const rows = backends.map(({ name, status, ms }) => {
    const own = results.filter(({ backend, status: one }) => backend === name && one !== 'skipped');
    const cells = groups.map((group) => {
      const some = own.filter((result) => result.group === group);
      return some.length === 0 ? '-' : `${some.filter((result) => result.status === 'equal').length}/${some.length}`;
    });
    return [name, status === 'skipped' ? 'not here' : status, ...cells, `${(ms / 1_000).toFixed(1)} s`];
  });
  return [['BACKEND', 'STATUS', ...groups.map((group) => group.toUpperCase()), 'TOOK'], ...rows];
}

/** Why a backend, or a vector on it, was left out. */
function reasonsOf({ backends, results }: MatrixReport): string[] {
  const lines = backends.flatMap(({ name, status, reason, required }) =>
    reason === undefined ? [] : [`${name} ${status === 'failed' ? 'failed' : `is not here${required ? ', but required' : ''}`}: ${reason}`],
  );
  const skips = new Map<string, number>();
  for (const { backend, status, reason } of results) {
    if (status !== 'skipped') continue;
    const line = `${backend}: ${reason}`;
    skips.set(line, (skips.get(line) ?? 0) + 1);
  }
  for (const [line, count] of skips) lines.push(`${line} (${count} ${count === 1 ? 'vector does' : 'vectors do'} not apply)`);
  return lines.length === 0 ? [] : [...lines, ''];
}

function differencesOf({ results }: MatrixReport): string[] {
  const lines = results.flatMap(({ backend, group, vector, status, expected, actual }) =>
    status === 'differs' ? [`${backend} differs: ${group}, ${vector}`, `  expected ${expected}`, `  got      ${actual}`] : [],
  );
  return lines.length === 0 ? [] : [...lines, ''];
}
