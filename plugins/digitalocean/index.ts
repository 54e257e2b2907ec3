/** Plugin `digitalocean`: executors and deployments on DigitalOcean Functions. */

import type { Plugin } from '../../src/plugin.ts';
import { DigitalOceanDeployer } from './deployer.ts';
import { DigitalOceanExecutor } from './executor.ts';
import { parseOptions } from './options.ts';
import type { DigitalOceanExecutorOptions, DigitalOceanOptions } from './options.ts';

export { DigitalOceanDeployer } from './deployer.ts';
export { DigitalOceanExecutor } from './executor.ts';
export type { DigitalOceanExecutorOptions, DigitalOceanOptions } from './options.ts';

export const digitalOceanPlugin: Plugin = {
  name: 'digitalocean',
  peers: [{ name: 'undici', range: '^8.12.0' }],
  register(registry) {
    registry.executor(
      (options, { clock }) => new DigitalOceanExecutor(parseOptions<DigitalOceanExecutorOptions>(options, ['function']), { clock }),
    );
    registry.deployer((options, { clock }) => new DigitalOceanDeployer(parseOptions<DigitalOceanOptions>(options), { clock }));
  },
};
