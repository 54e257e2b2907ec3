/** Plugin `cloudflare`: executors and deployments on Cloudflare Workers. */

import type { Plugin } from '../../src/plugin.ts';
import { CloudflareDeployer } from './deployer.ts';
import { CloudflareExecutor } from './executor.ts';
import { parseDeployerOptions, parseExecutorOptions } from './options.ts';

export { CloudflareDeployer } from './deployer.ts';
export { CloudflareExecutor } from './executor.ts';
export type { CloudflareExecutorOptions, CloudflareFunctionOptions, CloudflareOptions } from './options.ts';

export const cloudflarePlugin: Plugin = {
  name: 'cloudflare',
  peers: [
    { name: 'undici', range: '^8.12.0' },
    { name: 'ws', range: '^8.0.0' },
  ],
  register(registry) {
    registry.executor((options, { clock }) => new CloudflareExecutor(parseExecutorOptions(options), { clock }));
    registry.deployer((options, { clock }) => new CloudflareDeployer(parseDeployerOptions(options), { clock }));
  },
};
