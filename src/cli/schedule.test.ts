import { describe, expect, test } from 'vitest';
import { main } from './main.ts';

async function bpr(...args: readonly string[]): Promise<{ readonly code: number; readonly out: string; readonly err: string }> {
  let [out, err] = ['', ''];
  const stdout = { write: (text: string) => (out += text) };
  const stderr = { write: (text: string) => (err += text) };
  const code = await main(args, { stdout, stderr, env: {}, cwd: '/' });
  return { code, out, err };
}

describe('bpr schedule', () => {
  test('tells when it fires and how each platform says it, right through a change of the clock', async () => {
    const { code, out } = await bpr('schedule', 'Mon-Fri 09:00 Europe/Berlin', '--from', '2026-03-27T00:00:00Z', '--next', '2', '--json');
    const { firings, platforms } = JSON.parse(out) as {
      firings: string[];
      platforms: { target: string; expressions: string[]; losses: object[] }[];
    };
    expect([code, firings]).toEqual([0, ['2026-03-27T08:00:00.000Z', '2026-03-30T07:00:00.000Z']]);
    expect(platforms).toHaveLength(8);
    expect(platforms.find(({ target }) => target === 'eventbridge-scheduler')).toMatchObject({
      expressions: ['cron(00 09 ? * MON-FRI *)'],
      losses: [],
    });
    expect(platforms.find(({ target }) => target === 'cloudflare')?.losses).toHaveLength(1);
  });

  test('with --strict what a platform cannot keep is an error', async () => {
    expect(await bpr('schedule', '09:00 Europe/Berlin', '--target', 'cloudflare', '--strict')).toMatchObject({
      code: 1,
      err: expect.stringContaining('SCHEDULE_LOSSY') as string,
    });
  });

  test('what cannot be read is told with its place', async () => {
    expect(await bpr('schedule', 'Mon 25:00')).toMatchObject({ code: 1, err: expect.stringContaining('position 4') as string });
    expect(await bpr('schedule', '{')).toMatchObject({ code: 1, err: expect.stringContaining('SCHEDULE_INVALID') as string });
    expect((await bpr('schedule', 'Mon', '--target', 'nowhere')).code).toBe(2);
  });
});
