/** What the commands of topologies share: the cluster in a folder of this machine. */

import { networkInterfaces } from 'node:os';
import { systemClock } from '../../clock.ts';
import type { Cluster } from '../../topology/cluster.ts';
import { placesIn } from '../../topology/topology.ts';
import type { TopologyOption } from '../../topology/topology.ts';

export async function openCluster(folder: string): Promise<Cluster> {
  const [{ Cluster: Opened }, { createPluginRegistry }, { silentTelemetry }, { freePort }] = await Promise.all([
    import('../../topology/cluster.ts'),
    import('../../plugin/registry.ts'),
    import('../../telemetry/telemetry.ts'),
    import('../../deploy/port.ts'),
  ]);
  const host = await createPluginRegistry({ clock: systemClock, telemetry: silentTelemetry }).host('process', {
    folder: placesIn(folder).machines,
  });
  // Above this folder, from source and from the package.
  const mainUrl = import.meta.url.replace(/commands\/topology-cluster(\.[jt]s)$/, 'main$1');
  return new Opened({ folder, host, mainUrl, freePort });
}

export type EngineHost = '127.0.0.1' | '0.0.0.0';

/** Where engines listen, and by which address workers reach them. */
export function enginePlace(option: TopologyOption, engineHost: EngineHost = option === '4' ? '0.0.0.0' : '127.0.0.1') {
  return { engineHost, engineAddress: engineHost === '0.0.0.0' ? ownAddress() : engineHost };
}

/** By which others reach this machine. */
function ownAddress(): string {
  const addresses = Object.values(networkInterfaces()).flatMap((list = []) => list);
  return addresses.find(({ internal, family }) => !internal && family === 'IPv4')?.address ?? '127.0.0.1';
}
