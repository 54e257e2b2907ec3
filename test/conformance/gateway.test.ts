/** The executors' suite through the gateway: the client of the Custom FaaS Platform Specification, the gateway, real processes. */

import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, it } from 'vitest';
import { HttpFaasDeployer, HttpFaasExecutor } from '../../plugins/http/index.ts';
import { ProcessBackend } from '../../plugins/process/index.ts';
import { runExecutorConformance } from '../../src/conformance/conformance.ts';
import { CONFORMANCE_JOBS } from '../../src/conformance/jobs.ts';
import { buildHandler } from '../../src/deploy/package.ts';
import { Gateway } from '../../src/gateway/gateway.ts';

describe('the gateway', () => {
  let folder: string;
  let gateway: Gateway;
  let url: string;
  const functionId = (jobId: bigint): string => `conformance-${jobId.toString(36).slice(0, 40)}`;

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'gw-'));
    const backends = new Map([['process', new ProcessBackend({ folder: join(folder, 'b') })]]);
    // In JSON a byte takes up to four characters: what 6 MiB need is more than Lambda takes.
    gateway = new Gateway({ folder, backends, provider: 'gcp' });
    url = await gateway.listen({ port: 0 });
    const { zipFile, sha256 } = await buildHandler({
      entry: join(import.meta.dirname, '../fixtures/gateway/jobs.ts'),
      outDir: join(folder, 'out'),
    });
    const deployer = new HttpFaasDeployer(url);
    const zip = readFileSync(zipFile);
    const environment = { BLUEPRINT_REQUEST_BYTES_MAX: String(32 * 1024 * 1024) };
    for (const jobId of Object.values(CONFORMANCE_JOBS))
      await deployer.deploy(functionId(jobId), { zip, sha256 }, { timeoutMs: 60_000, concurrencyMax: 40, memoryMb: 1_024, environment });
    await deployer.close();
  });

  afterAll(async () => {
    await gateway.close(0);
    rmSync(folder, { recursive: true, force: true });
  });

  runExecutorConformance(
    { describe, it },
    {
      name: 'http, the gateway',
      create: () => new HttpFaasExecutor(url, { mode: 'platform', functionId }),
      skip: {
        'the job sees the metadata of its call': 'the specification hands a function only job_id and args',
        'runs a failing job once': 'the job notes its runs in a file of this machine, which its sandbox does not reach',
      },
    },
  );
});
