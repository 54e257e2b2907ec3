import { describe, expect, it } from 'vitest';
import { resolveConfig } from './config.ts';

const failure = (config: Parameters<typeof resolveConfig>[0], env: Record<string, string> = {}): unknown => {
  try {
    resolveConfig(config, env);
  } catch (error) {
    return error;
  }
  return undefined;
};

describe('the configuration', () => {
  it('has defaults when nothing is said', () => {
    expect(resolveConfig({}, {})).toMatchObject({
      serviceIds: [],
      rpcUrls: ['http://localhost:9944'],
      contract: undefined,
      chainMode: 'real',
      concurrency: 128,
      drainMs: 30_000,
      retentionMs: 604_800_000,
      dryRun: false,
      privateKey: undefined,
      logLevel: 'info',
    });
  });

  it('is read from the environment', () => {
    const env = {
      BLUEPRINT_ID: '7',
      SERVICE_ID: '1, 0x2',
      TANGLE_CONTRACT_ADDRESS: `0x${'AB'.repeat(20)}`,
      RPC_URL: 'http://a:1,https://b',
      WS_RPC_URL: 'ws://a:2',
      CHAIN_ID: '84532',
      BPR_DATA_DIR: '/data',
      OPERATOR_PRIVATE_KEY: 'not shown',
      BPR_DRY_RUN: 'true',
      BPR_CONFIRMATIONS: '3',
      BPR_MAX_FEE_PER_GAS: '30000000000',
      LOG_LEVEL: 'warn',
    };
    expect(resolveConfig({}, env)).toMatchObject({
      blueprintId: 7n,
      serviceIds: [1n, 2n],
      contract: `0x${'ab'.repeat(20)}`,
      rpcUrls: ['http://a:1', 'https://b'],
      wsUrl: 'ws://a:2',
      chainId: 84532,
      dataDir: '/data',
      privateKey: 'env:OPERATOR_PRIVATE_KEY',
      dryRun: true,
      confirmations: 3,
      maxFeePerGas: 30_000_000_000n,
      logLevel: 'warn',
    });
  });

  it('prefers what the program says, and the first of two names', () => {
    const env = { SERVICE_ID: '1', HTTP_RPC_URL: 'http://first', RPC_URL: 'http://second', BPR_DRY_RUN: '1' };
    expect(resolveConfig({ serviceIds: [5n], dryRun: false }, env)).toMatchObject({
      serviceIds: [5n],
      dryRun: false,
      rpcUrls: ['http://first'],
    });
  });

  it('takes an empty variable for one that is not set', () => {
    expect(resolveConfig({}, { SERVICE_ID: '', LOG_LEVEL: ' ' })).toMatchObject({ serviceIds: [], logLevel: 'info' });
  });

  it.each([
    [{ SERVICE_ID: '1,x' }, 'SERVICE_ID is "x"; it must be an unsigned integer'],
    [{ CHAIN_ID: '-1' }, 'CHAIN_ID is "-1"; it must be an integer, 0 or more'],
    [{ TANGLE_CONTRACT: '0x12' }, 'TANGLE_CONTRACT is "0x12"; it must be an address: 0x and 40 hexadecimal digits'],
    [{ BPR_MAX_FEE_PER_GAS: '1.5' }, 'BPR_MAX_FEE_PER_GAS is "1.5"; it must be an unsigned integer'],
    [{ BPR_MAX_FEE_PER_GAS: '0' }, 'BPR_MAX_FEE_PER_GAS is "0"; it must be wei per gas, 1 or more'],
    [{ BPR_DRY_RUN: 'maybe' }, 'BPR_DRY_RUN is "maybe"; it must be true or false'],
    [{ BPR_CONCURRENCY: '0' }, 'BPR_CONCURRENCY is "0"; it must be an integer, 1 or more'],
    [{ LOG_LEVEL: 'loud' }, 'LOG_LEVEL is "loud"; it must be one of debug, info, warn, error, silent'],
    [{ BPR_CHAIN_MODE: 'fake' }, 'BPR_CHAIN_MODE is "fake"; it must be one of real, mock, auto'],
  ])('names variable, value and remedy: %o', (env, message) => {
    expect(failure({}, env)).toMatchObject({ code: 'CONFIG_INVALID', message });
  });

  it('checks what the program says too', () => {
    expect(failure({ concurrency: 0 })).toMatchObject({
      code: 'CONFIG_INVALID',
      message: 'concurrency is "0"; it must be an integer, 1 or more',
    });
    expect(failure({ metrics: { port: 99_999 } })).toMatchObject({
      message: 'metrics.port is "99999"; it must be an integer from 0 to 65535',
    });
    expect(failure({ drainMs: 1.5 })).toMatchObject({ code: 'CONFIG_INVALID' });
  });

  it('does not repeat an address, which can hold a key', () => {
    const error = failure({}, { HTTP_RPC_URL: 'ftp://user:secret@host' });
    const message = 'HTTP_RPC_URL is not an address that begins with http:// or https://';
    expect(error).toMatchObject({ code: 'CONFIG_INVALID', message });
    expect(String(error)).not.toContain('secret');
    expect(failure({ wsUrl: 'http://host' })).toMatchObject({ message: 'wsUrl is not an address that begins with ws:// or wss://' });
  });
});
