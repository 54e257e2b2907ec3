/** Plugin `kubernetes`: executors, deployments, instances of functions and long-running programs on a cluster. */

import type { Plugin } from '../../src/plugin.ts';
import { KubernetesDeployer } from './deployer.ts';
import { KubernetesExecutor } from './executor.ts';
import { KubernetesMachineHost } from './machine-host.ts';
import { KubernetesBackend } from './backend.ts';
import { BACKEND_OPTIONS, DEPLOYER_OPTIONS, EXECUTOR_OPTIONS, HOST_OPTIONS, parseOptions } from './options.ts';
import type { KubernetesBackendOptions, KubernetesExecutorOptions, KubernetesHostOptions, KubernetesOptions } from './options.ts';

export { KubernetesBackend } from './backend.ts';
export { KubernetesDeployer } from './deployer.ts';
export { KubernetesExecutor } from './executor.ts';
export { KubernetesMachineHost } from './machine-host.ts';
export { manifestsOf, toYaml } from './export.ts';
export type { Manifest } from './client.ts';
export type { KubernetesBackendOptions, KubernetesExecutorOptions, KubernetesHostOptions, KubernetesOptions } from './options.ts';

export const kubernetesPlugin: Plugin = {
  name: 'kubernetes',
  peers: [{ name: 'undici', range: '^8.12.0' }],
  register(registry) {
    registry.executor(
      (options, { clock }) => new KubernetesExecutor(parseOptions<KubernetesExecutorOptions>(options, EXECUTOR_OPTIONS), { clock }),
    );
    registry.deployer(
      (options, { clock }) => new KubernetesDeployer(parseOptions<KubernetesOptions>(options, DEPLOYER_OPTIONS), { clock }),
    );
    registry.backend(
      (options, { clock }) => new KubernetesBackend(parseOptions<KubernetesBackendOptions>(options, BACKEND_OPTIONS), { clock }),
    );
    registry.host((options, { clock }) => new KubernetesMachineHost(parseOptions<KubernetesHostOptions>(options, HOST_OPTIONS), { clock }));
  },
};
