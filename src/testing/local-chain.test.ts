import { expect, test, vi } from 'vitest';
import { startLocalChain } from './local-chain.ts';

vi.mock('node:module', () => ({
  createRequire: () => ({
    resolve() {
      throw new Error('Cannot find module');
    },
  }),
}));

test('without the package of the node it says what to install', async () => {
  await expect(startLocalChain()).rejects.toMatchObject({
    code: 'PEER_MISSING',
    message: expect.stringContaining('npm install --save-dev @foundry-rs/anvil'),
    details: { package: '@foundry-rs/anvil' },
  });
});
