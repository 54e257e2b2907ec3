import fc from 'fast-check';
import { expect, it } from 'vitest';
import { TypeTally } from './type-tally.ts';

it('tells the twenty types with the most jobs, and all others together', () => {
  const tally = new TypeTally();
  for (let size = 1; size <= 25; size += 1) {
    tally.add(`t${size}`, 'queued', size);
    tally.add(`t${size}`, 'claimed');
  }
  tally.add('other', 'queued', 1_000);
  const told = tally.largest();
  expect(told.map(({ type }) => type)).toEqual([...Array.from({ length: 20 }, (_, index) => `t${25 - index}`), 'other']);
  expect(told[0]).toEqual({ type: 't25', queued: 25, claimed: 1 });
  expect(told[20]).toEqual({ type: 'other', queued: 1_015, claimed: 5 });
});

it('counts whatever comes and goes', () => {
  const type = fc.integer({ min: 0, max: 30 }).map((index) => `t${index}`);
  const state = fc.constantFrom('queued' as const, 'claimed' as const);
  fc.assert(
    fc.property(fc.array(fc.tuple(type, state, fc.boolean()), { maxLength: 300 }), (steps) => {
      const tally = new TypeTally();
      const jobs: (readonly [string, 'queued' | 'claimed'])[] = [];
      for (const [name, of, isNew] of steps) {
        const index = jobs.findIndex((job) => job[0] === name && job[1] === of);
        if (isNew || index === -1) {
          jobs.push([name, of]);
          tally.add(name, of);
        } else {
          jobs.splice(index, 1);
          tally.remove(name, of);
        }
      }
      const told = tally.largest();
      const sum = (key: 'queued' | 'claimed'): number => told.reduce((total, one) => total + one[key], 0);
      expect([sum('queued'), sum('claimed')]).toEqual([
        jobs.filter(([, of]) => of === 'queued').length,
        jobs.filter(([, of]) => of === 'claimed').length,
      ]);
      expect(told.length).toBeLessThanOrEqual(21);
      for (const one of told.slice(0, 20))
        if (one.type !== 'other') expect(one.queued + one.claimed).toBe(jobs.filter(([name]) => name === one.type).length);
    }),
  );
});

it('does not keep types that have no jobs, beyond a few', () => {
  const tally = new TypeTally();
  for (let index = 0; index < 10_000; index += 1) {
    tally.add(`t${index}`, 'queued');
    tally.remove(`t${index}`, 'queued');
  }
  tally.add('t5', 'claimed');
  expect(tally.largest()[0]).toEqual({ type: 't5', queued: 0, claimed: 1 });
  expect(tally.size).toBeLessThanOrEqual(257);
  tally.clear();
  expect(tally.largest()).toEqual([]);
});
