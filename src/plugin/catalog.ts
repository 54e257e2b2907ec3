/** The built-in plugins: name -> import on first use. The only place under src/ that reaches into plugins/. */

import type { Plugin } from './plugin.ts';

export const BUILT_IN_PLUGINS: ReadonlyMap<string, () => Promise<Plugin>> = new Map([
  ['aws-lambda', async () => (await import('../../plugins/aws-lambda/index.ts')).awsLambdaPlugin],
  ['azure', async () => (await import('../../plugins/azure/index.ts')).azurePlugin],
  ['cloudflare', async () => (await import('../../plugins/cloudflare/index.ts')).cloudflarePlugin],
  ['digitalocean', async () => (await import('../../plugins/digitalocean/index.ts')).digitalOceanPlugin],
  ['gcp', async () => (await import('../../plugins/gcp/index.ts')).gcpPlugin],
  ['http', async () => (await import('../../plugins/http/index.ts')).httpPlugin],
  ['kubernetes', async () => (await import('../../plugins/kubernetes/index.ts')).kubernetesPlugin],
  ['container', async () => (await import('../../plugins/container/index.ts')).containerPlugin],
  ['nats', async () => (await import('../../plugins/nats/index.ts')).natsPlugin],
  ['process', async () => (await import('../../plugins/process/index.ts')).processPlugin],
  ['wasm', async () => (await import('../../plugins/wasm/index.ts')).wasmPlugin],
]);
