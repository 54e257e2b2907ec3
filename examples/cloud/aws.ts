/**
 * AWS on this machine, for the examples: the Lambda API is that of a gateway, which really runs what is deployed; everything else (roles,
 * schedules, logs) is moto. On AWS itself `new LambdaDeployer({ region })` is all that is needed.
 */

import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CloudWatchLogs } from '@aws-sdk/client-cloudwatch-logs';
import { LambdaDeployer } from '../../plugins/aws-lambda/index.ts';
import { ProcessBackend } from '../../plugins/process/index.ts';
import { createPackage } from '../../src/deploy/callable.ts';
import type { PackagedCallable } from '../../src/deploy/callable.ts';
import type { FunctionPackage } from '../../src/executor/deployer.ts';
import { GatewayClient } from '../../src/gateway/client.ts';
import { Gateway } from '../../src/gateway/gateway.ts';
import { probeMoto, startMoto } from '../../test/support/moto.ts';

const REGION = 'us-east-1';
const KEYS = { accessKeyId: 'AKIAEXAMPLE', secretAccessKey: 'not-so-secret' };
/** The event of a call of job 0 without input: what a schedule sends. */
export const EMPTY_CALL = { job_id: 0, args: [] };

export interface LocalAws {
  readonly deployer: LambdaDeployer;
  /** A function of `tasks.ts`, with all that its module imports. */
  pack(task: PackagedCallable): Promise<FunctionPackage>;
  /** Calls a deployed task by hand. */
  call(name: string, event?: unknown): Promise<unknown>;
  /** What Lambda does on AWS: takes the log of the function to CloudWatch. */
  takeLogs(name: string): Promise<void>;
}

/** Runs an example, or says why it cannot. */
export async function withLocalAws(run: (aws: LocalAws) => Promise<void>): Promise<void> {
  try {
    probeMoto();
  } catch {
    console.log("skipped: moto_server is not installed (pip install 'moto[server]')");
    return;
  }
  const moto = await startMoto();
  const folder = mkdtempSync(join(tmpdir(), 'bpr-example-'));
  const backend = new ProcessBackend({ folder: join(folder, 'process') });
  const gateway = new Gateway({ folder: join(folder, 'gateway'), backends: new Map([['process', backend]]) });
  const url = await gateway.listen({ port: 0 });
  const credentials = () => Promise.resolve(KEYS);
  const deployer = new LambdaDeployer({ region: REGION, credentials, endpoint: moto.url, endpoints: { lambda: url } });
  const logs = new CloudWatchLogs({ region: REGION, credentials: KEYS, endpoint: moto.url });
  try {
    await run({
      deployer,
      pack: (task) => pack(task, folder),
      call: (...args) => call(deployer, ...args),
      takeLogs: takeLogsOf(url, logs),
    });
  } finally {
    logs.destroy();
    await deployer.close();
    await gateway.close(0);
    await moto.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

async function pack(task: PackagedCallable, folder: string): Promise<FunctionPackage> {
  const built = await createPackage(task, { module: new URL('tasks.ts', import.meta.url), outDir: join(folder, task.name) });
  return { zip: readFileSync(built.zipFile), sha256: built.sha256 };
}

async function call(deployer: LambdaDeployer, name: string, event?: unknown): Promise<unknown> {
  const args = event === undefined ? [] : [...Buffer.from(JSON.stringify(event))];
  const { body, failed } = await deployer.invoke(name, Buffer.from(JSON.stringify({ ...EMPTY_CALL, args })));
  const text = Buffer.from(body).toString();
  if (failed) throw new Error(`${name} failed: ${text}`);
  const { result } = JSON.parse(text) as { result: number[] };
  return JSON.parse(Buffer.from(result).toString());
}

function takeLogsOf(url: string, logs: CloudWatchLogs) {
  const client = new GatewayClient({ url });
  return async (name: string): Promise<void> => {
    const stream = { logGroupName: `/aws/lambda/${name}`, logStreamName: 'example' };
    await logs.createLogGroup({ logGroupName: stream.logGroupName }).catch(() => undefined); // it may be there
    await logs.createLogStream(stream);
    const lines = await client.logs(name);
    await logs.putLogEvents({ ...stream, logEvents: lines.map(({ at, text }) => ({ timestamp: Date.parse(at), message: text })) });
  };
}
