/** A Prometheus that scrapes whoever tells metrics: it asks for OpenMetrics, and parses it strictly. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { expect, onTestFinished } from 'vitest';
import { stringify } from 'yaml';
import { settlementMetrics } from '../../src/chain/settlement-metrics.ts';
import { systemClock } from '../../src/clock.ts';
import { ControlPlane } from '../../src/control/control.ts';
import { EmbeddedQueue } from '../../src/queue/embedded.ts';
import { runnerMetrics } from '../../src/runner/metrics.ts';
import { FunctionMetrics, RuntimeGauges } from '../../src/runtime/runtime-metrics.ts';
import { createMetrics } from '../../src/telemetry/prometheus.ts';
import type { PrometheusMetrics } from '../../src/telemetry/prometheus.ts';
import { startTelemetryServer } from '../../src/telemetry/server.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import { usageMetrics } from '../../src/worker/usage.ts';
import { WorkerMetrics } from '../../src/worker/worker-metrics.ts';
import { requirePeer, runs } from '../require.ts';
import { startGateway, until } from '../support/gateway.ts';
import { temporaryFolder } from '../support/temporary-folders.ts';

const OPENMETRICS = 'application/openmetrics-text; version=1.0.0; charset=utf-8';
/** Of the same package as promtool. */
const testPrometheus = requirePeer('promtool', () => runs('prometheus', '--version'));

interface Target {
  readonly url: string;
  readonly token?: string;
}

/** All that runner, worker and engines count, with values that need care. */
function allMetrics(): PrometheusMetrics {
  const metrics = createMetrics();
  metrics.counter({ name: 'odd_total', help: 'A "quoted" \\ help\nof two lines.', labels: { odd: 'a"b\\c\nd} 5 # {le="5"' } }).add(2);
  metrics.gauge({ name: 'endless', help: 'Without end.' }).set(Infinity);
  settlementMetrics(metrics);
  runnerMetrics(metrics, 4, systemClock);
  new WorkerMetrics(metrics, 4).ended('completed', { running: 0, durationMs: 5_000 });
  usageMetrics(metrics);
  new FunctionMetrics(metrics, 'square').ended('OK', undefined);
  expect(new RuntimeGauges(metrics)).toBeInstanceOf(RuntimeGauges);
  return metrics;
}

/** As runner and workers serve them, as gateways and engines do, and as a control plane does. */
async function targets(): Promise<Readonly<Record<string, Target>>> {
  const metrics = allMetrics();
  const queue = EmbeddedQueue.open({ folder: ':memory:', telemetry: { ...silentTelemetry, metrics } });
  onTestFinished(() => queue.close());
  const fine = { ok: true, checks: {} };
  const server = await startTelemetryServer({ metrics: () => metrics.expose(), health: () => fine, ready: () => fine });
  onTestFinished(() => server.close());
  const { url } = await startGateway({ metrics: () => metrics.expose() });
  const folder = temporaryFolder('scrape');
  const own = createMetrics();
  const control = new ControlPlane({ folder, telemetry: { ...silentTelemetry, metrics: own }, metrics: () => own.expose() });
  onTestFinished(() => control.close(0));
  const controlUrl = await control.listen({ port: 0 });
  const token = readFileSync(join(folder, 'metrics.token'), 'utf8').trim();
  return { telemetry: server, gateway: { url }, control: { url: controlUrl, token } };
}

/** Asks the interface of a Prometheus that scrapes them. */
async function prometheusOf(scraped: Readonly<Record<string, Target>>): Promise<(path: string) => Promise<unknown>> {
  const folder = temporaryFolder('prometheus');
  const jobs = Object.entries(scraped).map(([name, { url, token }]) => ({
    job_name: name,
    static_configs: [{ targets: [url.replace('http://', '')] }],
    ...(token !== undefined && { authorization: { credentials: token } }),
  }));
  const file = join(folder, 'prometheus.yml');
  writeFileSync(file, stringify({ global: { scrape_interval: '1s', scrape_timeout: '1s' }, scrape_configs: jobs }));
  const args = [`--config.file=${file}`, `--storage.tsdb.path=${join(folder, 'data')}`, '--web.listen-address=127.0.0.1:0'];
  const child = spawn('prometheus', args, { stdio: ['ignore', 'ignore', 'pipe'] });
  const ended = once(child, 'close');
  onTestFinished(async () => {
    child.kill('SIGKILL');
    await ended;
  });
  const lines: string[] = [];
  let port: string | undefined;
  for await (const line of createInterface({ input: child.stderr })) {
    lines.push(line);
    port ??= /msg="Listening on" address=127\.0\.0\.1:(\d+)/.exec(line)?.[1];
    // Before that it answers 503.
    if (port === undefined || !line.includes('Server is ready to receive web requests')) continue;
    child.stderr.resume();
    return async (path) => ((await (await fetch(`http://127.0.0.1:${port}/api/v1/${path}`)).json()) as { data: unknown }).data;
  }
  throw new Error(`prometheus ended: ${lines.join('\n')}`);
}

interface TargetState {
  readonly health: 'up' | 'down' | 'unknown';
  readonly lastError: string;
  readonly labels: { readonly job: string };
}

testPrometheus(
  'every /metrics is scraped as OpenMetrics, and answers others in the format of Prometheus',
  async () => {
    const scraped = await targets();
    const ask = await prometheusOf(scraped);
    let states: readonly TargetState[] = [];
    // A scrape that is too slow on a busy machine is followed by others; what cannot be parsed stays so.
    await until(async () => {
      states = ((await ask('targets')) as { readonly activeTargets: readonly TargetState[] }).activeTargets;
      return states.length > 0 && states.every(({ health, lastError }) => health === 'up' || /parse|invalid|expected/.test(lastError));
    });
    expect(states.map(({ labels, health, lastError }) => [labels.job, health, lastError])).toEqual(
      Object.keys(scraped)
        .toSorted()
        .map((name) => [name, 'up', '']),
    );
    // Only in OpenMetrics the family of a counter has no _total.
    const families = (await ask('targets/metadata?metric=blueprint_invalid_samples')) as readonly { readonly type: string }[];
    expect(families.map(({ type }) => type)).toEqual(['counter', 'counter', 'counter']);
    for (const job of ['gateway', 'telemetry']) {
      const { result } = (await ask(`query?query=odd_total{job="${job}"}`)) as { readonly result: readonly object[] };
      expect(result).toMatchObject([{ metric: { odd: 'a"b\\c\nd} 5 # {le="5"' }, value: [expect.any(Number), '2'] }]);
    }
    for (const { url, token } of Object.values(scraped)) {
      const headers = { ...(token !== undefined && { authorization: `Bearer ${token}` }) };
      const answers = await Promise.all([
        fetch(`${url}/metrics`, { headers }),
        fetch(`${url}/metrics`, { headers: { ...headers, accept: 'application/openmetrics-text' } }),
      ]);
      expect(answers.map((answer) => answer.headers.get('content-type'))).toEqual([
        'text/plain; version=0.0.4; charset=utf-8',
        OPENMETRICS,
      ]);
      const [text = '', open = ''] = await Promise.all(answers.map((answer) => answer.text()));
      expect([text.includes('# EOF'), open.endsWith('\n# EOF\n')]).toEqual([false, true]);
    }
  },
  60_000,
);
