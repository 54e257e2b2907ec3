import { describe, expect, test } from 'vitest';
import type { FunctionConfig, FunctionPackage } from '../executor/deployer.ts';
import { calendar } from '../schedule/schedule.ts';
import { ROOT_FILES } from './package-platform.ts';
import { codeForPlugin, withScheduleEvents } from './platform-code.ts';
import { jsonFile, packFiles, sha256Of, textFile, unpackFiles } from './zip.ts';

async function packed(jobs: readonly { id: string; name: string; params: string; raw: boolean }[] | undefined): Promise<FunctionPackage> {
  const zip = await packFiles({ ...ROOT_FILES, 'handler.mjs': textFile(''), ...(jobs && { 'handler.json': jsonFile({ jobs }) }) });
  return { zip, sha256: sha256Of(zip) };
}
const tick = { id: '3', name: 'tick', params: '', raw: false };
const square = { id: '0', name: 'square', params: 'uint64 x', raw: false };
const SCHEDULED: FunctionConfig = {
  schedules: [
    { name: 'a', schedule: calendar('09:00') },
    { name: 'b', schedule: calendar('10:00'), event: { job_id: 0, args: [1] } },
  ],
};

describe('the event of a schedule', () => {
  test('is a call of the one job that needs no input; what was said stays', async () => {
    const { schedules } = await withScheduleEvents(SCHEDULED, await packed([square, tick]));
    expect(schedules?.map(({ event }) => event)).toEqual([
      { job_id: 3, args: [] },
      { job_id: 0, args: [1] },
    ]);
  });

  test.each([
    ['every job needs input', [square]],
    ['several jobs need no input', [tick, { ...tick, id: '4' }]],
    ['every job needs input', [{ ...tick, raw: true }]],
  ])('has to be said when %s', async (why, jobs) => {
    await expect(withScheduleEvents(SCHEDULED, await packed(jobs))).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: expect.stringContaining(why) as string,
    });
  });

  test('is nobody’s business in a package of somebody else', async () => {
    expect(await withScheduleEvents(SCHEDULED, await packed(undefined))).toBe(SCHEDULED);
  });
});

describe('the package for a platform', () => {
  test('has what the platform looks for; a package of somebody else stays as it is', async () => {
    const code = await packed([tick]);
    expect(Object.keys(await unpackFiles((await codeForPlugin('digitalocean', code, process.cwd())).zip))).toContain('main.cjs');
    expect(Object.keys(await unpackFiles((await codeForPlugin('azure', code, process.cwd())).zip))).toContain(
      'node_modules/@azure/functions/package.json',
    );
    expect(await codeForPlugin('aws-lambda', code, process.cwd())).toBe(code);
    const foreign = await packed(undefined);
    expect(await codeForPlugin('gcp', foreign, process.cwd())).toBe(foreign);
  });
});
