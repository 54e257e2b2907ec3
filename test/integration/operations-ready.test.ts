/** Whether a worker says that it is ready: only while its jobs can run. */

import { createServer } from 'node:http';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { expect, it, onTestFinished } from 'vitest';
import { ControlPlane } from '../../src/control/control.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import { until } from '../support/gateway.ts';
import { temporaryFolder } from '../support/temporary-folders.ts';
import { WorkerCommand } from '../support/worker-command.ts';

interface Readiness {
  readonly status: number;
  readonly checks: Readonly<Record<string, { readonly ok: boolean; readonly message?: string }>>;
}

/** An engine of which only the readiness matters. */
async function engine(): Promise<{ readonly url: string; isReady: boolean }> {
  const state = { url: '', isReady: true };
  const server = createServer((_, response) => response.writeHead(state.isReady ? 200 : 503).end('{}'));
  await once(server.listen(0, '127.0.0.1'), 'listening');
  onTestFinished(() => {
    server.close().closeAllConnections();
  });
  state.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return state;
}

it('a worker is not ready while all of its engines are away, says so, and is ready again after', async () => {
  const control = new ControlPlane({ folder: temporaryFolder('ready'), telemetry: silentTelemetry });
  await control.listen({ port: 0 });
  onTestFinished(() => control.close(100));
  const { ticket } = await control.tickets.create({ uses: 1 });
  const engines = [await engine(), await engine()] as const;
  const urls = engines.map((one) => one.url);
  const environment = { CONTROL_PLANE_TICKET: ticket, BPR_WASM_URL: urls.join(',') };
  const command = new WorkerCommand(temporaryFolder('w'), environment, ['--backend', 'engine']);
  onTestFinished(async () => void (await command.kill()));
  const health = String((await command.until('started'))['health']);
  await command.until('ready');
  const readiness = async (): Promise<Readiness> => {
    const response = await fetch(`${health}/readyz`);
    return { status: response.status, ...((await response.json()) as Omit<Readiness, 'status'>) };
  };
  expect(await readiness()).toMatchObject({ status: 200, checks: { queue: { ok: true }, engines: { ok: true } } });
  for (const one of engines) one.isReady = false;
  await until(async () => (await readiness()).status === 503);
  expect((await readiness()).checks).toEqual({
    queue: { ok: true },
    engines: { ok: false, message: `no engine is ready: ${engines.map((one) => one.url).join(', ')}` },
  });
  expect((await fetch(`${health}/healthz`)).status).toBe(200);
  engines[1].isReady = true;
  await until(async () => (await readiness()).status === 200);
  expect(await command.kill('SIGTERM')).toBe(0);
});
