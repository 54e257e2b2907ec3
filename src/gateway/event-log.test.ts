import { describe, expect, test } from 'vitest';
import { EventLog } from './event-log.ts';

describe('a log of news', () => {
  const texts = (log: EventLog<string>, topic: string): string[] => log.read(topic).map(({ item }) => item);

  test('keeps the newest of each topic', () => {
    const log = new EventLog<string>({ epoch: 'e', entriesMax: 100, topicsMax: 2 });
    for (let count = 1; count <= 1_000; count += 1) log.append('a', String(count));
    log.append('b', 'other');
    expect(texts(log, 'a')).toHaveLength(100);
    expect(texts(log, 'a').at(-1)).toBe('1000');
    expect(texts(log, 'b')).toEqual(['other']);
  });

  test('keeps fewer when they hold much', () => {
    const log = new EventLog<string>({ epoch: 'e', entriesMax: 1_000, topicsMax: 2, weightOf: ({ length }) => length, weightMax: 10_000 });
    for (let count = 1; count <= 500; count += 1) log.append('a', String(count).padEnd(1_000));
    const kept = texts(log, 'a');
    expect(kept.at(-1)?.trimEnd()).toBe('500');
    expect(kept.length).toBeGreaterThanOrEqual(10);
    expect(kept.length).toBeLessThan(13);
    for (let count = 1; count <= 100; count += 1) log.append('a', 'x');
    expect(texts(log, 'a').filter((text) => text === 'x')).toHaveLength(100);
  });

  test('goes on after the last that a reader saw', () => {
    const log = new EventLog<string>({ epoch: 'e', entriesMax: 100, topicsMax: 2 });
    log.append('a', '1');
    const since = log.lastId;
    log.append('b', '2');
    log.append('a', '3');
    expect(log.read('a', { since }).map(({ item }) => item)).toEqual(['3']);
    expect(log.read('a', { since: 'another-1' }).map(({ item }) => item)).toEqual(['1', '3']);
  });

  test('forgets the topic that was used least lately', () => {
    const log = new EventLog<string>({ epoch: 'e', entriesMax: 100, topicsMax: 2 });
    for (const topic of ['a', 'b', 'a', 'c']) log.append(topic, topic);
    expect(['a', 'b', 'c'].map((topic) => texts(log, topic).length)).toEqual([2, 0, 1]);
  });
});
