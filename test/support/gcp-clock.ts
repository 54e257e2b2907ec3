/** The clock of this machine for whoever waits for a platform that is in this process. */

import { systemClock } from '../../src/clock.ts';
import type { Clock } from '../../src/clock.ts';

const WAIT_MS_MAX = 5;

export const impatientClock: Clock = {
  ...systemClock,
  sleep: (delayMs, signal) => systemClock.sleep(Math.min(delayMs, WAIT_MS_MAX), signal),
};
