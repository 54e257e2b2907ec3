/** The deployer of GCP against the emulator: what every deployer must do, and what only this platform has. */

import { createHash } from 'node:crypto';
import { describe, it } from 'vitest';
import { GcpDeployer } from '../../plugins/gcp/index.ts';
import { conformanceFunction, runDeployerConformance } from '../../src/conformance/conformance.ts';
import type { Connection, DeployerPlatform } from '../../src/conformance/conformance.ts';
import type { FunctionPackage } from '../../src/executor/deployer.ts';
import { startFaultyProxy } from '../support/faulty-proxy.ts';
import { PROJECT, REGION, startGcp } from '../support/gcp.ts';
import type { GcpEmulator } from '../support/gcp.ts';
import { impatientClock } from '../support/gcp-clock.ts';
import { zipOf } from '../support/gateway.ts';

/** An HTTP function around the function of the suite. */
function codeOf(tag: string): FunctionPackage {
  const source = `exports.handler = async (request, response) => {
    try {
      response.json(await (${conformanceFunction(tag)})(request.body, process.env));
    } catch (error) {
      response.status(500).json({ error: error.message });
    }
  };`;
  const zip = zipOf({ 'index.js': source });
  return { zip, sha256: createHash('sha256').update(zip).digest('hex') };
}

/** What is there besides numbers, times, and revisions that no calls go to. */
function snapshot({ functions, scheduler }: GcpEmulator): unknown {
  const byName = ([a]: readonly [string, unknown], [b]: readonly [string, unknown]): number => (a < b ? -1 : 1);
  const withoutSource = (_: string, value: unknown): unknown => value;
  return {
    functions: [...functions].toSorted(byName).map(([name, { fields, state, revisions, pinned, policy }]) => {
      const { source: _, ...buildConfig } = fields['buildConfig'] as Record<string, unknown>;
      const { allTrafficOnLatestRevision: __, ...serviceConfig } = fields['serviceConfig'] as Record<string, unknown>;
      const serving = pinned === undefined ? revisions.at(-1) : revisions.find((each) => each.name === pinned);
      const canonical = (value: object): string => JSON.stringify(Object.entries(value).toSorted(byName), withoutSource);
      return [
        name,
        state,
        canonical({ ...fields, buildConfig: canonical(buildConfig), serviceConfig: canonical(serviceConfig) }),
        JSON.stringify((serving?.config['environmentVariables'] as Record<string, string> | undefined)?.['BLUEPRINT_PACKAGE_SHA256']),
        JSON.stringify(policy['bindings']),
      ];
    }),
    jobs: [...scheduler.jobs]
      .toSorted(byName)
      .map(([, { userUpdateTime: _, ...job }]) => JSON.stringify(Object.entries(job).toSorted(byName))),
  };
}

async function platform(): Promise<DeployerPlatform> {
  const emulator = await startGcp();
  const isWrite = (method: string, path: string): boolean =>
    method !== 'GET' && !/^\/(?:invoke|token)|entries:list|testIamPermissions|generateUploadUrl/.test(path);
  const proxy = await startFaultyProxy({ target: emulator.url, isWrite });
  emulator.publicUrl = proxy.url;
  const nowhere = 'http://127.0.0.1:1';
  const connect = (how: Connection): GcpDeployer => {
    const { endpoints } = emulator;
    return new GcpDeployer(
      {
        projectId: PROJECT,
        region: REGION,
        ...(how === 'well' && { endpoints, credentials: () => emulator.credentials }),
        ...(how === 'nowhere' && {
          endpoints: { functions: nowhere, run: nowhere, scheduler: nowhere, logging: nowhere, token: nowhere },
          credentials: () => emulator.credentials,
        }),
        ...(how === 'nameless' && { endpoints: { ...endpoints, metadata: nowhere } }),
      },
      { clock: impatientClock, environment: {} },
    );
  };
  return {
    ...proxy,
    connect,
    codeOf,
    snapshot: () => snapshot(emulator),
    schedules: () => emulator.scheduler.jobs.size,
    makeForeign: async (name) => emulator.makeForeign(name),
    async close() {
      await proxy.close();
      await emulator.close();
    },
  };
}

runDeployerConformance({ describe, it }, { name: 'gcp', create: platform, lacks: { async: 'an HTTP function has no queue of calls' } });
