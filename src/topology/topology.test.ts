import { describe, expect, it } from 'vitest';
import { TOPOLOGY_OPTIONS, localParts, partsOf } from './topology.ts';

const settings = {
  option: 'hybrid',
  folder: '/t',
  concurrency: 4,
  leaseMs: 30_000,
  logLevel: 'warn',
  engineHost: '127.0.0.1',
  engineAddress: '127.0.0.1',
} as const;

describe('the parts of a topology', () => {
  it('are those that the option names', () => {
    const names = Object.fromEntries(TOPOLOGY_OPTIONS.map((option) => [option, partsOf({ option, workers: 2 }).map(({ name }) => name)]));
    expect(names).toEqual({
      1: ['control-plane', 'worker-1', 'worker-2'],
      2: ['control-plane', 'engine-1', 'worker-1', 'worker-2'],
      3: ['control-plane', 'engine-1', 'engine-2', 'engine-3', 'worker-1', 'worker-2'],
      4: ['control-plane', 'engine-1', 'worker-1', 'worker-2'],
      hybrid: ['control-plane', 'engine-1', 'engine-2', 'worker-1', 'worker-2', 'pool-worker'],
    });
  });

  it('workers call engines where they are shared, with a key that stands nowhere', () => {
    const parts = partsOf({ option: 'hybrid', workers: 1, engines: 2 });
    const ports = new Map(parts.map(({ name }, index) => [name, 9_000 + index]));
    const local = localParts(parts, { ...settings, ports });
    const found = (name: string) => local.find((part) => part.name === name);
    expect(found('worker-1')).toMatchObject({ environment: { LOG_LEVEL: 'warn' }, secrets: {} });
    expect(found('worker-1')?.args.join(' ')).toContain('--backend wasm --capabilities engine:own');
    expect(found('pool-worker')).toMatchObject({
      environment: { BPR_WASM_URL: 'http://127.0.0.1:9001,http://127.0.0.1:9002' },
      secrets: { BPR_WASM_TOKEN: 'file:/t/engine.token' },
    });
    expect(found('engine-2')?.args.join(' ')).toBe(
      'wasm serve --host 127.0.0.1 --port 9002 --data-dir /t/engine-2 --token file:/t/engine.token',
    );
  });

  it('of option 2 only the control plane knows the engine', () => {
    const parts = partsOf({ option: '2', workers: 1 });
    const ports = new Map(parts.map(({ name }, index) => [name, 9_000 + index]));
    const [control, , worker] = localParts(parts, { ...settings, option: '2', ports });
    expect(control?.args.slice(-2)).toEqual(['--engine', 'http://127.0.0.1:9001']);
    expect(control?.secrets).toEqual({ BPR_WASM_TOKEN: 'file:/t/engine.token' });
    expect([worker?.environment, worker?.secrets]).toEqual([{ LOG_LEVEL: 'warn', BPR_TOPOLOGY_CONTROL: 'http://127.0.0.1:9000' }, {}]);
    expect(worker?.args.join(' ')).toContain('--backend engine --capabilities engine:shared');
  });

  it('refuses sizes that make no sense', () => {
    expect(() => partsOf({ option: '1', workers: 0 })).toThrow(/workers is 0; it must be from 1 to 200/);
    expect(() => partsOf({ option: '2', workers: 1, engines: 2 })).toThrow(/option 2 has 1 shared engines, not 2/);
    expect(() => partsOf({ option: '1', workers: 1, engines: 1 })).toThrow(/option 1 has 0 shared engines/);
    expect(() => partsOf({ option: '3', workers: 1, engines: 0 })).toThrow(/engines is 0/);
  });
});
