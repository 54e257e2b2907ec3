/** What watches a fleet: a configuration of Prometheus, its alert rules, a dashboard of Grafana; as files. */

import { stringify } from 'yaml';
import { SCRAPE_JOBS, alertRules } from './alerts.ts';
import { dashboard } from './dashboard.ts';

export interface OperationsOptions {
  /** Folder of a control plane: its `metrics.token` is what Prometheus shows. */
  readonly controlFolder: string;
}

/** Texts by file name. */
export function operationsFiles({ controlFolder }: OperationsOptions): Readonly<Record<string, string>> {
  const yaml = (document: unknown): string => stringify(document, { lineWidth: 0 });
  return {
    'prometheus.yml': yaml(scrapeConfiguration(controlFolder)),
    'alerts.yml': yaml(alertRules()),
    'dashboard.json': `${JSON.stringify(dashboard(), undefined, 2)}\n`,
  };
}

/** Where things listen by default; to be adapted to where they are. */
function scrapeConfiguration(controlFolder: string) {
  const at = (target: string) => [{ targets: [target] }];
  const token = { credentials_file: `${controlFolder}/metrics.token` };
  return {
    global: { scrape_interval: '15s', evaluation_interval: '15s' },
    rule_files: ['alerts.yml'],
    scrape_configs: [
      { job_name: SCRAPE_JOBS.control, authorization: token, static_configs: at('127.0.0.1:3020') },
      { job_name: SCRAPE_JOBS.worker, static_configs: at('127.0.0.1:9101') },
      { job_name: SCRAPE_JOBS.engine, static_configs: at('127.0.0.1:27288') },
      { job_name: SCRAPE_JOBS.runner, static_configs: at('127.0.0.1:9100') },
    ],
  };
}
