import { describe, expect, it } from 'vitest';
import { isRunnerError } from '../errors.ts';
import { LIMITS, PROVIDERS } from '../executor/limits.ts';
import type { Provider } from '../executor/limits.ts';
import type { FunctionSettings } from './store-records.ts';
import { checkName, checkSettings, withDefaults } from './store-settings.ts';

function settings(profile: Provider, overrides: Partial<FunctionSettings> = {}): FunctionSettings {
  const base = { name: 'x', code: { kind: 'image', uri: 'x' } as const, runtime: 'nodejs24.x', handler: 'index.handler' };
  return { ...withDefaults(base, LIMITS[profile]), ...overrides };
}

/** The field that is refused, or that nothing is. */
function refused(run: () => void): unknown {
  try {
    run();
    return 'nothing';
  } catch (thrown) {
    if (!isRunnerError(thrown) || thrown.code !== 'CONFIG_INVALID') throw thrown;
    return thrown.details['field'];
  }
}

describe.each(PROVIDERS)('%s', (profile) => {
  const limits = LIMITS[profile];
  const check = (overrides: Partial<FunctionSettings>): unknown =>
    refused(() => checkSettings(settings(profile, overrides), profile, 'zip'));

  it('takes its own defaults', () => {
    expect(check({})).toBe('nothing');
  });

  it.each(['memoryMb', 'timeoutMs', 'ephemeralMb'] as const)('takes %s from the least to the most, and nothing beyond', (field) => {
    const { min, max, steps } = limits[field];
    expect([min - 1, min, max, max + 1].map((value) => check({ [field]: value }))).toEqual([field, 'nothing', 'nothing', field]);
    expect(check({ [field]: min + 0.5 })).toBe(field);
    if (steps)
      for (const step of steps)
        expect([check({ [field]: step }), step === max || check({ [field]: step + 1 })]).toEqual(['nothing', step === max || field]);
  });

  it('takes names up to their length', () => {
    const name = (length: number): unknown => refused(() => checkName('a'.repeat(length), limits));
    expect([name(0), name(1), name(limits.nameLengthMax), name(limits.nameLengthMax + 1)]).toEqual(['name', 'nothing', 'nothing', 'name']);
    expect(refused(() => checkName('a/b', limits))).toBe('name');
  });

  it('takes layers up to their number, each once', () => {
    const layers = (count: number) => Array.from({ length: count }, (_, index) => ({ name: `l${index}`, version: 1 }));
    expect([check({ layers: layers(limits.layersMax) }), check({ layers: layers(limits.layersMax + 1) })]).toEqual(['nothing', 'layers']);
    expect(check({ layers: [{ name: 'l', version: 1 }, { name: 'l', version: 2 }] })).toBe('layers'); // prettier-ignore
  });

  it('takes environment variables up to their size', () => {
    const ofSize = (bytes: number) => ({ environment: { AA: 'x'.repeat(bytes) } });
    if (limits.environmentBytesMax < Number.MAX_SAFE_INTEGER) {
      // {"AA":"..."} is nine bytes longer than the value.
      const most = limits.environmentBytesMax - 9;
      expect([check(ofSize(most)), check(ofSize(most + 1))]).toEqual(['nothing', 'environment']);
      expect(check({ environment: { AA: 'ü'.repeat(most / 2 + 1) } })).toBe('environment');
    }
    if (limits.environmentValueBytesMax < Number.MAX_SAFE_INTEGER) {
      const most = limits.environmentValueBytesMax - 2;
      expect([check(ofSize(most)), check(ofSize(most + 1))]).toEqual(['nothing', 'environment']);
    }
    if (limits.environmentCountMax < Number.MAX_SAFE_INTEGER) {
      const many = (count: number) => ({
        environment: Object.fromEntries(Array.from({ length: count }, (_, index) => [`V${index}X`, ''])),
      });
      expect([check(many(limits.environmentCountMax)), check(many(limits.environmentCountMax + 1))]).toEqual(['nothing', 'environment']);
    }
  });

  it('refuses variables of the platform, bad names and NULs, and shows no value', () => {
    for (const environment of [
      { AWS_REGION: 'secret' },
      { _HANDLER: 'secret' },
      { A: 'secret' },
      { '1A': 'secret' },
      { 'A-B': 'secret' },
      { AA: 'secret\0' },
    ]) {
      try {
        checkSettings(settings(profile, { environment }), profile, 'zip');
      } catch (thrown) {
        expect([isRunnerError(thrown) && thrown.code, JSON.stringify(thrown).includes('secret')]).toEqual(['CONFIG_INVALID', false]);
        continue;
      }
      throw new Error(`${JSON.stringify(environment)} was taken`);
    }
  });

  it('names its source and its date', () => {
    expect(limits.source).toMatch(/^https:\/\//);
    expect(limits.date).toMatch(/^\d{4}-\d{2}-\d{2}$/);
  });
});

it('a zip needs a runtime and a handler, an image neither, but no layers', () => {
  const check = (overrides: Partial<FunctionSettings>, packaged: 'zip' | 'image'): unknown =>
    refused(() => checkSettings(settings('aws', overrides), 'aws', packaged));
  expect(check({ runtime: 'nodejs99.x' }, 'zip')).toBe('runtime');
  expect([check({ handler: '' }, 'zip'), check({ handler: 'a b' }, 'zip'), check({ handler: 'x'.repeat(129) }, 'zip')]).toEqual([
    'handler',
    'handler',
    'handler',
  ]);
  expect(check({ runtime: '', handler: '' }, 'image')).toBe('nothing');
  expect(check({ layers: [{ name: 'l', version: 1 }] }, 'image')).toBe('layers');
});
