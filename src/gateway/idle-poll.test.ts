import { describe, expect, test } from 'vitest';
import { IdlePoll } from './idle-poll.ts';

/** Each look takes as long as the test says. */
function polling(windowMs = 0.2) {
  const state = { now: 100, looks: 0, look: undefined as (() => void) | undefined };
  const poll = new IdlePoll({ clock: { monotonic: () => state.now }, windowMs, defer: (look) => (state.look = look) });
  const news = (afterMs: number): void => {
    state.now += afterMs;
    poll.news(state.now);
  };
  /** Until it sleeps. */
  const looks = (eachMs: number): number => {
    let count = 0;
    for (let look = state.look; look; look = state.look) {
      state.look = undefined;
      state.now += eachMs;
      count += 1;
      look();
    }
    return count;
  };
  return { news, looks, isLooking: () => state.look !== undefined };
}

describe('looking for news before the process sleeps', () => {
  test('lasts for the window after the last news', () => {
    const { news, looks } = polling(0.25);
    news(0);
    news(0.125);
    expect(looks(1 / 32)).toBe(8);
    expect(looks(1 / 32)).toBe(0);
  });

  test('is of no use when news are rare', () => {
    const { news, isLooking } = polling();
    for (let count = 0; count < 10; count += 1) {
      news(1.01);
      expect(isLooking()).toBe(false);
    }
    news(0.99);
    expect(isLooking()).toBe(true);
  });

  test('rests when somebody else waited for the processor', () => {
    const { news, looks, isLooking } = polling();
    news(0);
    news(0.1);
    expect(looks(0.07)).toBe(1);
    for (let at = 0; at < 4.8; at += 0.6) {
      news(0.6);
      expect(isLooking()).toBe(false);
    }
    news(0.6);
    expect(isLooking()).toBe(true);
  });

  test('goes on when it was the news that took their time', () => {
    const { news, looks } = polling();
    news(0);
    news(0.1);
    news(0.01);
    expect(looks(0.07)).toBe(2);
  });

  test('is off with a window of nothing', () => {
    const { news, isLooking } = polling(0);
    news(0);
    news(0);
    expect(isLooking()).toBe(false);
  });
});
