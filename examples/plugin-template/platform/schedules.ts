/** Schedules in the words of the platform, by the grammar that all of blueprint-runner shares. */

import { translate } from '../../../src/plugin.ts';
import type { DeployOptions, FunctionSchedule, Step } from '../../../src/plugin.ts';
import type { AcmeClient, PlatformSchedule } from './client.ts';

/**
 * The dialect of cron that the platform understands: `crontab` is that of Unix. Others are `eventbridge-rule`, `eventbridge-scheduler`,
 * `gcp`, `azure`, `cloudflare`, `digitalocean` and `kubernetes`; take the one that your platform is closest to.
 */
const DIALECT = 'crontab';

interface Schedules {
  readonly present: readonly PlatformSchedule[];
  /** Undefined: nothing is said about schedules, they stay. */
  readonly wanted: readonly FunctionSchedule[] | undefined;
}

/** What changes, and what the platform cannot keep. Throws `SCHEDULE_INVALID`; with `strict` `SCHEDULE_LOSSY`. */
export function scheduleSteps(
  name: string,
  client: AcmeClient,
  { present, wanted, options }: Schedules & { readonly options: DeployOptions },
): { readonly steps: readonly Step[]; readonly warnings: readonly string[] } {
  const steps: Step[] = [];
  const warnings: string[] = [];
  for (const source of wanted ?? []) {
    const { losses, ...translation } = translate(DIALECT, source.schedule, { strict: options.strict ?? false });
    warnings.push(...losses.map(({ message }) => `schedule ${source.name}: ${message}`));
    const is = present.find((each) => each.name === source.name);
    if (JSON.stringify(is?.source) === JSON.stringify(source)) continue;
    const put: PlatformSchedule = { name: source.name, ...translation, event: source.event ?? {}, source };
    steps.push({
      change: { action: is ? 'update' : 'create', resource: 'schedule', id: `${name}/${source.name}` },
      run: (signal) => client.putSchedule(name, put, signal),
    });
  }
  const orphans = wanted ? present.filter((each) => !wanted.some((one) => one.name === each.name)) : [];
  return { steps: [...steps, ...removalSteps(name, client, orphans)], warnings };
}

export function removalSteps(name: string, client: AcmeClient, schedules: readonly PlatformSchedule[]): Step[] {
  return schedules.map((each) => ({
    change: { action: 'delete', resource: 'schedule', id: `${name}/${each.name}` },
    run: (signal) => client.removeSchedule(name, each.name, signal),
  }));
}
