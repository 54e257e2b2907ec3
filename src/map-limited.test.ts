import { describe, expect, it } from 'vitest';
import { mapLimited } from './map-limited.ts';

describe('working through a list', () => {
  it('runs at most so many at a time and keeps the order', async () => {
    let running = 0;
    let most = 0;
    const doubled = await mapLimited([5, 1, 4, 2, 3], 2, async (value) => {
      running += 1;
      most = Math.max(most, running);
      for (let turn = 0; turn < value; turn += 1) await Promise.resolve();
      running -= 1;
      return value * 2;
    });
    expect(doubled).toEqual([10, 2, 8, 4, 6]);
    expect(most).toBe(2);
  });

  it('begins nothing after a failure, and rejects with the first one when all that ran has ended', async () => {
    const begun: number[] = [];
    const gates = [0, 1, 2, 3].map(() => Promise.withResolvers<void>());
    const working = mapLimited([0, 1, 2, 3], 2, async (index) => {
      begun.push(index);
      await gates[index]?.promise;
    });
    let rejected = false;
    const outcome = working.catch((error: unknown) => {
      rejected = true;
      return error;
    });
    const first = new Error('the first');
    gates[1]?.reject(first);
    for (let turn = 0; turn < 20; turn += 1) await Promise.resolve();
    expect({ begun, rejected }).toEqual({ begun: [0, 1], rejected: false });
    gates[0]?.reject(new Error('the second'));
    expect(await outcome).toBe(first);
    expect(begun).toEqual([0, 1]);
  });
});
