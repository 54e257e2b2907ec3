/** Claims whose answers never came: what they were given goes back when their worker claims again, instead of when its leases run out. */

import { toRunnerError } from '../errors.ts';
import type { CheckedClaim } from './requests.ts';

interface ClaimOnWire extends Readonly<Record<string, unknown>> {
  readonly workerId: string;
  readonly claimId: string;
  /** Claims before it, or this one on an earlier way. */
  lost?: readonly string[];
}

/** Of one worker, those that the control plane is told of at a time. */
const KEPT_MAX = 100;

export class UnansweredClaims {
  #claims: readonly ClaimOnWire[] = [];

  /** `isRepeated` is to be called before it is sent once more, after nobody knows what became of it. */
  async during<T>(claim: ClaimOnWire, send: (isRepeated: () => void) => Promise<T>): Promise<T> {
    const before = this.#claims.filter(({ workerId }) => workerId === claim.workerId);
    const lost = before.map(({ claimId }) => claimId);
    if (lost.length > 0) claim.lost = lost;
    try {
      const answer = await send(() => (claim.lost = [...lost, claim.claimId]));
      this.#claims = this.#claims.filter((one) => !before.includes(one));
      return answer;
    } catch (thrown) {
      if (toRunnerError(thrown).retry !== 'safe') this.#claims = [...this.#claims, claim].slice(-KEPT_MAX + 1);
      throw thrown;
    }
  }
}

export function claimToWire({ workerId, capabilities, max, leaseMs }: CheckedClaim, waitMs: number, claimId: string): ClaimOnWire {
  return { workerId, ...(capabilities.length > 0 && { capabilities }), max, leaseMs, waitMs, claimId };
}
