import { describe, expect, it } from 'vitest';
import { CallTable, createDevView } from './dev-view.ts';
import type { DevEvent } from './dev-view.ts';

const HASH = `0x${'ab'.repeat(32)}`;
const name = { serviceId: 3n, callId: 7n, jobId: 0n, job: 'times' } as const;
const READY: DevEvent = {
  event: 'ready',
  rpcUrl: 'http://127.0.0.1:8545',
  chainId: 31337,
  contract: `0x${'c0'.repeat(20)}`,
  serviceId: 3n,
  handlerUrl: 'http://127.0.0.1:9000',
  submit: ['npx bpr jobs submit 0'],
};
const STORY: readonly DevEvent[] = [
  { event: 'seen', ...name, blockNumber: 9n, arguments: '12' },
  { event: 'attempt', seq: 1, ...name, executor: 'handler', attempt: 1, arguments: '12' },
  { event: 'executed', seq: 1, ...name, executor: 'handler', attempt: 1, durationMs: 4.25, output: Uint8Array.of(24), result: '24' },
  { event: 'submitted', hash: HASH, nonce: 0, calls: [1] },
  { event: 'mined', hash: HASH, nonce: 0, calls: [1], success: true, blockNumber: 10n },
];

/** A terminal: what its screen shows after everything that was written. */
class Terminal {
  readonly isTTY = true;
  rows = 20;
  written = '';
  #lines: string[] = [''];
  columns: number;

  constructor(columns = 120) {
    this.columns = columns;
  }

  get screen(): string {
    return this.#lines.join('\n');
  }

  write(text: string): void {
    this.written += text;
    for (const part of text.split(/(\x1b\[\d*[A-Za-z]|\n)/)) {
      const up = /^\x1b\[(\d+)A$/.exec(part)?.[1];
      if (up !== undefined) this.#lines.length -= Number(up);
      else if (part === '\x1b[2J') this.#lines = [''];
      else if (part === '\n') this.#lines.push('');
      else if (part === '\x1b[J') this.#lines[this.#lines.length - 1] = '';
      else if (!part.startsWith('\x1b')) this.#lines[this.#lines.length - 1] += part;
    }
  }
}

const open = (terminal: Terminal) =>
  createDevView({ stdout: terminal, stderr: terminal, env: { NO_COLOR: '1' }, cwd: '/' }, { entry: 'jobs.ts', json: false });

it.each([true, false])('what callers wrote does not steer a terminal (%s)', (isTTY) => {
  const terminal = Object.assign(new Terminal(), { isTTY });
  const view = open(terminal);
  for (const event of STORY.slice(0, 2)) view.show(event);
  view.show({ event: 'failed', seq: 1, ...name, code: 'JOB_FAILED', message: 'no symbol \u001b[2J\u0007\nat all' });
  view.show({ event: 'stopped' });
  view.close();
  expect(terminal.written).toContain(isTTY ? String.raw`no symbol \u001b[2J\u0007\nat all` : 'no symbol \\u001b[2J\\u0007\nat all');
  expect(terminal.written).not.toMatch(/\x1b\[2J|\x07/);
});

describe('the table of calls', () => {
  it.each([
    [1, 'seen', ''],
    [2, 'executing', ''],
    [3, 'executed', ''],
    [4, 'submitted', HASH],
    [5, 'mined', HASH],
  ])('after %i events the call is %s', (count, state, hash) => {
    const table = new CallTable();
    for (const event of STORY.slice(0, count)) table.take(event, 0);
    expect(table.rows()).toMatchObject([{ name: '3/7', job: 'times', arguments: '12', state, hash }]);
  });

  it('shows why a call failed, and forgets it when the call is tried again', () => {
    const table = new CallTable();
    for (const event of STORY.slice(0, 2)) table.take(event, 100);
    table.take({ event: 'failed', seq: 1, ...name, code: 'JOB_FAILED', message: 'job times failed on call 1:0xc0:3:7: no' }, 130);
    expect(table.rows()).toMatchObject([{ state: 'failed', result: 'JOB_FAILED: no', durationMs: 30 }]);
    for (const event of STORY.slice(1, 2)) table.take(event, 200);
    expect(table.rows()).toMatchObject([{ state: 'executing', result: '', durationMs: undefined }]);
  });

  it('keeps the last calls only', () => {
    const table = new CallTable();
    for (let callId = 0n; callId < 600n; callId += 1n) table.take({ event: 'seen', ...name, callId, blockNumber: 1n, arguments: '' }, 0);
    expect([table.rows().length, table.rows()[0]?.name]).toEqual([500, '3/100']);
  });
});

describe('on a terminal', () => {
  it('redraws in place: one header, one row for a call, the last state', () => {
    const terminal = new Terminal();
    const view = open(terminal);
    view.show(READY);
    for (const event of STORY) {
      view.show(event);
      view.print('');
    }
    view.show({ event: 'reload', ms: 120, file: 'jobs.ts', handlerUrl: 'http://127.0.0.1:9001' });
    view.close();
    expect(terminal.screen).toMatch(/^npx bpr jobs submit 0\nbpr dev {2}jobs\.ts {3}reloaded in 120 ms\n/);
    expect(terminal.screen).toContain('chain    http://127.0.0.1:8545 (31337)\n');
    expect(terminal.screen).toContain('service 3\nhandler  http://127.0.0.1:9001\n');
    expect(terminal.screen).toMatch(/^3\/7 +times +12 +handler +mined +4\.3 ms +0xababababab +24$/m);
    expect(terminal.screen.match(/^CALL /gm)).toHaveLength(1);
    expect(terminal.screen.match(/^3\/7 /gm)).toHaveLength(1);
  });

  it('keeps what the jobs print, above the table', () => {
    const terminal = new Terminal();
    const view = open(terminal);
    view.show(READY);
    view.print('hello\n');
    view.print('again');
    view.close();
    expect(terminal.screen).toMatch(/^npx bpr jobs submit 0\nhello\nagain\nbpr dev /);
  });

  it('shows a version that does not load until one does', () => {
    const terminal = new Terminal();
    const view = open(terminal);
    view.show(READY);
    view.show({ event: 'reload-failed', file: 'jobs.ts', code: 'CONFIG_INVALID', message: 'it does not compile', isServing: true });
    view.print('');
    expect(terminal.screen).toContain('CONFIG_INVALID: it does not compile\nThe version before keeps serving.\n');
    view.show({ event: 'reload', ms: 99, file: 'jobs.ts', handlerUrl: null });
    view.close();
    expect(terminal.screen).not.toContain('CONFIG_INVALID');
  });

  it('draws no line wider and no more rows than the terminal has', () => {
    const terminal = new Terminal(40);
    terminal.rows = 14;
    const view = open(terminal);
    view.show(READY);
    for (let callId = 0n; callId < 30n; callId += 1n)
      view.show({ event: 'seen', ...name, callId, blockNumber: 1n, arguments: '"a long text that has to be cut somewhere"' });
    view.close();
    const lines = terminal.screen.split('\n').slice(1, -1);
    expect(Math.max(...lines.map((line) => line.length))).toBeLessThan(40);
    expect(lines.length).toBeLessThan(14);
    expect(terminal.screen).toContain('3/29');
    expect(terminal.screen).not.toContain('3/0 ');
  });
});

it('writes one JSON document for each event when it is asked to', () => {
  let [stdout, stderr] = ['', ''];
  const io = {
    stdout: { isTTY: true, write: (text: string) => (stdout += text) },
    stderr: { write: (text: string) => (stderr += text) },
    env: {},
    cwd: '/',
  };
  const view = createDevView(io, { entry: 'jobs.ts', json: true });
  for (const event of STORY) view.show(event);
  view.print('hello\n');
  view.close();
  expect(
    stdout
      .trimEnd()
      .split('\n')
      .map((line) => (JSON.parse(line) as { event: string }).event),
  ).toEqual(STORY.map(({ event }) => event));
  expect(JSON.parse(stdout.split('\n')[2] ?? '')).toMatchObject({ serviceId: '3', output: '0x18' });
  expect(stderr).toBe('hello\n');
});
