/** Alert rules and dashboard: what Prometheus says of them, and whether all that they ask for is told by somebody. */

import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { stringify } from 'yaml';
import { systemClock } from '../../src/clock.ts';
import { settlementMetrics } from '../../src/chain/settlement-metrics.ts';
import { main } from '../../src/cli/main.ts';
import { ControlPlane } from '../../src/control/control.ts';
import { typeMetricsText, workerMetricsText } from '../../src/control/metrics.ts';
import { ALERTS } from '../../src/operations/alerts.ts';
import { runnerMetrics } from '../../src/runner/metrics.ts';
import { FunctionMetrics, RuntimeGauges } from '../../src/runtime/runtime-metrics.ts';
import { createMetrics } from '../../src/telemetry/prometheus.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import { EngineMetrics } from '../../src/engine/engine-metrics.ts';
import { requirePeer, runs } from '../require.ts';
import { temporaryFolder } from '../support/temporary-folders.ts';

const testPromtool = requirePeer('promtool', () => runs('promtool', '--version'));

interface Panel {
  readonly type: string;
  readonly title: string;
  readonly targets?: readonly { readonly expr: string }[];
}

async function exported(): Promise<string> {
  const out = temporaryFolder('operations');
  const silent = { write: () => true };
  const io = { stdout: silent, stderr: silent, env: { BPR_DATA_DIR: temporaryFolder('data') }, cwd: out };
  expect(await main(['operations', 'export', '--out', out], io)).toBe(0);
  return out;
}

async function panels(): Promise<readonly Panel[]> {
  const document = JSON.parse(readFileSync(join(await exported(), 'dashboard.json'), 'utf8')) as { readonly panels: readonly Panel[] };
  return document.panels;
}

async function dashboardExpressions(): Promise<string[]> {
  const all = (await panels()).flatMap(({ targets = [] }) => targets.map(({ expr }) => expr));
  return all.map((expr) => expr.replaceAll('$__rate_interval', '5m').replaceAll('$instance', '.*'));
}

/** What is told by control plane, worker, engine and runner. */
async function toldMetrics(): Promise<ReadonlySet<string>> {
  const metrics = createMetrics();
  const control = new ControlPlane({
    folder: temporaryFolder('control'),
    telemetry: { ...silentTelemetry, metrics },
    metrics: () => metrics.expose(),
  });
  onTestFinished(() => control.close(0));
  const url = await control.listen({ port: 0 });
  await (await fetch(`${url}/healthz`)).text();
  settlementMetrics(metrics);
  for (const prefix of ['blueprint_runner_worker_engine', 'blueprint_control_engine'])
    new EngineMetrics(metrics, 'http://127.0.0.1:27288', prefix).up(true);
  runnerMetrics(metrics, 1, systemClock);
  new FunctionMetrics(metrics, 'square').ended('OK', undefined);
  expect(new RuntimeGauges(metrics)).toBeInstanceOf(RuntimeGauges);
  const report = {
    state: 'ready',
    concurrency: 4,
    running: 1,
    cpuSeconds: 1,
    memoryBytes: 1,
    memoryMaxBytes: 2,
    jobs: { completed: 1 },
    jobSeconds: { count: 1, sum: 1 },
    startSeconds: { count: 1, sum: 1 },
    stepSeconds: { ready: 1 },
  };
  const worker = { id: 'w', tickets: [], enrolledAt: 0, isPresent: true, leases: 0, report };
  const text = (await metrics.expose()) + workerMetricsText([worker]) + typeMetricsText([{ type: 'function', queued: 1, claimed: 0 }]);
  const names = new Set(['up']);
  for (const [, name = '', kind] of text.matchAll(/^# TYPE (\S+) (\S+)$/gm)) {
    const suffixes = kind === 'histogram' ? ['_bucket', '_sum', '_count'] : kind === 'summary' ? ['_sum', '_count'] : [''];
    for (const suffix of suffixes) names.add(name + suffix);
  }
  return names;
}

function namesIn(expressions: readonly string[]): string[] {
  return [...new Set(expressions.flatMap((expr) => expr.match(/\bblueprint_\w+|\bup\b/g) ?? []))];
}

function promtool(...args: string[]): string {
  const { status, stdout, stderr } = spawnSync('promtool', args, { encoding: 'utf8', timeout: 30_000 });
  return status === 0 ? 'ok' : `${status} ${stdout}${stderr}`;
}

/** Series that make the alert fire, and such that do not; one value a minute. */
const CASES: Readonly<
  Record<string, { readonly fires: Readonly<Record<string, string>>; readonly quiet: Readonly<Record<string, string>> }>
> = {
  BprControlPlaneDown: { fires: { 'up{job="bpr-control-plane"}': '0x60' }, quiet: { 'up{job="bpr-control-plane"}': '1x60' } },
  BprEngineDown: {
    fires: { 'up{job="bpr-engine"}': '1 0x60' },
    quiet: {
      'up{job="bpr-engine"}': '1x60',
      'up{job="other"}': '0x60',
      'blueprint_runner_worker_engine_up{engine="e"}': '1x60',
      'blueprint_control_engine_up{engine="e"}': '1x60',
    },
  },
  BprQueueOld: { fires: { blueprint_queue_oldest_seconds: '0+60x60' }, quiet: { blueprint_queue_oldest_seconds: '300x60' } },
  BprNoWorkers: {
    fires: {
      'blueprint_queue_jobs{instance="c",state="queued"}': '5x60',
      'blueprint_control_worker_concurrency{instance="other",worker="w"}': '4x60',
    },
    quiet: {
      'blueprint_queue_jobs{instance="c",state="queued"}': '5x60',
      'blueprint_control_worker_concurrency{instance="c",worker="w"}': '4x60',
    },
  },
  BprWorkersBusy: {
    fires: {
      'blueprint_queue_jobs{instance="c",state="queued"}': '5x60',
      'blueprint_control_worker_concurrency{instance="c",worker="w"}': '4x60',
      'blueprint_control_worker_running{instance="c",worker="w"}': '4x60',
    },
    quiet: {
      'blueprint_queue_jobs{instance="c",state="queued"}': '0x60',
      'blueprint_control_worker_concurrency{instance="c",worker="w"}': '4x60',
      'blueprint_control_worker_running{instance="c",worker="w"}': '4x60',
    },
  },
  BprDeadLettersGrow: {
    fires: { 'blueprint_queue_jobs{state="dead"}': '2x50 3x10' },
    quiet: { 'blueprint_queue_jobs{state="dead"}': '7x60', 'blueprint_queue_jobs{state="completed"}': '0+5x60' },
  },
  BprLeasesExpire: { fires: { blueprint_queue_leases_lost_total: '0+1x60' }, quiet: { blueprint_queue_leases_lost_total: '9x60' } },
  BprAttemptsFail: {
    fires: { blueprint_queue_failed_total: '0+3x60', blueprint_queue_claimed_total: '0+10x60' },
    quiet: { blueprint_queue_failed_total: '0+1x60', blueprint_queue_claimed_total: '0+10x60' },
  },
  BprWorkerMemoryHigh: {
    fires: {
      'blueprint_control_worker_memory_bytes{worker="w"}': '95x60',
      'blueprint_control_worker_memory_max_bytes{worker="w"}': '100x60',
    },
    quiet: {
      'blueprint_control_worker_memory_bytes{worker="w"}': '95x60',
      'blueprint_control_worker_memory_max_bytes{worker="w"}': '0x60',
      'blueprint_control_worker_memory_bytes{worker="v"}': '50x60',
      'blueprint_control_worker_memory_max_bytes{worker="v"}': '100x60',
    },
  },
  BprChainBehind: { fires: { blueprint_chain_head_lag_seconds: '600x60' }, quiet: { blueprint_chain_head_lag_seconds: '12x60' } },
  BprSettlementSlow: {
    fires: {
      'blueprint_settlement_mined_seconds_bucket{instance="r",le="60"}': '0x60',
      'blueprint_settlement_mined_seconds_bucket{instance="r",le="300"}': '0+1x60',
      'blueprint_settlement_mined_seconds_bucket{instance="r",le="+Inf"}': '0+1x60',
    },
    quiet: {
      'blueprint_settlement_mined_seconds_bucket{instance="r",le="60"}': '0+1x60',
      'blueprint_settlement_mined_seconds_bucket{instance="r",le="300"}': '0+1x60',
      'blueprint_settlement_mined_seconds_bucket{instance="r",le="+Inf"}': '0+1x60',
    },
  },
  BprSettlementStuck: {
    fires: {
      'blueprint_ledger_transactions_pending{instance="r"}': '2x60',
      'blueprint_settlement_transactions_total{instance="r",outcome="mined"}': '9x60',
    },
    quiet: {
      'blueprint_ledger_transactions_pending{instance="r"}': '2x60',
      'blueprint_settlement_transactions_total{instance="r",outcome="mined"}': '0+1x60',
    },
  },
};

/** A test document of promtool: after 55 minutes the alert fires, or does not. */
function ruleTest(name: string, series: Readonly<Record<string, string>>, fires: boolean): object {
  const input = Object.entries(series).map(([one, values]) => ({ series: one, values }));
  const expr = `count(ALERTS{alertname="${name}",alertstate="firing"})`;
  const expected = fires ? [{ labels: '{}', value: 1 }] : [];
  return { interval: '1m', input_series: input, promql_expr_test: [{ expr, eval_time: '55m', exp_samples: expected }] };
}

describe('alert rules and dashboard', () => {
  testPromtool('Prometheus takes the rules and the configuration', async () => {
    const folder = await exported();
    expect(promtool('check', 'rules', join(folder, 'alerts.yml'))).toBe('ok');
    expect(promtool('check', 'config', '--syntax-only', join(folder, 'prometheus.yml'))).toBe('ok');
    writeFileSync(join(folder, 'broken.yml'), readFileSync(join(folder, 'alerts.yml'), 'utf8').replace('> 300', '> > 300'));
    expect(promtool('check', 'rules', join(folder, 'broken.yml'))).toMatch(/parse error/);
  });

  testPromtool(
    'each alert fires when it should, and only then',
    async () => {
      const folder = await exported();
      expect(Object.keys(CASES).toSorted()).toEqual(ALERTS.map(({ name }) => name).toSorted());
      const tests = Object.entries(CASES).flatMap(([name, { fires, quiet }]) => [
        ruleTest(name, fires, true),
        ruleTest(name, quiet, false),
      ]);
      for (const caller of ['runner_worker', 'control'])
        tests.push(ruleTest('BprEngineDown', { [`blueprint_${caller}_engine_up{engine="e"}`]: '1 0x60' }, true));
      writeFileSync(join(folder, 'tests.yml'), stringify({ rule_files: ['alerts.yml'], evaluation_interval: '1m', tests }));
      expect(promtool('test', 'rules', join(folder, 'tests.yml'))).toBe('ok');
    },
    60_000,
  );

  testPromtool('Prometheus parses every expression of the dashboard', async () => {
    const expressions = await dashboardExpressions();
    expect(expressions.length).toBeGreaterThan(25);
    const rules = expressions.map((expr, index) => ({ record: `dashboard:expression_${index}`, expr }));
    const file = join(temporaryFolder('operations'), 'dashboard.yml');
    writeFileSync(file, stringify({ groups: [{ name: 'dashboard', rules }] }));
    expect(promtool('check', 'rules', file)).toBe('ok');
  });

  it('every metric that they name is told by somebody', async () => {
    const told = await toldMetrics();
    const asked = namesIn([...ALERTS.map(({ expr }) => expr), ...(await dashboardExpressions())]);
    expect(asked.length).toBeGreaterThan(20);
    expect(asked.filter((name) => !told.has(name))).toEqual([]);
  });

  it('no two panels lie on each other, and each has its own id', async () => {
    const all = (await panels()) as readonly (Panel & {
      readonly id: number;
      readonly gridPos: { x: number; y: number; w: number; h: number };
    })[];
    expect(new Set(all.map(({ id }) => id)).size).toBe(all.length);
    const cells = all.flatMap(({ gridPos: { x, y, w, h } }) =>
      Array.from({ length: w * h }, (_, index) => `${x + (index % w)}:${y + Math.floor(index / w)}`),
    );
    expect(new Set(cells).size).toBe(cells.length);
  });

  it('says which file it cannot write', async () => {
    const blocked = join(temporaryFolder('operations'), 'file');
    writeFileSync(blocked, '');
    let told = '';
    const stderr = { write: (text: string) => (told += text) };
    const io = { stdout: { write: () => true }, stderr, env: {}, cwd: '/' };
    expect(await main(['operations', 'export', '--out', blocked], io)).toBe(1);
    expect(told).toContain(`CONFIG_INVALID: ${blocked} cannot be written`);
  });
});
