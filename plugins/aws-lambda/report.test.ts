import { describe, expect, it } from 'vitest';
import { parseLogTail, parseReport, readEntry, sumUp } from './report.ts';

const WARM = 'REPORT RequestId: 5f1c\tDuration: 102.25 ms\tBilled Duration: 103 ms\tMemory Size: 512 MB\tMax Memory Used: 80 MB\t';

describe('the REPORT line', () => {
  it('tells what the platform measured', () => {
    expect(parseReport(`START RequestId: 5f1c Version: 3\nhello\nEND RequestId: 5f1c\n${WARM}\n`)).toEqual({
      requestId: '5f1c',
      durationMs: 102.25,
      billedMs: 103,
      memoryMb: 512,
      memoryUsedMb: 80,
    });
  });

  it('of a cold start tells the start, of a snapshot the restore', () => {
    expect(parseReport(`${WARM}Init Duration: 140.51 ms\t`)?.initMs).toBe(140.51);
    expect(parseReport(`${WARM}Restore Duration: 300.1 ms\tBilled Restore Duration: 301 ms\t`)?.initMs).toBe(300.1);
  });

  it('tells a failure', () => {
    expect(parseReport(`${WARM}Status: timeout`)?.status).toBe('timeout');
    expect(parseReport(`${WARM}Status: error\tError Type: Runtime.ExitError`)?.status).toBe('error');
  });

  it('is read as JSON, too', () => {
    const record = {
      requestId: 'a',
      status: 'success',
      metrics: { durationMs: 1.5, billedDurationMs: 2, memorySizeMB: 128, maxMemoryUsedMB: 64, initDurationMs: 99 },
    };
    const line = JSON.stringify({ time: '2026', type: 'platform.report', record });
    expect(parseReport(`{"type":"platform.start"}\n${line}`)).toEqual({
      requestId: 'a',
      durationMs: 1.5,
      billedMs: 2,
      memoryMb: 128,
      memoryUsedMb: 64,
      initMs: 99,
    });
  });

  it('is not found where it is not', () => {
    for (const text of [
      '',
      'the REPORT RequestId: x',
      'REPORT RequestId: x\tDuration: soon',
      '{"type":"platform.report"}',
      '{"type":"platform.report",',
    ])
      expect(parseReport(text)).toBeUndefined();
    expect([parseLogTail(undefined), parseLogTail('')]).toEqual([undefined, undefined]);
    expect(parseLogTail(Buffer.from(WARM).toString('base64'))?.durationMs).toBe(102.25);
  });
});

describe('a line of the log', () => {
  const of = (message: string) => readEntry({ at: 1, message, stream: 's' });

  it('tells level and request, as text or as JSON', () => {
    expect(of('2026-01-01T00:00:00.000Z\tabc-1\tWARN\tlate\n')).toEqual({
      at: 1,
      message: '2026-01-01T00:00:00.000Z\tabc-1\tWARN\tlate',
      level: 'warn',
      requestId: 'abc-1',
      instance: 's',
    });
    expect(of('{"level":"WARNING","requestId":"r"}')).toMatchObject({ level: 'warn', requestId: 'r' });
    expect(of('{"level":50,"msg":"x"}').level).toBe('error');
    expect(of('{"type":"platform.start","record":{"requestId":"q"}}')).toMatchObject({ requestId: 'q' });
    expect(of(WARM).requestId).toBe('5f1c');
    expect(of('2026-01-01T00:00:00Z 5f1c Task timed out after 3.00 seconds').level).toBe('error');
    expect(of('hello').level).toBeUndefined();
    expect(of('{broken').message).toBe('{broken');
  });
});

describe('sums', () => {
  it('over reports', () => {
    const reports = Array.from({ length: 20 }, (_, index) => ({
      requestId: String(index),
      durationMs: index + 1,
      billedMs: index + 2,
      memoryUsedMb: 10 + index,
    }));
    const cold = { requestId: 'c', durationMs: 100, initMs: 150, status: 'error' };
    expect(sumUp([...reports, cold], new Set(['3']))).toEqual({
      invocations: 21,
      errors: 2,
      errorRate: 2 / 21,
      coldStarts: 1,
      averageMs: 310 / 21,
      p95Ms: 20,
      maxMs: 100,
      billedMs: 230 + 100,
      averageInitMs: 150,
      memoryUsedMbMax: 29,
    });
    expect(sumUp([])).toMatchObject({ invocations: 0, errorRate: 0, averageMs: 0, p95Ms: 0, maxMs: 0 });
  });
});
