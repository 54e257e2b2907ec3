import { spawnSync } from 'node:child_process';
import { expect } from 'vitest';
import { createMetrics } from '../../src/telemetry/prometheus.ts';
import { requirePeer, runs } from '../require.ts';

const testPromtool = requirePeer('promtool', () => runs('promtool', '--version'));

function check(text: string): { readonly status: number | null; readonly output: string } {
  const { status, stdout, stderr } = spawnSync('promtool', ['check', 'metrics'], { input: text, encoding: 'utf8', timeout: 20_000 });
  return { status, output: `${stdout}${stderr}` };
}

testPromtool('promtool accepts everything that is exposed, and would not accept a metric without help', async () => {
  const metrics = createMetrics();
  metrics.counter({ name: 'blueprint_job_executions_total', help: 'Executed jobs.', labels: { job_id: '1', odd: 'a"b\\c\nd' } }).add();
  metrics.gauge({ name: 'blueprint_jobs_in_flight', help: 'Jobs\nthat run \\ now.' }).set(-Infinity);
  const histogram = metrics.histogram({ name: 'blueprint_job_execution_time_seconds', help: 'Time of a job.', labels: { job_id: '1' } });
  for (const value of [0.0001, 0.3, 5000]) histogram.record(value);
  const text = await metrics.expose();
  expect(check(text)).toEqual({ status: 0, output: '' });
  expect(check('broken 1\n').status).not.toBe(0);
});
