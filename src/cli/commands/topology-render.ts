import { chmodSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Option } from 'commander';
import type { Command } from 'commander';
import { makeFolder } from '../../folder.ts';
import { TOPOLOGY_FORMATS } from '../../topology/render.ts';
import type { TopologyFormat } from '../../topology/render.ts';
import type { TopologyOption } from '../../topology/topology.ts';
import { parseCount } from '../calls.ts';
import { atPath } from '../named-path.ts';
import { print, progress } from '../output.ts';
import type { Cli, Io } from '../output.ts';
import { ownVersion, packageFolder } from '../version.ts';

interface RenderFlags {
  readonly option: TopologyOption;
  readonly workers: number;
  readonly engines?: number;
  readonly format: TopologyFormat;
  readonly out: string;
  readonly concurrency: number;
  readonly json?: true;
}

const EXAMPLES = `
Examples:
  bpr topology render --option 4 --workers 5 --format compose --out cluster
  bpr topology render --option 4 --workers 5 --format script --out cluster    plain docker commands
  bpr topology render --option 1 --workers 30 --format kubernetes --out cluster
  bpr topology render --option 3 --workers 4 --format systemd --out cluster

Images are built from scratch: of the node that runs this command, of the package and of its dependencies, which are copied into the folder root.
Nothing is fetched. Containers have no capabilities, no new privileges, a read-only root, and limits. The control plane speaks TLS, engines ask
for a key that the scripts make, and workers have the ticket from the control plane: all scripts stop when it is empty.

Exit status: 0 done; 1 failed; 2 called in a wrong way.`;

/** `bpr topology render`. */
export function addRender(render: Command, { io }: Cli): void {
  render
    .addOption(new Option('--format <name>', 'of which tool').choices(TOPOLOGY_FORMATS).makeOptionMandatory())
    .option('--out <dir>', 'where the files go', 'topology')
    .option('--concurrency <count>', 'jobs at the same time, of each worker', parseCount, 4)
    .option('--json', 'print one JSON document')
    .addHelpText('after', EXAMPLES)
    .action((flags: RenderFlags) => write(io, flags));
}

async function write(io: Io, flags: RenderFlags): Promise<void> {
  const [{ renderTopology }, { writeRootFiles }, { ROOT }, { librariesOf }] = await Promise.all([
    import('../../topology/render.ts'),
    import('../../topology/root-files.ts'),
    import('../../topology/images.ts'),
    import('../../deploy/image.ts'),
  ]);
  const own = fileURLToPath(packageFolder());
  const nodePath = process.execPath;
  const { files, needsRoot, usage } = renderTopology(flags.format, {
    ...flags,
    version: ownVersion(),
    nodePath,
    bprPath: join(own, 'bin', 'bpr.mjs'),
  });
  const folder = resolve(io.cwd, flags.out);
  atPath({ path: folder, flag: '--out' }, () => makeFolder(folder));
  if (needsRoot) {
    progress(io, 'copying node, the package and its dependencies ...');
    writeRootFiles({ folder: join(folder, ROOT), packageFolder: own, nodePath, libraries: librariesOf(nodePath) });
  }
  const written = Object.entries(files).map(([path, text]) => {
    const file = join(folder, path);
    makeFolder(dirname(file));
    writeFileSync(file, text);
    chmodSync(file, path.endsWith('.sh') ? 0o755 : 0o644);
    return file;
  });
  print(io, flags.json, {
    document: { files: written, root: needsRoot ? join(folder, ROOT) : undefined, usage },
    text: [...written, ...(needsRoot ? [join(folder, ROOT)] : []), '', usage].join('\n'),
  });
}
