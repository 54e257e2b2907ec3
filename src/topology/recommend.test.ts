import { describe, expect, it } from 'vitest';
import { engineWarnings, recommend } from './recommend.ts';
import type { Situation } from './recommend.ts';
import { partsOf } from './topology.ts';
import type { TopologyOption } from './topology.ts';

describe('recommend', () => {
  it.each<[situation: Situation, option: string]>([
    [{ workers: 1, purpose: 'testing' }, '2'],
    [{ workers: 4, purpose: 'testing' }, '2'],
    [{ workers: 5, purpose: 'testing' }, '4'],
    [{ workers: 500, purpose: 'testing' }, '4'],
    [{ workers: 4, purpose: 'testing', kubernetes: true, engineService: true }, '2'],
    [{ workers: 1 }, '4'],
    [{ workers: 19 }, '4'],
    [{ workers: 20 }, '1'],
    [{ workers: 30, kubernetes: false }, '1'],
    [{ workers: 100 }, '1'],
    [{ workers: 101 }, '1'],
    [{ workers: 1_000, kubernetes: true }, '1'],
    [{ workers: 30, kubernetes: true, engineService: true }, '3'],
    [{ workers: 1_000, kubernetes: true, engineService: true }, '3'],
    [{ workers: 30, kubernetes: false, engineService: true }, '1'],
  ])('%j: option %s', (situation, option) => {
    const { option: found, because, command } = recommend(situation);
    expect(found).toBe(option);
    expect(because.length).toBeGreaterThan(0);
    expect(command).toContain(`bpr topology up --option ${option} --workers ${Math.min(situation.workers, 200)}`);
  });

  it.each([1, 4, 19, 100, 200, 201, 1_000, 999_999])('for %i workers: its command is one that topology takes', (workers) => {
    for (const purpose of ['testing', 'production'] as const)
      for (const engineService of [false, true]) {
        const { command } = recommend({ workers, purpose, kubernetes: engineService, engineService });
        const [, option = '', count, , engines] = /--option (\S+) --workers (\d+)( --engines (\d+))?$/.exec(command) ?? [];
        const size = { option: option as TopologyOption, workers: Number(count), ...(engines && { engines: Number(engines) }) };
        expect(partsOf(size).filter(({ role }) => role === 'worker')).toHaveLength(Math.min(workers, 200));
      }
  });

  it('says what belongs to the option', () => {
    expect(recommend({ workers: 3 }).advice.join()).toMatch(/metrics.*plan for option 1/);
    expect(recommend({ workers: 300 }).advice.join()).toContain('orchestrator');
    expect(recommend({ workers: 300, kubernetes: true }).advice.join()).toContain('--format kubernetes');
    expect(recommend({ workers: 300, kubernetes: true, engineService: true }).command).toMatch(/--engines 5$/);
    expect(recommend({ workers: 2, kubernetes: true, engineService: true }).command).toMatch(/--engines 3$/);
  });

  it('warns above what one engine keeps busy, and of one engine in production', () => {
    const warned = (situation: Situation): string => recommend(situation).warnings.join('\n');
    expect(warned({ workers: 20, purpose: 'testing' })).toBe('');
    expect(warned({ workers: 21, purpose: 'testing' })).toMatch(/one engine keeps 20 workers busy as a rule; 21 will wait/);
    expect(warned({ workers: 3, purpose: 'testing', workersPerEngine: 2 })).toMatch(/one engine keeps 2 workers busy as measured/);
    expect(warned({ workers: 10 })).toBe('one engine is one point of failure: without it jobs wait');
    expect(warned({ workers: 10, workersPerEngine: 8 })).toMatch(/one point of failure[^]*8 workers busy as measured/);
    expect(warned({ workers: 50, workersPerEngine: 8 })).toBe('');
  });

  it('warns of an option that was chosen, whatever it is for', () => {
    const warned = (option: '1' | '2' | '3' | '4' | 'hybrid', workers: number, workersPerEngine?: number): readonly string[] =>
      engineWarnings(option, { workers, workersPerEngine });
    expect([warned('2', 20), warned('4', 20), warned('1', 200), warned('3', 200), warned('hybrid', 200)]).toEqual([[], [], [], [], []]);
    for (const option of ['2', '4'] as const) {
      expect(warned(option, 21)).toEqual(['one engine keeps 20 workers busy as a rule; 21 will wait for it']);
      expect([warned(option, 40, 40), warned(option, 41, 40)[0]]).toEqual([[], expect.stringContaining('40 workers busy as measured')]);
    }
  });

  it('refuses what is no number of workers', () => {
    for (const workers of [0, -1, 1.5, Number.NaN]) expect(() => recommend({ workers })).toThrow(/it must be a whole number from 1/);
  });
});
