/** The package of a handler as one platform takes it, and the calls of its schedules. Packages of others are left as they are. */

import { RunnerError } from '../errors.ts';
import type { FunctionConfig, FunctionPackage } from '../executor/deployer.ts';
import { readModules } from './dependencies.ts';
import { packageFor } from './package-platform.ts';
import type { PackagedJob } from './package.ts';
import { sha256Of, unpackFiles } from './zip.ts';

/** By the name of the plugin. */
const PLATFORM = { gcp: 'gcp', azure: 'azure', digitalocean: 'digitalocean' } as const;

/** Where a platform takes something else: an image of Lambda brings everything along. */
export const NO_PACKAGE: FunctionPackage = { zip: new Uint8Array(), sha256: sha256Of(new Uint8Array()) };

export const needsPackage = (plugin: string, { platform }: FunctionConfig): boolean =>
  plugin !== 'aws-lambda' || platform?.['image'] === undefined;

/** `from`: where packages that Azure does not install itself are looked for. Throws `PACKAGE_INVALID`, `PEER_MISSING`. */
export async function codeForPlugin(plugin: string, code: FunctionPackage, from: string): Promise<FunctionPackage> {
  const platform = plugin in PLATFORM ? PLATFORM[plugin as keyof typeof PLATFORM] : undefined; // as: it is one of its keys
  if (platform === undefined || !(await jobsOf(code))) return code;
  const modules = platform === 'azure' ? { modules: await readModules(['@azure/functions'], from) } : {};
  return packageFor(platform, code.zip, modules);
}

/**
 * A schedule without an event calls the one job of the package that needs no input. Throws `CONFIG_INVALID` when there is none, or more than
 * one: nobody can know what is meant.
 */
export async function withScheduleEvents(config: FunctionConfig, code: FunctionPackage): Promise<FunctionConfig> {
  if (!config.schedules?.some(({ event }) => event === undefined)) return config;
  const jobs = await jobsOf(code);
  if (!jobs) return config;
  const callable = jobs.filter(({ params, raw }) => params === '' && !raw);
  const [job] = callable;
  if (!job || callable.length > 1) {
    const names = jobs.map(({ id, name, params }) => `${id} ${name}(${params})`).join(', ');
    const why = job ? 'several jobs need no input' : 'every job needs input';
    throw new RunnerError(
      'CONFIG_INVALID',
      `a schedule has no event, and ${why} (${names}); give it one: --schedule-event NAME={"job_id":0,"args":[...]}`,
      {
        details: { schedules: config.schedules.map(({ name }) => name) },
      },
    );
  }
  const event = { job_id: Number(job.id), args: [] };
  return { ...config, schedules: config.schedules.map((one) => (one.event === undefined ? { ...one, event } : one)) };
}

/** Undefined for a package that was not made here. */
async function jobsOf({ zip }: FunctionPackage): Promise<readonly PackagedJob[] | undefined> {
  const description = (await unpackFiles(zip).catch(() => undefined))?.['handler.json'];
  if (!description) return undefined;
  const { jobs } = JSON.parse(Buffer.from(description.data).toString('utf8')) as { readonly jobs?: readonly PackagedJob[] }; // as: we wrote it
  return jobs;
}
