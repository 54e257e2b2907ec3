import { describe, expect, it } from 'vitest';
import { systemClock } from '../clock.ts';
import type { Clock } from '../clock.ts';
import { backoffMs, supervise } from './supervisor.ts';

/** Waits take no time, and are noted. */
function patient(): { readonly clock: Clock; readonly waits: number[] } {
  const waits: number[] = [];
  return { waits, clock: { ...systemClock, monotonic: () => 0, sleep: async (delayMs) => void waits.push(delayMs) } };
}

describe('supervise', () => {
  it('runs a task again when it throws, ever more slowly, until it is done', async () => {
    const { clock, waits } = patient();
    const errors: string[] = [];
    let runs = 0;
    const run = async (): Promise<void> => {
      runs += 1;
      if (runs < 4) throw new Error(`failure ${runs}`);
    };
    const signal = new AbortController().signal;
    const end = await supervise(
      { name: 'task', run },
      { clock, signal, onError: ({ message }, name) => errors.push(`${name}: ${message}`) },
    );
    expect(end).toBeUndefined();
    expect(errors).toEqual(['task: failure 1', 'task: failure 2', 'task: failure 3']);
    expect(waits).toEqual([250, 500, 1000]);
  });

  it('gives the error back when it must not run again', async () => {
    const { clock, waits } = patient();
    const run = async (): Promise<void> => {
      throw new Error('once');
    };
    const options = { clock, signal: new AbortController().signal, onError: () => undefined };
    expect(await supervise({ name: 'task', run, restart: 'never' }, options)).toMatchObject({ code: 'INTERNAL', message: 'once' });
    expect(waits).toEqual([]);
  });

  it('runs a task that ended again when it always must', async () => {
    const { clock } = patient();
    const stop = new AbortController();
    let runs = 0;
    const run = async (): Promise<void> => {
      runs += 1;
      if (runs === 3) stop.abort();
    };
    await supervise({ name: 'task', run, restart: 'always' }, { clock, signal: stop.signal, onError: () => undefined });
    expect(runs).toBe(3);
  });

  it('leaves a task behind that ignores its signal, and does not call the stop a failure', async () => {
    const { clock } = patient();
    const stop = new AbortController();
    const errors: unknown[] = [];
    const ended = supervise(
      { name: 'deaf', run: () => new Promise(() => {}) },
      { clock, signal: stop.signal, onError: (error) => errors.push(error) },
    );
    stop.abort();
    expect(await ended).toBeUndefined();
    expect(errors).toEqual([]);
  });

  it('never waits longer than half a minute', () => {
    expect([1, 2, 8, 100].map(backoffMs)).toEqual([250, 500, 30_000, 30_000]);
  });
});
