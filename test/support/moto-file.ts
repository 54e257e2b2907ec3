/** moto for the tests of one file. */

import { afterAll, beforeAll } from 'vitest';
import { requirePeer } from '../require.ts';
import type { AwsWorld } from './aws-platform.ts';
import { probeMoto, startAwsProxy, startMoto } from './moto.ts';

/** Hooks of the file that come later find it started, and still there. */
export function useMoto() {
  let started: AwsWorld | undefined;
  let isThere = false;
  const testMoto = requirePeer('moto', () => {
    probeMoto();
    isThere = true;
  });
  beforeAll(async () => {
    if (!isThere) return;
    const moto = await startMoto();
    started = { moto, proxy: await startAwsProxy(moto.url) };
  });
  afterAll(async () => {
    await started?.proxy.close();
    await started?.moto.close();
  });
  const present = (): AwsWorld => {
    if (!started) throw new Error('moto did not start');
    return started;
  };
  const world: AwsWorld = {
    get moto() {
      return present().moto;
    },
    get proxy() {
      return present().proxy;
    },
  };
  return {
    testMoto,
    isThere,
    world,
    async empty() {
      await started?.moto.reset();
      started?.proxy.reset();
    },
  };
}
