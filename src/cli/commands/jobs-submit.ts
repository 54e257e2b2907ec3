import { InvalidArgumentError } from 'commander';
import type { Command } from 'commander';
import type { ChainCall, Hex } from '../../job/call.ts';
import { RunnerError } from '../../errors.ts';
import { parseCount, parseUint64 } from '../calls.ts';
import { settingsOf } from '../environment.ts';
import type { ChainFlags } from '../environment.ts';
import { print, progress, toHex, toJson } from '../output.ts';
import type { Cli, Io } from '../output.ts';

interface SubmitFlags extends ChainFlags {
  readonly service: bigint;
  readonly args?: string;
  readonly types?: string;
  readonly data?: Hex;
  readonly result?: string;
  readonly key: string;
  readonly value?: bigint;
  readonly wait: boolean;
  readonly timeout: number;
  readonly json?: true;
}

const EXAMPLES = `
Examples:
  bpr jobs submit 0 --service 3 --types 'uint64 x' --args '[5]' --result uint64
  bpr jobs submit 0 --service 3 --args '[5]' --key file:/run/secrets/caller   the schema on chain says the types
  bpr jobs submit 1 --service 3 --data 0x00ff --no-wait --json

The key is named, never written: env:NAME or file:/path.
Environment: HTTP_RPC_URL or RPC_URL, TANGLE_CONTRACT, CHAIN_ID.

Exit status: 0 the result came (with --no-wait: the call is mined); 1 failed, nothing is known of a result; 2 called in a wrong way;
3 the contract refuses the call (CALL_REFUSED); 4 the call was sent, its result did not come in time (RESULT_TIMEOUT).`;

/** `bpr jobs submit`: calls a job as a customer of the service would. */
export function addSubmit(jobs: Command, { io }: Cli): void {
  jobs
    .command('submit')
    .description('call a job of a service and wait for its result')
    .argument('<job>', 'index of the job', parseJobIndex)
    .requiredOption('--service <id>', 'the service', parseUint64)
    .option('--args <json>', 'arguments as a JSON array')
    .option('--types <types>', "their Solidity types, like 'uint64 x, string name'; a schema on chain goes first")
    .option('--data <hex>', 'the encoded arguments, in place of --args', parseHex)
    .option('--result <types>', 'Solidity types of the result, to show its values')
    .option('--key <reference>', 'where the private key of the caller is', 'env:CALLER_PRIVATE_KEY')
    .option('--value <wei>', 'payment, in wei; default: none', parseWei)
    .option('--no-wait', 'do not wait for the result')
    .option('--timeout <seconds>', 'how long to wait for block and result', parseCount, 120)
    .option('--rpc-url <url>', 'JSON-RPC endpoint of the chain')
    .option('--contract <address>', 'address of the Tangle contract')
    .option('--json', 'print one JSON document')
    .addHelpText('after', EXAMPLES)
    .action(async (jobIndex: number, flags: SubmitFlags) => {
      if ((flags.args === undefined) === (flags.data === undefined)) {
        throw new RunnerError('CONFIG_INVALID', 'the arguments are missing or given twice: pass either --args or --data');
      }
      await submit(io, jobIndex, flags);
    });
}

async function submit(io: Io, jobIndex: number, flags: SubmitFlags): Promise<void> {
  const { rpcUrls: rpcUrl, contract, chainId } = settingsOf(io, flags);
  if (contract === undefined) throw new RunnerError('CONFIG_INVALID', 'the contract is not known: set TANGLE_CONTRACT or pass --contract');
  const [{ RpcChainClient }, { signerFromKey }, { Secret }, { awaitResults, submitJob }] = await Promise.all([
    import('../../chain/rpc.ts'),
    import('../../chain/signer.ts'),
    import('../../plugin/secret.ts'),
    import('../submission.ts'),
  ]);
  const key = await new Secret(flags.key, { environment: { ...io.env } }).read();
  // The key is the caller's: the message names where it comes from, never what it is.
  const signer = signerFromKey(key, `${flags.key} holds no private key of the caller`);
  const chain = new RpcChainClient({ rpcUrl, contract, ...(chainId !== undefined && { chainId }) });
  const signal = AbortSignal.timeout(flags.timeout * 1000);
  try {
    progress(io, `calling job ${jobIndex} of service ${flags.service} as ${signer.address} ...`);
    const { service: serviceId, value, args, types, data, result: resultTypes } = flags;
    const submission = {
      serviceId,
      jobIndex,
      value: value ?? 0n,
      ...(args !== undefined && { args }),
      ...(types !== undefined && { types }),
      ...(data && { data }),
    };
    const { call, decodeOutput } = await submitJob({ chain, signer, submission, resultTypes, signal });
    const base = {
      chainId: chain.chainId,
      serviceId,
      callId: call.callId,
      jobIndex,
      transactionHash: call.transactionHash,
      blockNumber: call.blockNumber,
    };
    if (!flags.wait) {
      print(io, flags.json, { document: base, text: title(call) });
      return;
    }
    progress(io, `${title(call)}\nwaiting for the result ...`);
    const results = (await awaitResults(chain, call, signal)).map(({ operator, output, transactionHash }) => ({
      operator,
      transactionHash,
      output,
      ...decodeOutput(output),
    }));
    const lines = results.map(
      ({ operator, output, values, problem }) =>
        `${operator}: ${values ? toJson(values, 0) : toHex(output)}${problem === undefined ? '' : `: ${problem}`}`,
    );
    print(io, flags.json, { document: { ...base, results }, text: [title(call), ...lines].join('\n') });
  } finally {
    await chain.close();
  }
}

function title({ callId, serviceId, blockNumber, transactionHash }: ChainCall): string {
  return `call ${callId} of service ${serviceId}, block ${blockNumber}, transaction ${transactionHash}`;
}

function parseJobIndex(text: string): number {
  if (!/^\d{1,3}$/.test(text) || Number(text) > 255) throw new InvalidArgumentError('It must be a number from 0 to 255.');
  return Number(text);
}

function parseHex(text: string): Hex {
  if (!/^0x(?:[\da-f]{2})*$/i.test(text)) throw new InvalidArgumentError('It must be 0x and an even number of hexadecimal digits.');
  return text as Hex; // as: matched above
}

function parseWei(text: string): bigint {
  if (!/^\d{1,30}$/.test(text)) throw new InvalidArgumentError('It must be an amount in wei.');
  return BigInt(text);
}
