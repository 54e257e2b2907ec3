/**
 * What the one package of a handler gets for platforms whose root files contradict each other. The package of `buildHandler` runs as it is
 * on Lambda (managed and custom runtime), Custom FaaS platforms, Google Cloud, Azure with a remote build, and holds the module of a Worker.
 */

import { textFile, jsonFile, packFiles, sha256Of, unpackFiles } from './zip.ts';
import type { PackedFile, PackedFiles } from './zip.ts';

export const PACKAGE_PLATFORMS = ['aws', 'gcp', 'azure', 'azure-custom', 'digitalocean', 'cloudflare', 'custom'] as const;
export type PackagePlatform = (typeof PACKAGE_PLATFORMS)[number];

export interface PlatformPackage {
  readonly zip: Uint8Array;
  /** Of the zip, hex. */
  readonly sha256: string;
}

export interface PlatformPackageOptions {
  /** Packages that the platform does not install itself, below `node_modules/`: see `readModules`. */
  readonly modules?: PackedFiles;
}

const FUNCTIONS_FRAMEWORK = { '@google-cloud/functions-framework': '^5.0.0' };
const AZURE_FUNCTIONS = { '@azure/functions': '^4.0.0' };

/** A runtime of OpenWhisk loads the package with `require`, which takes no module that waits while it is loaded. */
const OPENWHISK_MAIN = `'use strict';
const loaded = import('./handler.mjs');
exports.main = async (...args) => (await loaded).main(...args);
`;

/** The root files that every package has besides the bundle. */
export const ROOT_FILES: PackedFiles = {
  'host.json': hostFile({}),
  'package.json': packageFile({}),
};

/**
 * The package for one platform. The same package gives the same bytes. Throws `PACKAGE_INVALID`.
 *
 * - `gcp`: `package.json` names the functions-framework, so that the build installs the version that the handler was tested with.
 * - `azure`: `package.json` names `@azure/functions`; with `modules` it is in the package, and no remote build is needed.
 * - `azure-custom`: a custom handler in place of the Node model v4; the host starts `bootstrap`, so the image must have node.
 * - `digitalocean`: `main.cjs` for the loader of OpenWhisk.
 */
export async function packageFor(
  platform: PackagePlatform,
  zip: Uint8Array,
  { modules = {} }: PlatformPackageOptions = {},
): Promise<PlatformPackage> {
  const extra = { ...additions(platform), ...modules };
  const packed = Object.keys(extra).length === 0 ? zip : await packFiles({ ...(await unpackFiles(zip)), ...extra });
  return { zip: packed, sha256: sha256Of(packed) };
}

function additions(platform: PackagePlatform): PackedFiles {
  switch (platform) {
    case 'gcp':
      return { 'package.json': packageFile({ dependencies: FUNCTIONS_FRAMEWORK }) };
    case 'azure':
      return { 'package.json': packageFile({ dependencies: AZURE_FUNCTIONS }) };
    case 'azure-custom':
      return {
        'host.json': hostFile({
          customHandler: { description: { defaultExecutablePath: 'bootstrap' }, enableForwardingHttpRequest: true },
        }),
        'call/function.json': jsonFile({
          bindings: [
            {
              type: 'httpTrigger',
              direction: 'in',
              name: 'req',
              authLevel: 'function',
              methods: ['get', 'head', 'post'],
              route: '{*path}',
            },
            { type: 'http', direction: 'out', name: 'res' },
          ],
        }),
      };
    case 'digitalocean':
      return { 'main.cjs': textFile(OPENWHISK_MAIN), 'package.json': packageFile({ main: 'main.cjs' }) };
    case 'aws':
    case 'cloudflare':
    case 'custom':
      return {};
  }
}

function packageFile(fields: Readonly<Record<string, unknown>>): PackedFile {
  return jsonFile({ name: 'handler', private: true, type: 'module', main: 'handler.mjs', ...fields });
}

/** With the routes of the handler as they are, not below `/api`. */
function hostFile(fields: Readonly<Record<string, unknown>>): PackedFile {
  return jsonFile({ version: '2.0', extensions: { http: { routePrefix: '' } }, ...fields });
}
