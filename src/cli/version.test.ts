import { expect, it } from 'vitest';
import { ownDependency, ownVersion } from './version.ts';

it('a project depends on an installed package by its version, on a clone by its folder', () => {
  expect(ownDependency(new URL('file:///home/ada/app/node_modules/blueprint-runner/'))).toBe(`^${ownVersion()}`);
  expect(ownDependency(new URL('file:///home/ada/blueprint%20runner/'))).toBe('file:/home/ada/blueprint runner');
});
