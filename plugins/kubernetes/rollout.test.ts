import { expect, test } from 'vitest';
import { podEnd } from './rollout.ts';

test('a pod ends with our container, wherever a mesh puts its own, and whether that one runs on', () => {
  const pod = (phase: string, ...containerStatuses: readonly object[]) => ({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name: 'p' },
    status: { phase, containerStatuses },
  });
  const mesh = { name: 'istio-proxy', state: { running: {} } };
  const ended = { name: 'function', state: { terminated: { exitCode: 137, reason: 'OOMKilled' } } };
  expect(podEnd(pod('Running', mesh, ended))).toEqual({ exitCode: 137, reason: 'OOMKilled' });
  const meshEnded = { name: 'istio-proxy', state: { terminated: { exitCode: 1, reason: 'Error' } } };
  expect(podEnd(pod('Running', meshEnded, { name: 'function', state: { running: {} } }))).toBeUndefined();
  expect(podEnd(pod('Failed', meshEnded, ended))).toEqual({ exitCode: 137, reason: 'OOMKilled' });
});
