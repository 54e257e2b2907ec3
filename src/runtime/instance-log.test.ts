import { describe, expect, test } from 'vitest';
import { InstanceLog, LogBook } from './instance-log.ts';
import type { LogLine } from './runtime.ts';

const bytes = (text: string): Buffer => Buffer.from(text);

describe('the output of an instance', () => {
  const logOf = (): { log: InstanceLog; lines: string[] } => {
    const lines: string[] = [];
    return { log: new InstanceLog((stream, text) => lines.push(`${stream} ${text}`)), lines };
  };

  test('becomes lines, however it is cut; the streams do not mix', () => {
    const { log, lines } = logOf();
    for (const byte of bytes('žluť\r\n\nkůň')) log.output('stdout', Uint8Array.of(byte));
    log.output('stderr', bytes('an error\n'));
    expect(lines).toEqual(['stdout žluť', 'stdout ', 'stderr an error']);
    log.end();
    log.end();
    expect(lines.slice(3)).toEqual(['stdout kůň']);
  });

  test('without line ends is cut into lines, and does not pile up', () => {
    const { log, lines } = logOf();
    for (let count = 0; count < 100; count += 1) log.output('stdout', Buffer.alloc(10_000, 'x'));
    log.end();
    expect(lines.reduce((sum, line) => sum + line.length - 'stdout '.length, 0)).toBe(1_000_000);
    expect(Math.max(...lines.map(({ length }) => length))).toBeLessThanOrEqual(16 * 1024 + 'stdout '.length);
  });

  test('has a tail of 4 KiB since a mark, whatever the sizes of the pieces', () => {
    for (const size of [1, 7, 100, 4_095, 4_096, 5_000]) {
      const { log } = logOf();
      let all = '';
      for (let count = 0; count < 300; count += 1) {
        const text = `${count}`.padStart(size, '.').slice(0, size);
        log.output('stdout', bytes(text));
        all += text;
      }
      const mark = log.mark;
      expect(log.since(mark)).toHaveLength(0);
      expect(Buffer.from(log.since(0)).toString()).toBe(all.slice(-4_096));
      log.output('stderr', bytes('after'));
      expect(Buffer.from(log.since(mark)).toString()).toBe('after');
    }
  });

  test('is copied: the backend may use its memory again', () => {
    const { log } = logOf();
    const memory = bytes('first');
    log.output('stdout', memory);
    memory.fill('x');
    expect(Buffer.from(log.since(0)).toString()).toBe('first');
  });
});

describe('the lines of functions', () => {
  const line = (text: string, overrides: Partial<LogLine> = {}): LogLine => ({
    at: 0,
    name: 'cook',
    version: '1',
    instanceId: 'i1',
    stream: 'stdout',
    text,
    ...overrides,
  });
  const texts = (lines: readonly LogLine[]): string[] => lines.map(({ text }) => text);

  test('the newest are kept, each function apart', () => {
    const book = new LogBook();
    for (let count = 0; count < 5_000; count += 1) book.write(line(String(count)));
    book.write(line('other', { name: 'wash' }));
    expect(book.read('cook')).toHaveLength(1_000);
    expect(texts(book.read('cook', { limit: 2 }))).toEqual(['4998', '4999']);
    expect([texts(book.read('wash')), book.read('nobody'), book.read('cook', { limit: 0 })]).toEqual([['other'], [], []]);
  });

  test('long ones are kept up to a size, so that few of them are', () => {
    const book = new LogBook();
    for (let count = 0; count < 1_000; count += 1) book.write(line(String(count).padEnd(16 * 1024)));
    const kept = book.read('cook');
    expect(kept.at(-1)?.text.trimEnd()).toBe('999');
    expect(kept.length).toBeGreaterThanOrEqual(64);
    expect(kept.length).toBeLessThan(128);
  });

  test('of very many functions those that were silent for longest are forgotten', () => {
    const book = new LogBook();
    for (let count = 0; count < 1_000; count += 1) book.write(line('a', { name: `f${count}` }));
    book.write(line('b', { name: 'f0' }));
    book.write(line('a', { name: 'another' }));
    expect(texts(book.read('f0'))).toEqual(['a', 'b']);
    expect([book.read('f1'), texts(book.read('f2')), texts(book.read('another'))]).toEqual([[], ['a'], ['a']]);
  });

  test('those of one instance', () => {
    const book = new LogBook();
    book.write(line('a'));
    book.write(line('b', { instanceId: 'i2' }));
    book.write(line('c'));
    expect(texts(book.read('cook', { instanceId: 'i1' }))).toEqual(['a', 'c']);
  });

  test('a listener hears every line until it is taken away', () => {
    const book = new LogBook();
    const heard: string[] = [];
    const stop = book.listen(({ text }) => heard.push(text));
    book.write(line('a'));
    stop();
    book.write(line('b'));
    expect(heard).toEqual(['a']);
  });
});
