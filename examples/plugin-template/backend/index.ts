/** Plugin `acme`: instances of the function runtime on Acme. */

import type { Plugin } from '../../../src/plugin.ts';
import { AcmeBackend } from './backend.ts';
import { acmeOptions } from './options.ts';

export { AcmeBackend } from './backend.ts';
export type { AcmeOptions } from './options.ts';

export const acmePlugin: Plugin = {
  name: 'acme',
  register(registry) {
    registry.backend((options) => new AcmeBackend(acmeOptions(options)));
  },
};
