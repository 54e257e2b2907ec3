/** The program of an orchestrator: a runner made from the author's jobs and the manifest of a deployment, until it is told to stop. */

import { readFileSync } from 'node:fs';
import { RunnerError } from '../errors.ts';
import type { JobRouter } from '../job/router.ts';
import type { RunnerBuilder } from './builder.ts';
import { applyManifest, configFromManifest } from './manifest.ts';
import type { RunnerManifest } from './manifest.ts';
import { BlueprintRunner } from './runner.ts';

/** What the author's module exports. */
export interface AuthorExports {
  readonly router?: JobRouter;
  readonly default?: JobRouter;
  readonly configure?: (builder: RunnerBuilder) => unknown;
}

/** Throws `CONFIG_INVALID`. */
export function readManifest(file: string): RunnerManifest {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (cause) {
    throw new RunnerError('CONFIG_INVALID', `the deployment ${file} cannot be read`, { cause, details: { file } });
  }
  try {
    return JSON.parse(text) as RunnerManifest; // as: checked when it is used
  } catch (cause) {
    throw new RunnerError('CONFIG_INVALID', `the deployment ${file} is not JSON`, { cause, details: { file } });
  }
}

/**
 * Resolves when the runner has stopped.
 *
 * @example
 * import * as jobs from './jobs.ts';
 * await orchestrate(jobs, 'deployment.json');
 */
export async function orchestrate(author: AuthorExports, manifestFile: string): Promise<void> {
  const manifest = readManifest(manifestFile);
  const builder = BlueprintRunner.builder(configFromManifest(manifest));
  const router = author.router ?? author.default;
  if (router) builder.router(router);
  applyManifest(builder, manifest);
  await author.configure?.(builder);
  await builder.run();
}
