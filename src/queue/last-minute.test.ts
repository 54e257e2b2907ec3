import { expect, it } from 'vitest';
import { FakeClock } from '../testing/fake-clock.ts';
import { LastMinute } from './last-minute.ts';

it('counts per second over the last minute, from less than a second on', async () => {
  const clock = new FakeClock();
  const minute = new LastMinute(clock);
  expect(minute.perSecond()).toBe(0);
  minute.add(3);
  expect(minute.perSecond()).toBe(3);
  await clock.advance(9_500);
  minute.add(16);
  expect(minute.perSecond()).toBe(2);
  await clock.advance(20_500);
  expect(minute.perSecond()).toBeCloseTo(19 / 30, 9);
  await clock.advance(29_999);
  expect(minute.perSecond()).toBeCloseTo(19 / 59.999, 9);
  // The first second is a minute ago.
  await clock.advance(1);
  expect(minute.perSecond()).toBeCloseTo(16 / 59, 9);
  minute.add(1);
  await clock.advance(8_999);
  expect(minute.perSecond()).toBeCloseTo(17 / 59.999, 9);
  await clock.advance(1);
  expect(minute.perSecond()).toBeCloseTo(1 / 59, 9);
  await clock.advance(3_600_000);
  expect(minute.perSecond()).toBe(0);
  for (let second = 0; second < 600; second += 1) {
    minute.add(5);
    await clock.advance(1_000);
  }
  expect(minute.perSecond()).toBeCloseTo(5, 9);
});
