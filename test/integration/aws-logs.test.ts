/** Logs, metrics and queries of CloudWatch, as moto has it. */

import { CloudWatchLogs } from '@aws-sdk/client-cloudwatch-logs';
import { afterAll, beforeAll, describe, expect } from 'vitest';
import type { LambdaDeployer } from '../../plugins/aws-lambda/index.ts';
import type { LogEntry, LogQuery } from '../../src/executor/deployer.ts';
import { deployerOf, handlerPackage, settings } from '../support/aws-platform.ts';
import { useMoto } from '../support/moto-file.ts';

const { testMoto, isThere, world } = useMoto();

const NAME = 'chatty';
const logGroupName = `/aws/lambda/${NAME}`;
const since = Date.now() - 3_600_000;
let deployer: LambdaDeployer;
let logs: CloudWatchLogs;

beforeAll(async () => {
  if (!isThere) return;
  deployer = deployerOf(world);
  logs = new CloudWatchLogs(settings(world.moto.url));
  await deployer.deploy(NAME, handlerPackage('a'), { logRetentionDays: 1 });
  await logs.createLogStream({ logGroupName, logStreamName: 's' });
  const lines = Array.from({ length: 250 }, (_, index) => `line ${index}`);
  const report = (id: string, more: string): string =>
    `REPORT RequestId: ${id}\tDuration: 10.5 ms\tBilled Duration: 11 ms\tMemory Size: 128 MB\tMax Memory Used: 64 MB\t${more}`;
  const more = [
    report('r-1', 'Init Duration: 120 ms\t'),
    report('r-2', ''),
    report('r-3', 'Status: timeout'),
    '2026-01-01T00:00:00Z\tr-2\tERROR\tno oven',
    '{"level":"debug","msg":"quiet"}',
    '{"level":"fatal","requestId":"r-9","msg":"loud"}',
  ];
  const events = [...lines, ...more].map((message, index) => ({ message, timestamp: since + index * 10 }));
  await logs.putLogEvents({ logGroupName, logStreamName: 's', logEvents: events });
});

afterAll(async () => {
  if (!isThere) return;
  logs.destroy();
  await deployer.close();
});

async function read(query: LogQuery): Promise<LogEntry[]> {
  const seen: LogEntry[] = [];
  for await (const entry of deployer.logs(NAME, query)) seen.push(entry);
  return seen;
}

describe('the log of a function', () => {
  testMoto('is read by level, by request, by text, and the newest so many', async () => {
    expect((await read({})).length).toBe(100);
    expect((await read({ limit: 1_000 })).length).toBe(256);
    expect((await read({ level: 'error' })).map(({ requestId }) => requestId)).toEqual(['r-2', 'r-9']);
    expect((await read({ level: 'trace', limit: 2 })).map(({ level }) => level)).toEqual(['debug', 'fatal']);
    expect((await read({ requestId: 'r-2' })).length).toBe(2);
    expect((await read({ search: 'line 24' })).map(({ message }) => message)).toHaveLength(11);
    expect(await read({ untilMs: since - 1 })).toEqual([]);
    expect((await read({ sinceMs: since + 2_480, untilMs: since + 2_490 })).map(({ message }) => message)).toEqual([
      'line 248',
      'line 249',
    ]);
  });

  testMoto('is summed up', async () => {
    expect(await deployer.metrics(NAME, { sinceMs: since })).toMatchObject({
      invocations: 3,
      errors: 2,
      coldStarts: 1,
      averageMs: 10.5,
      billedMs: 33,
      averageInitMs: 120,
      memoryUsedMbMax: 64,
    });
  });

  testMoto('is asked in the language of Insights', async () => {
    const rows = await deployer.insights(NAME, { query: 'fields @timestamp, @message | limit 3', sinceMs: since - 1_000 });
    expect(rows).toHaveLength(3);
    // The newest first.
    expect(rows[0]?.['@message']).toMatch(/loud/);
    expect(world.proxy.requests.filter((operation) => operation === 'StartQuery')).toHaveLength(1);
  });
});
