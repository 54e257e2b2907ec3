import { describe, expect, test } from 'vitest';
import { EventLog } from './event-log.ts';

describe('a log of news', () => {
  const texts = (log: EventLog<string>, topic: string): string[] => log.read(topic).map(({ item }) => item);

  test('keeps the newest of each topic', () => {
    const log = new EventLog<string>({ epoch: 'e', entriesMax: 100, topicsMax: 2 });
    for (let count = 1; count <= 1_000; count += 1) log.append('a', () => String(count));
    log.append('b', () => 'other');
    expect(texts(log, 'a')).toHaveLength(100);
    expect(texts(log, 'a').at(-1)).toBe('1000');
    expect(texts(log, 'b')).toEqual(['other']);
  });

  test('keeps fewer when they hold much', () => {
    const log = new EventLog<string>({ epoch: 'e', entriesMax: 1_000, topicsMax: 2, weightOf: ({ length }) => length, weightMax: 10_000 });
    for (let count = 1; count <= 500; count += 1) log.append('a', () => String(count).padEnd(1_000));
    const kept = texts(log, 'a');
    expect(kept.at(-1)?.trimEnd()).toBe('500');
    expect(kept.length).toBeGreaterThanOrEqual(10);
    expect(kept.length).toBeLessThan(13);
    for (let count = 1; count <= 100; count += 1) log.append('a', () => 'x');
    expect(texts(log, 'a').filter((text) => text === 'x')).toHaveLength(100);
  });

  test('goes on after the last that a reader saw', () => {
    const log = new EventLog<string>({ epoch: 'e', entriesMax: 100, topicsMax: 2 });
    log.append('a', () => '1');
    const since = log.lastId;
    log.append('b', () => '2');
    log.append('a', () => '3');
    expect(log.read('a', { since }).map(({ item }) => item)).toEqual(['3']);
    expect(log.read('a', { since: 'another-1' }).map(({ item }) => item)).toEqual(['1', '3']);
  });

  test('tells so of a topic that was given up for others', () => {
    const log = new EventLog<string>({ epoch: 'e', entriesMax: 4, topicsMax: 2 });
    const since = log.lastId;
    for (const topic of ['a', 'b', 'c']) log.append(topic, () => topic);
    expect(log.resumeAt('a', since)).toEqual({ since: 'e-1', hasMissed: true });
    log.append('a', () => 'again');
    expect(log.resumeAt('a', since)).toMatchObject({ hasMissed: true });
    expect(log.resumeAt('c', log.lastId)).toEqual({ since: log.lastId, hasMissed: false });
  });

  test('tells who comes back late that something is gone', () => {
    const log = new EventLog<string>({ epoch: 'e', entriesMax: 4, topicsMax: 2 });
    for (let count = 1; count <= 4; count += 1) log.append('a', () => String(count));
    expect(log.resumeAt('a', 'e-0')).toEqual({ since: 'e-0', hasMissed: false });
    for (let count = 5; count <= 6; count += 1) log.append('a', () => String(count));
    const late = log.resumeAt('a', 'e-1');
    expect([late.hasMissed, log.read('a', { since: late.since }).map(({ item }) => item)]).toEqual([true, ['3', '4', '5', '6']]);
    expect(log.resumeAt('a', 'e-2')).toEqual({ since: 'e-2', hasMissed: false });
    expect(log.resumeAt('b', 'another-7')).toEqual({ since: 'e-0', hasMissed: true });
  });

  test('keeps for listeners what one of them can miss, and nothing else', () => {
    const log = new EventLog<string>({ epoch: 'e', entriesMax: 4, topicsMax: 2, forListeners: true });
    const write = (from: number, to: number): void => {
      for (let count = from; count <= to; count += 1) log.append('a', () => String(count));
    };
    // Who listened to an earlier process may come back for all of this one.
    write(1, 4);
    expect(log.resumeAt('a', 'another-9')).toEqual({ since: 'e-0', hasMissed: true });
    expect(texts(log, 'a')).toEqual(['1', '2', '3', '4']);
    write(5, 7);
    expect(texts(log, 'a')).toEqual([]);
    expect(log.resumeAt('a', 'e-1')).toEqual({ since: 'e-7', hasMissed: true });
    const seen: string[] = [];
    const stop = log.listen(({ item }) => seen.push(item));
    expect(log.resumeAt('a', log.lastId)).toEqual({ since: 'e-7', hasMissed: false });
    write(8, 9);
    stop();
    write(10, 13);
    expect([seen, texts(log, 'a')]).toEqual([
      ['8', '9'],
      ['10', '11', '12', '13'],
    ]);
    expect(log.resumeAt('a', 'e-9')).toEqual({ since: 'e-9', hasMissed: false });
    write(14, 18);
    expect(texts(log, 'a')).toEqual([]);
    expect(log.resumeAt('a', 'e-9')).toEqual({ since: 'e-18', hasMissed: true });
    log.listen(({ item }) => seen.push(item));
    write(19, 19);
    expect([seen.at(-1), texts(log, 'a')]).toEqual(['19', ['19']]);
  });

  test('forgets the topic that was used least lately', () => {
    const log = new EventLog<string>({ epoch: 'e', entriesMax: 100, topicsMax: 2 });
    for (const topic of ['a', 'b', 'a', 'c']) log.append(topic, () => topic);
    expect(['a', 'b', 'c'].map((topic) => texts(log, topic).length)).toEqual([2, 0, 1]);
  });
});
