/** What is started in an instance and what it finds there, the same for every driver. */

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { RunnerError } from '../../src/plugin.ts';
import type { FunctionVersion } from '../../src/plugin.ts';

const CLIENT_FILE = '/run/bpr/client.cjs';
const API_SOCKET = '/run/bpr/api.sock';
/** The root file system of the node on disk, for images that have no node. */
const HOST_FOLDER = '/run/bpr/host';
export const TASK_FOLDER = '/var/task';

/** An image that says so by `unix` speaks to the socket itself. */
const API_LABEL = 'dev.blueprint-runner.runtime-api';

export interface Mount {
  readonly source: string;
  readonly target: string;
}

/** What is known of the file system that it starts in. */
export interface Surface {
  readonly entryPoint: readonly string[];
  readonly command: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
  /** Node is there, at a place that PATH names. */
  readonly hasNode: boolean;
}

/** Files outside. */
export interface Sources {
  readonly client: string;
  readonly layers: string | undefined;
  /** Made when a program needs it that brings no node. */
  readonly node: () => Promise<{ readonly folder: string; readonly loader: string | undefined; readonly libraryPath: string }>;
}

export interface Program {
  readonly argv: readonly string[];
  readonly mounts: readonly Mount[];
  readonly environment: Readonly<Record<string, string>>;
}

/** The program that works through the events of the Runtime API at `socketPath`. */
export async function eventProgram(
  fn: FunctionVersion,
  surface: Surface,
  { socketPath, ...sources }: Sources & { readonly socketPath: string },
): Promise<Program> {
  const mounts = [
    ...contentMounts(fn, sources),
    { source: sources.client, target: CLIENT_FILE },
    { source: socketPath, target: API_SOCKET },
  ];
  const environment = { AWS_LAMBDA_RUNTIME_API: `unix:${API_SOCKET}` };
  if (fn.code.kind === 'folder' && fn.runtime.startsWith('nodejs')) return { argv: ['node', CLIENT_FILE, 'run'], mounts, environment };
  const argv = ownProgram(fn, surface);
  if (surface.labels[API_LABEL] === 'unix') return { argv, mounts, environment };
  if (surface.hasNode) return { argv: ['node', CLIENT_FILE, 'bridge', ...argv], mounts, environment };
  const node = await sources.node();
  const inside = (path: string): string => `${HOST_FOLDER}${path}`;
  const loader =
    node.loader === undefined
      ? []
      : [
          inside(node.loader),
          '--library-path',
          node.libraryPath
            .split(':')
            .map((path) => inside(path))
            .join(':'),
        ];
  return {
    argv: [...loader, inside('/var/lang/bin/node'), CLIENT_FILE, 'bridge', ...argv],
    mounts: [...mounts, { source: node.folder, target: HOST_FOLDER }],
    environment,
  };
}

/** The program that reads one request from stdin and writes one response to stdout. */
export function stdioProgram(fn: FunctionVersion, surface: Surface, sources: Pick<Sources, 'layers'>): Program {
  const mounts = contentMounts(fn, sources);
  const isNode = fn.code.kind === 'folder' && fn.runtime.startsWith('nodejs');
  const argv = isNode ? ['node', `${TASK_FOLDER}/${handlerFile(fn)}`] : ownProgram(fn, surface);
  return { argv, mounts, environment: {} };
}

function contentMounts({ code }: FunctionVersion, { layers }: Pick<Sources, 'layers'>): Mount[] {
  return [
    ...(code.kind === 'folder' ? [{ source: code.path, target: TASK_FOLDER }] : []),
    ...(layers === undefined ? [] : [{ source: layers, target: '/opt' }]),
  ];
}

/** Of an image what it says or what the function says instead; of a custom runtime its `bootstrap`; else what the image starts handlers with. */
function ownProgram({ code, runtime, handler }: FunctionVersion, surface: Surface): string[] {
  if (code.kind === 'folder') return runtime.startsWith('provided') ? [`${TASK_FOLDER}/bootstrap`] : [...surface.entryPoint, handler];
  const argv = [...(code.entryPoint ?? surface.entryPoint), ...(code.command ?? (code.entryPoint ? [] : surface.command))];
  if (argv.length === 0)
    throw new RunnerError('INSTANCE_START_FAILED', `the image ${code.uri} names no program, and the function names none either`, {
      retry: 'never',
      details: { image: code.uri },
    });
  return argv;
}

/** The file of a handler, be it written as the file itself or as `file.export`. */
function handlerFile({ name, code, handler }: FunctionVersion): string {
  const folder = code.kind === 'folder' ? code.path : '';
  const stem = handler.slice(0, Math.max(0, handler.lastIndexOf('.')));
  const found = [handler, ...['.mjs', '.js', '.cjs'].map((end) => stem + end)].find((file) => existsSync(join(folder, file)));
  if (found === undefined)
    throw new RunnerError('CODE_MISSING', `the code of ${name} has no file for the handler ${handler}`, { details: { handler } });
  return found;
}
