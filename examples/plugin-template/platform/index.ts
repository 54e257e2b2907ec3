/** Plugin `acme`: functions on Acme. */

import type { Plugin } from '../../../src/plugin.ts';
// deployer:begin
import { AcmeDeployer } from './deployer.ts';
// deployer:end
import { AcmeExecutor } from './executor.ts';
import { acmeOptions } from './options.ts';

// deployer:begin
export { AcmeDeployer } from './deployer.ts';
// deployer:end
export { AcmeExecutor } from './executor.ts';
export type { AcmeOptions } from './options.ts';

export const acmePlugin: Plugin = {
  name: 'acme',
  register(registry) {
    registry.executor((options, { clock }) => new AcmeExecutor(acmeOptions(options), clock));
    // deployer:begin
    registry.deployer((options, { clock }) => new AcmeDeployer(acmeOptions(options), clock));
    // deployer:end
  },
};
