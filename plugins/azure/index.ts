/** Plugin `azure`: executors and deployments on Azure Functions, Flex Consumption. */

import type { Plugin } from '../../src/plugin.ts';
import { AzureDeployer } from './deployer.ts';
import { AzureExecutor } from './executor.ts';
import { parseOptions } from './options.ts';
import type { AzureExecutorOptions, AzureOptions } from './options.ts';

export { AzureDeployer } from './deployer.ts';
export { AzureExecutor } from './executor.ts';
export type { AzurePlatform } from './limits.ts';
export type { AzureEndpoints, AzureExecutorOptions, AzureOptions } from './options.ts';

export const azurePlugin: Plugin = {
  name: 'azure',
  peers: [{ name: 'undici', range: '^8.12.0' }],
  register(registry) {
    registry.executor((options, { clock }) => new AzureExecutor(parseOptions<AzureExecutorOptions>(options, 'executor'), { clock }));
    registry.deployer((options, { clock }) => new AzureDeployer(parseOptions<AzureOptions>(options, 'deployer'), { clock }));
  },
};
