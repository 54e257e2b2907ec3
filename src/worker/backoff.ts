const BASE_MS = 50;
const MAX_MS = 5_000;

/** The pause after so many failures in a row, from 0: half of it is chance, so that a fleet does not come back at once. */
export function backoffMs(failures: number, random: () => number): number {
  const whole = Math.min(MAX_MS, BASE_MS * 2 ** Math.min(failures, 10));
  return whole / 2 + (whole / 2) * random();
}
