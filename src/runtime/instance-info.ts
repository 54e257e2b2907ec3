/** What is told of an instance. */

import type { LiveInstance } from './live-instance.ts';
import type { Member } from './pool-group.ts';
import type { InstanceInfo, InstanceState } from './runtime.ts';

export function stateOf({ state, busy }: Member<LiveInstance>): InstanceState {
  if (state === 'draining' || state === 'gone') return 'stopping';
  if (busy > 0) return 'busy';
  return state === 'paused' || state === 'pausing' ? 'paused' : 'idle';
}

export function infoOf(
  instance: LiveInstance,
  state: InstanceState,
  counts: { readonly busy: number; readonly leases: number },
): InstanceInfo {
  const { name, version, fingerprint } = instance.fn;
  const handle = instance.instance?.handle;
  return {
    id: instance.id,
    name,
    version,
    fingerprint,
    state,
    running: counts.busy,
    calls: counts.leases,
    startedAt: instance.startedAt,
    ...(handle && { handle }),
  };
}
