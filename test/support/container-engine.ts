/** Whether tests find a container engine. */

import { execFileSync } from 'node:child_process';
import { request } from 'node:http';
import { PROBE_MS_MAX, requirePeer, runs } from '../require.ts';
import type { DeclareTest } from '../require.ts';
import type { ContainerBackendOptions } from '../../plugins/container/index.ts';
import { ContainerBackend } from '../../plugins/container/backend.ts';
import { RuncBackend } from '../../plugins/container/runc.ts';

const PING = `
const host = process.env.DOCKER_HOST || 'unix:///var/run/docker.sock';
require('node:http').get({ socketPath: host.replace('unix://', ''), path: '/_ping' }, (answer) => process.exit(answer.statusCode === 200 ? 0 : 1))
  .on('error', (error) => { console.error(error.message); process.exit(1); });`;

/** Declares tests that need Docker at `DOCKER_HOST` or its usual socket. */
export const testDocker = requirePeer('docker', () => {
  execFileSync(process.execPath, ['-e', PING], { stdio: ['ignore', 'ignore', 'pipe'], timeout: PROBE_MS_MAX });
});

/** Declares tests that need `runc` and root. */
const testRunc = requirePeer('runc', () => {
  if (process.getuid?.() !== 0) throw new Error('it needs root');
  runs('runc', '--version');
});

export interface Driver {
  readonly name: 'docker' | 'runc';
  readonly test: DeclareTest;
  readonly make: (options: Pick<ContainerBackendOptions, 'folder' | 'limits' | 'startTimeoutMs'>) => ContainerBackend | RuncBackend;
}

/** What the same tests are run with. */
export const DRIVERS: readonly Driver[] = [
  { name: 'docker', test: testDocker, make: (options) => new ContainerBackend(options) },
  { name: 'runc', test: testRunc, make: (options) => new RuncBackend(options) },
];

/** Asks the engine itself, not through the code that is tested. */
export function askEngine(method: string, path: string, body?: object): Promise<{ readonly status: number; readonly body: unknown }> {
  const socketPath = (process.env['DOCKER_HOST'] ?? 'unix:///var/run/docker.sock').replace('unix://', '');
  const headers = body === undefined ? {} : { 'content-type': 'application/json' };
  return new Promise((resolve, reject) => {
    const asking = request({ socketPath, path, method, headers }, (answer) => {
      const chunks: Buffer[] = [];
      answer.on('data', (chunk: Buffer) => chunks.push(chunk));
      answer.on('end', () => {
        const text = Buffer.concat(chunks).toString();
        resolve({
          status: answer.statusCode ?? 0,
          body: text.startsWith('{') || text.startsWith('[') ? (JSON.parse(text) as unknown) : text,
        });
      });
    });
    asking.on('error', reject);
    asking.end(body === undefined ? undefined : JSON.stringify(body));
  });
}

/** Ids of the containers, running or not, with this label. */
export async function containersWith(label: string): Promise<string[]> {
  const { body } = await askEngine('GET', `/containers/json?all=1&filters=${encodeURIComponent(JSON.stringify({ label: [label] }))}`);
  return (body as { Id: string }[]).map(({ Id: id }) => id);
}
