/** Claims whose answers never came: what they were given goes back when their worker claims again, instead of when its leases run out. */

import { randomBytes } from 'node:crypto';
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
  /** Of all ids of claims here. Short: the tokens of leases begin with these. */
  readonly #prefix = randomBytes(9).toString('base64url');
  #count = 0;
  #claims: readonly ClaimOnWire[] = [];

  claim({ workerId, capabilities, max, leaseMs }: CheckedClaim, waitMs: number): ClaimOnWire {
    const claimId = `${this.#prefix}${(this.#count += 1).toString(36)}`;
    return { workerId, ...(capabilities.length > 0 && { capabilities }), max, leaseMs, waitMs, claimId };
  }

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
