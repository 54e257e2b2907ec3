/** A container as the engine is asked for it. */

import type Docker from 'dockerode';
import type { NetworkAccess } from '../../src/plugin.ts';
import type { ContainerOptions } from './client.ts';
import type { Resources } from './limits.ts';
import { TASK_FOLDER } from './program.ts';
import type { Program } from './program.ts';

export const LABELS = {
  owner: 'dev.blueprint-runner.owner',
  boot: 'dev.blueprint-runner.boot',
  instance: 'dev.blueprint-runner.instance',
  function: 'dev.blueprint-runner.function',
  fingerprint: 'dev.blueprint-runner.fingerprint',
} as const;

export interface ContainerPlan {
  readonly name: string;
  readonly image: string;
  readonly program: Program;
  readonly environment: Readonly<Record<string, string>>;
  readonly labels: Readonly<Record<string, string>>;
  readonly resources: Resources;
  readonly network: NetworkAccess;
  /** `uid:gid` */
  readonly user: string;
  readonly runtime: string | undefined;
  readonly hasStdin: boolean;
  readonly hasInit: boolean;
  /** Its code lies in /var/task. */
  readonly hasTask: boolean;
}

const NANO = 1e9;

export function containerOptions(plan: ContainerPlan): ContainerOptions {
  const { program, resources } = plan;
  const environment = { ...plan.environment, ...program.environment };
  return {
    name: plan.name,
    Image: plan.image,
    Entrypoint: program.argv.slice(0, 1),
    Cmd: program.argv.slice(1),
    Env: Object.entries(environment).map(([name, value]) => `${name}=${value}`),
    User: plan.user,
    Labels: { ...plan.labels },
    AttachStdout: true,
    AttachStderr: true,
    ...(plan.hasTask && { WorkingDir: TASK_FOLDER }),
    ...(plan.hasStdin && { AttachStdin: true, OpenStdin: true, StdinOnce: true }),
    HostConfig: {
      NetworkMode: plan.network === 'none' ? 'none' : 'bridge',
      ReadonlyRootfs: true,
      Tmpfs: { '/tmp': `rw,exec,nosuid,nodev,mode=1777,size=${resources.tmpBytes}` },
      CapDrop: ['ALL'],
      SecurityOpt: ['no-new-privileges'],
      PidsLimit: resources.pidsMax,
      Memory: resources.memoryBytes,
      // The same as memory: no swap.
      MemorySwap: resources.memoryBytes,
      NanoCpus: Math.round(resources.cpus * NANO),
      Ulimits: [
        { Name: 'nofile', Soft: resources.openFilesMax, Hard: resources.openFilesMax },
        { Name: 'core', Soft: 0, Hard: 0 },
      ],
      LogConfig: { Type: 'none', Config: {} },
      // Signals end a first process only when it handles them, and it has to collect orphans: node does neither.
      Init: plan.hasInit,
      Mounts: program.mounts.map(({ source, target }) => ({ Type: 'bind', Source: source, Target: target, ReadOnly: true })),
      ...(plan.runtime !== undefined && { Runtime: plan.runtime }),
    },
  } satisfies Docker.ContainerCreateOptions;
}
