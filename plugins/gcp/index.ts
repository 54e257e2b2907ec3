/** Plugin `gcp`: executors and deployments on Cloud Run functions, over REST. */

import type { Plugin } from '../../src/plugin.ts';
import { GcpDeployer } from './deployer.ts';
import { GcpExecutor } from './executor.ts';
import { DEPLOYER_OPTIONS, EXECUTOR_OPTIONS, parseOptions } from './options.ts';
import type { GcpExecutorOptions, GcpOptions } from './options.ts';

export { GcpDeployer } from './deployer.ts';
export { GcpExecutor } from './executor.ts';
export type { GcpEndpoints, GcpExecutorOptions, GcpOptions } from './options.ts';
export type { GcpPlatform, GcpSecret } from './platform-options.ts';

export const gcpPlugin: Plugin = {
  name: 'gcp',
  peers: [{ name: 'undici', range: '^8.12.0' }],
  register(registry) {
    registry.executor(
      (options, { clock }) => new GcpExecutor(parseOptions<GcpExecutorOptions>(options, EXECUTOR_OPTIONS, 'uri'), { clock }),
    );
    registry.deployer((options, { clock }) => new GcpDeployer(parseOptions<GcpOptions>(options, DEPLOYER_OPTIONS, 'projectId'), { clock }));
  },
};
