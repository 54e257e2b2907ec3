import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { Option } from 'commander';
import type { Command } from 'commander';
import { PACKAGE_PLATFORMS } from '../../deploy/package-platform.ts';
import type { PackagePlatform } from '../../deploy/package-platform.ts';
import type { BuiltHandler } from '../../deploy/package.ts';
import { RunnerError } from '../../errors.ts';
import type { ImageReference } from '../../http/image-registry.ts';
import { pushLayout, pushedRow } from '../image-push.ts';
import { print, progress, sizeText, table } from '../output.ts';
import type { Cli, Io } from '../output.ts';

interface BuildFlags {
  readonly out: string;
  readonly minify: boolean;
  readonly sourcemap?: true;
  readonly name: string;
  readonly platform?: PackagePlatform;
  readonly layer?: readonly string[];
  readonly image?: string;
  readonly push?: string;
  readonly json?: true;
}

const EXAMPLES = `
Examples:
  bpr build src/jobs.ts                    build/handler.mjs and build/handler.zip
  bpr build src/jobs.ts --out dist --json  what was built, as JSON
  bpr build src/jobs.ts --platform azure   build/handler.zip as Azure Functions loads it
  bpr build src/jobs.ts --layer sharp      build/layer.zip too, with what sharp needs
  bpr build src/jobs.ts --image build/oci  an OCI image layout with this node, made without a daemon
  bpr build src/jobs.ts --image build/oci --push ghcr.io/me/squaring:1
                                           and into a registry, as whom docker login has signed in; what is there is not sent

The module exports a JobRouter, as default or named router. The same sources give the same bytes.

Exit status: 0 done; 1 failed, the message begins with a code of ERRORS.md; 2 called in a wrong way.`;

/** `bpr build`: the jobs of a module in one file that runs on every platform, and its zip. */
export function addBuild(program: Command, { io }: Cli): void {
  program
    .command('build')
    .description('bundle jobs into one handler file and its zip')
    .argument('<entry>', 'module that exports the job router')
    .option('--out <dir>', 'where the files go', 'build')
    .option('--no-minify', 'leave the code readable')
    .option('--sourcemap', 'write handler.mjs.map too')
    .option('--name <name>', 'name of the zip', 'handler')
    .addOption(new Option('--platform <name>', 'what the zip is for, when its root files differ there').choices(PACKAGE_PLATFORMS))
    .option('--layer <packages...>', 'write layer.zip with these installed packages')
    .option('--image <dir>', 'write an OCI image layout with this node and its libraries')
    .option('--push <registry/name[:tag]>', 'push the image of --image to a registry')
    .option('--json', 'print one JSON document')
    .addHelpText('after', EXAMPLES)
    .action(async (entry: string, flags: BuildFlags) => {
      const reference = flags.push === undefined ? undefined : await referenceOf(flags);
      progress(io, `bundling ${entry} ...`);
      const { buildHandler } = await import('../../deploy/package.ts');
      const built = await buildHandler({
        entry: resolve(io.cwd, entry),
        outDir: resolve(io.cwd, flags.out),
        minify: flags.minify,
        sourcemap: flags.sourcemap ?? false,
        name: flags.name,
        env: io.env,
      });
      const extras = await writeExtras(io, built, flags);
      const pushed = reference && (await pushLayout(io, resolve(io.cwd, flags.image ?? ''), reference));
      const jobs = built.jobs.map(({ id, name, params, result, raw }) => [id, name, raw ? 'raw bytes' : `(${params}) -> (${result})`]);
      const files = [
        [built.file, `${sizeText(built.fileBytes)} (${sizeText(built.gzipBytes)} gzip)`, `sha256 ${built.fileSha256}`],
        [built.zipFile, sizeText(extras.zipBytes), `sha256 ${extras.sha256}`],
        ...(extras.layer ? [[extras.layer.file, sizeText(extras.layer.bytes), `sha256 ${extras.layer.sha256}`]] : []),
        ...(extras.image ? [[extras.image.directory, sizeText(extras.image.bytes), extras.image.digest]] : []),
        ...(pushed ? [pushedRow(pushed)] : []),
      ];
      const warnings = built.warnings.map((warning) => `warning: ${warning}`);
      print(io, flags.json, {
        document: { ...built, ...extras, ...(pushed && { pushed }) },
        text: [table(files), '', table([['JOB', 'NAME', 'TYPES'], ...jobs]), ...warnings].join('\n'),
      });
    });
}

/** Before anything is built: what cannot be pushed is known by then. */
async function referenceOf({ image, push: reference = '' }: BuildFlags): Promise<ImageReference> {
  const { parseImageReference } = await import('../../http/image-registry.ts');
  if (image === undefined) throw new RunnerError('CONFIG_INVALID', '--push needs --image: the folder of the image that is pushed');
  return parseImageReference(reference);
}

/** What is asked for besides the zip; and the zip itself, when it is for one platform. */
async function writeExtras(io: Io, { zipFile, file, zipBytes, sha256 }: BuiltHandler, { platform, layer, image }: BuildFlags) {
  const packed = platform === undefined ? undefined : await platformPackage(io, zipFile, platform);
  if (packed) writeFileSync(zipFile, packed.zip);
  return {
    zipBytes: packed?.zip.length ?? zipBytes,
    sha256: packed?.sha256 ?? sha256,
    ...(layer && { layer: await writeLayer(io, layer, join(dirname(file), 'layer.zip')) }),
    ...(image !== undefined && { image: await writeImage(io, zipFile, image) }),
  };
}

async function platformPackage(io: Io, zipFile: string, platform: PackagePlatform) {
  const [{ packageFor }, { readModules }] = await Promise.all([
    import('../../deploy/package-platform.ts'),
    import('../../deploy/dependencies.ts'),
  ]);
  const modules = platform === 'azure' ? await readModules(['@azure/functions'], io.cwd) : {};
  return packageFor(platform, readFileSync(zipFile), { modules });
}

async function writeLayer(io: Io, packages: readonly string[], file: string) {
  progress(io, `packing ${packages.join(', ')} ...`);
  const { buildLayer } = await import('../../deploy/layer.ts');
  const { zip, sha256, architecture, packages: held } = await buildLayer({ packages, from: io.cwd });
  writeFileSync(file, zip);
  return { file, bytes: zip.length, sha256, architecture, packages: held };
}

async function writeImage(io: Io, zipFile: string, image: string) {
  progress(io, 'writing the image ...');
  const { librariesOf, writeImageLayout } = await import('../../deploy/image.ts');
  const node = { file: process.execPath, libraries: librariesOf(process.execPath) };
  const architecture = process.arch === 'arm64' ? 'arm64' : 'amd64';
  return writeImageLayout({ zip: readFileSync(zipFile), outDir: resolve(io.cwd, image), node, architecture });
}
