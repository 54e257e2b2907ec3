/**
 * Budgets per import, minified and not compressed: what node has to read and compile. `own` leaves the dependencies out, `whole` is all that a
 * handler bundle carries.
 */

import { readFileSync } from 'node:fs';

const { dependencies, peerDependencies } = JSON.parse(readFileSync(new URL('package.json', import.meta.url), 'utf8'));
const packages = [...Object.keys(dependencies), ...Object.keys(peerDependencies)];

const own = packages.flatMap((name) => [name, `${name}/*`]);

function budget(name, path, { limit, external = [] }) {
  const modifyEsbuildConfig = (config) => ({ ...config, platform: 'node', format: 'esm', target: 'node22', external });
  return { name, path, limit, brotli: false, gzip: false, modifyEsbuildConfig };
}

export default [
  // With the plugins that are loaded on first use.
  budget('core, own code', 'dist/src/index.js', { limit: '1100 kB', external: own }),
  budget('http plugin, own code', 'dist/plugins/http/index.js', { limit: '52 kB', external: own }),
  budget('plugin entry, own code', 'dist/src/plugin.js', { limit: '76 kB', external: own }),
  budget('handler, whole', 'dist/handler/index.js', { limit: '16 kB', external: ['@azure/functions'] }),
  budget('handler bundle entry, whole', 'dist/handler/main.js', { limit: '33 kB', external: ['@azure/functions'] }),
];
