import { describe, expect, test } from 'vitest';

import { RunnerError } from '../errors.ts';
import type { Hex } from '../job/call.ts';
import { countOf, isRevert, parseReceipt, priorityFee, revertData, sendOutcome } from './rpc-answers.ts';

const rpcError = (rpcMessage: string, rpcCode = -32000, data?: unknown) =>
  new RunnerError('RPC_ERROR', rpcMessage, { details: { rpcMessage, rpcCode, data } });

describe('sendOutcome', () => {
  test.each([
    // geth and erigon
    ['already known', 'known'],
    ['nonce too low: next nonce 5, tx nonce 3', 'nonce-too-low'],
    ['insufficient funds for gas * price + value: balance 0, tx cost 21000, overshot 21000', 'underfunded'],
    ['replacement transaction underpriced', 'underpriced'],
    ['transaction underpriced: gas tip cap 0, minimum needed 1000000', 'underpriced'],
    ['max fee per gas less than block base fee: address 0x00, maxFeePerGas: 1, baseFee: 875000000', 'fee-too-low'],
    ['INTERNAL_ERROR: fee too low', 'fee-too-low'],
    ['future transaction tries to replace pending', undefined],
    // nethermind
    ['AlreadyKnown', 'known'],
    ['OldNonce, Current nonce: 5, nonce of rejected tx: 3.', 'nonce-too-low'],
    ['InsufficientFunds, Account balance: 0, cumulative cost: 100', 'underfunded'],
    ['FeeTooLow, MaxFeePerGas too low. MaxFeePerGas: 1, BaseFee: 7', 'fee-too-low'],
    ['FeeTooLowToCompete', 'underpriced'],
    ['ReplacementNotAllowed', 'underpriced'],
    // besu
    ['Known transaction', 'known'],
    ['Nonce too low', 'nonce-too-low'],
    ['Upfront cost exceeds account balance', 'underfunded'],
    ['Replacement transaction underpriced', 'underpriced'],
    ['Gas price below configured minimum gas price', 'fee-too-low'],
    ['transaction gas price is less than block base fee', 'fee-too-low'],
    // anvil
    ['transaction already imported', 'known'],
    ['nonce too low', 'nonce-too-low'],
    ['Insufficient funds for gas * price + value', 'underfunded'],
    ['max fee per gas less than block base fee', 'fee-too-low'],
    // OpenEthereum and its heirs
    ['Transaction with the same hash was already imported.', 'known'],
    ['Transaction gas price supplied is too low. There is another transaction with same nonce in the queue.', 'underpriced'],
    // none of them
    ['exceeds block gas limit', undefined],
    ['intrinsic gas too low', undefined],
    ['invalid sender', undefined],
    ['oversized data', undefined],
    ['nonce too high', undefined],
  ])('%s', (message, outcome) => {
    expect(sendOutcome(rpcError(message))).toBe(outcome);
  });
});

describe('reverts', () => {
  const data = `0x0a55512f${'00'.repeat(64)}`;
  test.each([
    ['geth', rpcError('execution reverted', 3, data)],
    ['nethermind', rpcError('execution reverted', -32015, data)],
    ['OpenEthereum', rpcError('VM execution error.', -32015, `Reverted ${data}`)],
    ['besu', rpcError('Execution reverted', -32000, data)],
    ['hardhat', rpcError('Error: VM Exception: reverted', -32603, { message: 'reverted', data })],
    ['a proxy', rpcError('Internal error: revert', -32603, { originalError: { code: 3, data } })],
  ])('%s', (_, error) => {
    expect(isRevert(error)).toBe(true);
    expect(revertData(error)).toBe(data);
  });

  test('without data', () => {
    expect(isRevert(rpcError('execution reverted', -32000))).toBe(true);
    expect(revertData(rpcError('execution reverted', -32000))).toBeUndefined();
    expect(revertData(rpcError('execution reverted', 3, '0x'))).toBeUndefined();
  });

  test('other failures are none', () => {
    expect(isRevert(rpcError('gas required exceeds allowance (21000)', -32000))).toBe(false);
    expect(revertData(rpcError('limit', -32000, { data: { data: { data: { data: { data } } } } }))).toBeUndefined();
  });
});

describe('countOf', () => {
  test('counts', () => expect(countOf('0x10', 'eth_getTransactionCount')).toBe(16));
  test.each([null, 16, '0x', '16', `0x${'f'.repeat(64)}`])('%s is no count', (raw) => {
    expect(() => countOf(raw, 'eth_getTransactionCount')).toThrow(expect.objectContaining({ code: 'RPC_RESPONSE_INVALID' }));
  });
});

describe('parseReceipt', () => {
  const hash = `0x${'AB'.repeat(32)}`;
  const lower: Hex = `0x${'ab'.repeat(32)}`;
  const good = { transactionHash: hash, blockHash: hash, blockNumber: '0x10', status: '0x1', gasUsed: '0x5208', effectiveGasPrice: '0x7' };
  test('mined', () => {
    expect(parseReceipt(good, lower)).toEqual({
      transactionHash: lower,
      block: { number: 16n, hash: lower },
      success: true,
      gasUsed: 21000n,
      effectiveGasPrice: 7n,
    });
    expect(parseReceipt({ ...good, status: '0x0' }, lower)?.success).toBe(false);
    expect(parseReceipt({ ...good, effectiveGasPrice: undefined }, lower)?.effectiveGasPrice).toBe(0n);
  });
  test('not mined', () => {
    expect(parseReceipt(null, lower)).toBeUndefined();
    expect(parseReceipt({ ...good, blockHash: null, blockNumber: null }, lower)).toBeUndefined();
  });
  test('of another transaction', () => {
    const other: Hex = `0x${'cd'.repeat(32)}`;
    expect(() => parseReceipt(good, other)).toThrow(expect.objectContaining({ code: 'RPC_RESPONSE_INVALID' }));
  });
  test.each(['transactionHash', 'blockHash', 'blockNumber', 'status', 'gasUsed'])('without %s it is malformed', (field) => {
    expect(() => parseReceipt({ ...good, [field]: 'x' }, lower)).toThrow(expect.objectContaining({ code: 'RPC_RESPONSE_INVALID' }));
  });
});

describe('priorityFee', () => {
  test('the middle tip of the blocks that had transactions', () => {
    const history = {
      baseFeePerGas: ['0x5', '0x6', '0x7', '0x8', '0x9'],
      gasUsedRatio: [0.5, 0, 0.1, 0.9],
      reward: [['0x64'], ['0x0'], ['0xc8'], ['0x12c']],
    };
    expect(priorityFee(history)).toEqual({ baseFeePerGas: 9n, tip: 200n });
  });
  test('no transactions, no tip', () => {
    expect(priorityFee({ baseFeePerGas: ['0x5', '0x4'], gasUsedRatio: [0], reward: [['0x0']] })).toEqual({
      baseFeePerGas: 4n,
      tip: undefined,
    });
    expect(priorityFee({ baseFeePerGas: ['0x5', '0x4'], gasUsedRatio: [0.5] })).toEqual({ baseFeePerGas: 4n, tip: undefined });
  });
  test.each([null, {}, { baseFeePerGas: [] }, { baseFeePerGas: ['five'] }])('%s is malformed', (history) => {
    expect(() => priorityFee(history)).toThrow(expect.objectContaining({ code: 'RPC_RESPONSE_INVALID' }));
  });
});
