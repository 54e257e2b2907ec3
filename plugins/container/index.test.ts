import { describe, expect, it } from 'vitest';
import { silentTelemetry, systemClock } from '../../src/plugin.ts';
import type { BackendFactory, InstanceBackend } from '../../src/plugin.ts';
import { containerPlugin } from './index.ts';

function backend(options: unknown): InstanceBackend {
  const factories: BackendFactory[] = [];
  const none = (): never => {
    throw new Error('only a backend and a host are expected');
  };
  containerPlugin.register({
    backend: (factory) => void factories.push(factory),
    executor: none,
    deployer: none,
    host: () => {},
    queue: none,
  });
  const [factory = none] = factories;
  return factory(options, { clock: systemClock, telemetry: silentTelemetry });
}

describe('plugin container', () => {
  it('makes a backend of a container engine, or of runc, and touches nothing', () => {
    expect(backend({ folder: '/nowhere', pull: 'never', limits: { pidsMax: 16 } }).name).toBe('docker');
    expect(backend({ folder: '/nowhere', driver: 'runc', runcPath: '/usr/sbin/runc' }).name).toBe('runc');
  });

  it.each([
    [undefined, /takes an object/],
    [{}, /needs the option folder/],
    [{ folder: '' }, /folder .* is not a text/],
    [{ folder: '/x', pull: 'sometimes' }, /pull .* is not a pull/],
    [{ folder: '/x', driver: 'lxc' }, /driver .* is not a driver/],
    [{ folder: '/x', colour: 'red' }, /by engine has no option colour; it has .*registry/],
    [{ folder: '/x', driver: 'runc', registry: 'r' }, /by runc has no option registry/],
    [{ folder: '/x', limits: { pidsMax: 5 } }, /pidsMax is 5; it must be at least 16: node hangs/],
    [{ folder: '/x', limits: { cpusMin: 0 } }, /cpusMin is 0/],
    [{ folder: '/x', limits: { openFilesMax: 1 } }, /openFilesMax is 1/],
    [{ folder: '/x', limits: { outputBytesPerSecond: 0 } }, /outputBytesPerSecond is 0/],
    [{ folder: '/x', driver: 'runc', limits: { pidsMax: 5 } }, /pidsMax is 5/],
  ])('refuses %j', (options, message) => {
    expect(() => backend(options)).toThrow(
      expect.objectContaining({ code: 'CONFIG_INVALID', message: expect.stringMatching(message) as string }) as Error,
    );
  });
});
