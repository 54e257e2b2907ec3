/** The suite of backends, with pods of an emulator whose processes are real. */

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, it } from 'vitest';
import { KubernetesBackend } from '../../plugins/kubernetes/index.ts';
import { systemClock } from '../../src/clock.ts';
import { runBackendConformance } from '../../src/conformance/backend.ts';
import { requirePeer, runs } from '../require.ts';
import { startKubernetes } from '../support/kubernetes.ts';
import type { KubernetesEmulator } from '../support/kubernetes.ts';
import { kubeconfigFor } from '../support/kubernetes-config.ts';

const TOKEN = 'token-of-a-cluster-for-tests';
const testSandboxed = requirePeer('bwrap', () => runs('bwrap', '--unshare-all', '--ro-bind', '/', '/', 'true'));

const folder = mkdtempSync(join(tmpdir(), 'kube-'));
let emulator: KubernetesEmulator;

beforeAll(async () => {
  emulator = await startKubernetes({ token: TOKEN });
  writeFileSync(join(folder, 'config'), kubeconfigFor({ server: emulator.url, token: TOKEN }));
});

afterAll(async () => {
  await emulator.close();
  rmSync(folder, { recursive: true, force: true });
});

// Where the sandbox is missing, the declaration that needs it says so.
const { skip } = it;
const declare = Object.assign((title: string, run: () => void | Promise<void>) => testSandboxed(title, run), { skip });

runBackendConformance(
  { describe, it: declare },
  {
    name: 'kubernetes',
    create: () =>
      new KubernetesBackend(
        { kubeconfig: join(folder, 'config'), address: '127.0.0.1', listen: '127.0.0.1:0' },
        { clock: systemClock, environment: {} },
      ),
    skip: { 'without network nothing of this machine is reached over TCP': 'the emulator applies no network policies; a test reads them' },
  },
);
