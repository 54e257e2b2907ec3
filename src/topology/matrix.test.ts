import { describe, expect, it } from 'vitest';
import { matrix, parseMeasurements } from './matrix.ts';
import type { Measurements } from './matrix.ts';
import { TOPOLOGY_OPTIONS } from './topology.ts';

const one = {
  startMs: 1_234,
  engineBytes: 100 * 1024 ** 2,
  workerBytes: 50 * 1024 ** 2,
  allBytes: 300 * 1024 ** 2,
  coldMs: 41.6,
  warmMs: 2.34,
};
const measured: Measurements = {
  version: 1,
  at: '2026-01-01T00:00:00.000Z',
  machine: 'two',
  node: '24.0.0',
  workers: 2,
  options: { 1: one },
};

describe('matrix', () => {
  it('has a value of each option in each row, and eleven criteria that were estimated or follow from the parts', () => {
    const rows = matrix();
    for (const { values } of rows) expect([values.length, values.includes('')]).toEqual([TOPOLOGY_OPTIONS.length, false]);
    expect(rows.length).toBeGreaterThanOrEqual(11);
    expect(new Set(rows.map(({ criterion }) => criterion)).size).toBe(rows.length);
    expect(rows.map(({ kind }) => kind)).not.toContain('measured');
  });

  it('counts processes: what option 2 saves is not the workers', () => {
    expect(matrix().find(({ criterion }) => criterion === 'processes at 100 workers')?.values).toEqual(['101', '102', '106', '102', '104']);
  });

  it('shows what was measured, and where nothing was', () => {
    const rows = matrix(measured).filter(({ kind }) => kind === 'measured');
    expect(rows.map(({ criterion, values }) => [criterion, ...values.slice(0, 2)])).toEqual([
      ['start', '1234 ms', '-'],
      ['memory of an engine', '100 MiB', '-'],
      ['memory of a worker', '50 MiB', '-'],
      ['memory of all parts', '300 MiB', '-'],
      ['first job', '42 ms', '-'],
      ['later jobs, median', '2.3 ms', '-'],
    ]);
  });

  it('reads what it has written, and nothing else', () => {
    expect(parseMeasurements(JSON.stringify(measured), 'm.json')).toEqual(measured);
    expect(() => parseMeasurements('{', 'm.json')).toThrow(/m\.json is not JSON/);
    for (const wrong of [null, {}, { ...measured, version: 2 }, { ...measured, options: { 1: { ...one, warmMs: 'fast' } } }])
      expect(() => parseMeasurements(JSON.stringify(wrong), 'm.json')).toThrow(/m\.json does not hold measurements/);
  });
});
