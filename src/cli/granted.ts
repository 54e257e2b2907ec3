/** How `bpr worker` speaks to the servers of a queue itself. */

import { sign } from 'node:crypto';
import { systemClock } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import { createPluginRegistry } from '../plugin/registry.ts';
import type { ControlClient } from '../queue/control-client.ts';
import { GrantedQueue } from '../queue/granted-queue.ts';
import type { Identity } from '../queue/identity.ts';
import type { ObjectStore, WorkQueue } from '../queue/queue.ts';
import type { QueueGrant } from '../queue/shared-queue.ts';
import { isSharedQueue } from '../queue/shared-queue.ts';
import type { Telemetry } from '../telemetry/telemetry.ts';

interface GrantedParts {
  readonly control: ControlClient;
  readonly identity: Identity;
  readonly telemetry: Telemetry;
}

/** Rejects with `PLUGIN_UNKNOWN` and `CONFIG_INVALID`: the control plane is of another version. The servers are spoken to on first use. */
export async function openGranted(
  grant: QueueGrant,
  { control, identity, telemetry }: GrantedParts,
): Promise<{ readonly queue: WorkQueue; readonly objects: ObjectStore }> {
  const registry = createPluginRegistry({ clock: systemClock, telemetry });
  const credentials = {
    // That of the last renewal.
    jwt: () => control.standing?.grant?.jwt ?? grant.jwt,
    sign: (nonce: Uint8Array) => sign(null, nonce, identity.privateKey),
  };
  const queue = await registry.queue(grant.plugin, { ...grant.options, credentials });
  if (!isSharedQueue(queue))
    throw new RunnerError(
      'PLUGIN_UNKNOWN',
      `the plugin ${grant.plugin}, which the control plane names, has no queue on servers of its own`,
    );
  return { queue: new GrantedQueue({ queue, control }), objects: queue.objects };
}
