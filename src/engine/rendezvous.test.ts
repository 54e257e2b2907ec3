import { expect, it } from 'vitest';
import { homeFirst } from './rendezvous.ts';

const engines = (count: number) => Array.from({ length: count }, (_, index) => ({ url: `http://engine-${index}:27288` }));
const keys = Array.from({ length: 2_000 }, (_, index) => `flow-${index}`);
const homes = (count: number): string[] => keys.map((key) => homeFirst(key, engines(count))[0]?.url ?? '');

it('divides keys evenly, whatever the order in which engines are named', () => {
  const found = homes(5);
  for (const { url } of engines(5)) {
    const share = found.filter((home) => home === url).length / keys.length;
    expect(share).toBeGreaterThan(0.16);
    expect(share).toBeLessThan(0.24);
  }
  expect(keys.map((key) => homeFirst(key, engines(5).toReversed())[0]?.url)).toEqual(found);
});

it('moves only the keys of the engine that comes or goes', () => {
  const [five, six] = [homes(5), homes(6)];
  const moved = six.filter((home, index) => home !== five[index]);
  expect(new Set(moved)).toEqual(new Set(['http://engine-5:27288']));
  expect(moved.length / keys.length).toBeGreaterThan(0.12);
  expect(moved.length / keys.length).toBeLessThan(0.21);
  // The second of a key is its home while the first is away.
  const without = engines(6).filter(({ url }) => url !== 'http://engine-2:27288');
  for (const key of keys) {
    const [first, second] = homeFirst(key, engines(6));
    const expected = first?.url === 'http://engine-2:27288' ? second : first;
    expect(homeFirst(key, without)[0]).toEqual(expected);
  }
});
