import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { Command } from 'commander';
import { RunnerError } from '../../errors.ts';
import type { ImageReference } from '../../http/image-registry.ts';
import { pushLayout, pushedRow } from '../image-push.ts';
import { print, progress, sizeText, table } from '../output.ts';
import type { Cli, Io } from '../output.ts';
import { ownVersion } from '../version.ts';

interface ImageFlags {
  readonly out?: string;
  readonly push?: string;
  readonly name?: string;
}

const EXAMPLES = `
Examples:
  bpr worker image --push ghcr.io/me/bpr-worker:1    into a registry, as whom docker login has signed in; what is there is not sent
  bpr worker image --out bpr-worker.tar              a file for machines without a registry: docker load --input bpr-worker.tar
  docker run --env CONTROL_PLANE_TICKET=... ghcr.io/me/bpr-worker:1 --backend wasm --concurrency 16

The image holds this node, its libraries and bpr worker as one file; it is made without a daemon, from what is on disk. The same sources and node
give the same digest. It takes the flags of bpr worker, runs as user 993 without rights, and keeps its data in /data: a volume there keeps who the
worker is. Podman and others take the file as an OCI archive, too.

With --json one JSON document is printed.

Exit status: 0 done; 1 failed, the message begins with a code of ERRORS.md; 2 called in a wrong way.`;

/** `bpr worker image`: the worker as a container image. After `addWorker`. */
export function addWorkerImage(program: Command, { io }: Cli): void {
  const worker = program.commands.find((command) => command.name() === 'worker');
  if (!worker) throw new RunnerError('INTERNAL', 'there is no command worker');
  worker
    .command('image')
    .description('write the worker as a container image, into a registry or a file')
    .option('--out <file>', 'a file that docker load takes, such as bpr-worker.tar')
    .option('--push <registry/name[:tag]>', 'push it to a registry')
    .option('--name <name:tag>', 'what docker load calls it (default: that of --push, or bpr-worker:VERSION)')
    // --json is an option of the command above it, which takes it.
    .addHelpText('after', EXAMPLES)
    .action(async (flags: ImageFlags, command: Command) => {
      const { json } = command.optsWithGlobals<{ readonly json?: true }>();
      if (flags.out === undefined && flags.push === undefined)
        throw new RunnerError('CONFIG_INVALID', 'say where the image goes: --push registry/name, --out file, or both');
      const layout = mkdtempSync(join(tmpdir(), 'bpr-image-'));
      try {
        await write(io, flags, { layout, json });
      } finally {
        rmSync(layout, { recursive: true });
      }
    });
}

async function write(
  io: Io,
  flags: ImageFlags,
  { layout, json }: { readonly layout: string; readonly json: true | undefined },
): Promise<void> {
  // What cannot be pushed is known before anything is built.
  const reference = flags.push === undefined ? undefined : await referenceOf(flags.push);
  const name = nameOf(flags, reference);
  const [{ writeWorkerImage }, { writeImageArchive }] = await Promise.all([
    import('../../deploy/worker-image.ts'),
    import('../../deploy/image.ts'),
  ]);
  progress(io, 'bundling the worker ...');
  const { digest, bytes } = await writeWorkerImage(layout, name);
  const file = flags.out === undefined ? undefined : resolve(io.cwd, flags.out);
  if (file !== undefined) writeImageArchive(layout, file, name);
  const pushed = reference && (await pushLayout(io, layout, reference));
  const rows = [[name, sizeText(bytes), digest], ...(file === undefined ? [] : [[file]]), ...(pushed ? [pushedRow(pushed)] : [])];
  print(io, json, { document: { name, digest, bytes, file, pushed }, text: table(rows) });
}

async function referenceOf(text: string): Promise<ImageReference> {
  const { parseImageReference } = await import('../../http/image-registry.ts');
  return parseImageReference(text);
}

function nameOf({ name }: ImageFlags, reference: ImageReference | undefined): string {
  if (name === undefined)
    return reference ? `${reference.registry}/${reference.repository}:${reference.tag}` : `bpr-worker:${ownVersion()}`;
  if (/^[a-z0-9][a-z0-9._/:-]*:\w[\w.-]{0,127}$/.test(name)) return name;
  throw new RunnerError('CONFIG_INVALID', `${JSON.stringify(name)} names no image; write name:tag`);
}
