/** Plugin `kubernetes`: executors, deployments and long-running programs on a cluster. */

import type { Plugin } from '../../src/plugin.ts';
import { KubernetesDeployer } from './deployer.ts';
import { KubernetesExecutor } from './executor.ts';
import { KubernetesMachineHost } from './machine-host.ts';
import { DEPLOYER_OPTIONS, EXECUTOR_OPTIONS, HOST_OPTIONS, parseOptions } from './options.ts';
import type { KubernetesExecutorOptions, KubernetesHostOptions, KubernetesOptions } from './options.ts';

export { KubernetesDeployer } from './deployer.ts';
export { KubernetesExecutor } from './executor.ts';
export { KubernetesMachineHost } from './machine-host.ts';
export { manifestsOf, toYaml } from './export.ts';
export type { Manifest } from './client.ts';
export type { KubernetesExecutorOptions, KubernetesHostOptions, KubernetesOptions } from './options.ts';

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
    registry.host((options, { clock }) => new KubernetesMachineHost(parseOptions<KubernetesHostOptions>(options, HOST_OPTIONS), { clock }));
  },
};
