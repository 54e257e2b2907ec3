/** The worker as an image of a container: node with its libraries, and one file. */

import { librariesOf, writeImageLayout } from './image.ts';
import type { WrittenImage } from './image.ts';
import { bundleWorker } from './worker-bundle.ts';
import { packFiles } from './zip.ts';

/** Without a name anywhere but here. */
const USER = 993;
const DATA = 'data';
const text = (value: string): Uint8Array => Buffer.from(value);
const EXTRAS = [
  { name: 'etc/passwd', mode: 0o644, data: text(`root:x:0:0:root:/:/bin/false\nblueprint:x:${USER}:${USER}::/${DATA}:/bin/false\n`) },
  { name: 'etc/group', mode: 0o644, data: text(`root:x:0:\nblueprint:x:${USER}:\n`) },
  { name: 'etc/nsswitch.conf', mode: 0o644, data: text('hosts: files dns\n') },
  { name: 'tmp', mode: 0o1777 },
  // Of whoever it runs as.
  { name: DATA, mode: 0o1777 },
];

/** Writes the layout of the image. Throws `BUILD_FAILED`, and `PEER_MISSING` without esbuild. */
export async function writeWorkerImage(outDir: string, reference: string): Promise<WrittenImage> {
  const { code } = await bundleWorker();
  return writeImageLayout({
    zip: await packFiles({ 'worker.mjs': { data: code, mode: 0o755 } }),
    outDir,
    node: { file: process.execPath, libraries: librariesOf(process.execPath) },
    architecture: process.arch === 'arm64' ? 'arm64' : 'amd64',
    environment: { NODE_ENV: 'production', BPR_DATA_DIR: `/${DATA}`, HOME: `/${DATA}` },
    reference,
    program: 'worker.mjs',
    extras: EXTRAS,
    user: `${USER}:${USER}`,
  });
}
