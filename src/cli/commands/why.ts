import type { Command } from 'commander';
import type { CallRecord, Ledger, LedgerEvent, LedgerTransaction } from '../../ledger/ledger.ts';
import { createRedactor, redactText } from '../../telemetry/redact.ts';
import {
  CALL_ARGUMENT,
  callDocument,
  callTitle,
  findCalls,
  fingerprint,
  meaningOf,
  parseUint64,
  readLedger,
  withLedgerOptions,
} from '../calls.ts';
import type { LedgerFlags } from '../calls.ts';
import { print, printable, table, timeText } from '../output.ts';
import type { Cli } from '../output.ts';

interface WhyFlags extends LedgerFlags {
  readonly service?: bigint;
}

const EXAMPLES = `
Examples:
  bpr why 7 --service 3         from the event to the transaction, step by step
  bpr why 7 --json | jq '.calls[0].transactions'

Works beside a running runner: the ledger is only read.

Exit status: 0 done; 1 failed, the message begins with a code of ERRORS.md; 2 called in a wrong way.`;

/** `bpr why`: the causal chain of one call. */
export function addWhy(program: Command, { io }: Cli): void {
  withLedgerOptions(program.command('why').description('explain what happened to a call, and why').argument('<call>', CALL_ARGUMENT))
    .option('--service <id>', 'of this service: call ids count per service', parseUint64)
    .addHelpText('after', EXAMPLES)
    .action(async (name: string, flags: WhyFlags) => {
      const stories = await readLedger(io, flags, (ledger) => findCalls(ledger, name, flags.service).map((record) => tell(ledger, record)));
      print(io, flags.json, { document: { calls: stories.map(storyDocument) }, text: stories.map(storyText).join('\n\n') });
    });
}

interface Story {
  readonly record: CallRecord;
  readonly events: readonly LedgerEvent[];
  readonly transactions: readonly LedgerTransaction[];
}

function tell(ledger: Ledger, record: CallRecord): Story {
  const redact = createRedactor();
  const events = ledger.events(record.seq).map((event) => ({ ...event, detail: redact(event.detail) as LedgerEvent['detail'] })); // as: an object stays one
  return { record, events, transactions: ledger.transactionsOf(record.seq) };
}

function storyDocument({ record, events, transactions }: Story): object {
  const { origin, body } = record.call;
  const { state, output } = record;
  return {
    ...callDocument(record),
    because: because(record),
    event: origin && {
      chainId: origin.chainId,
      contract: origin.contract,
      blockNumber: origin.blockNumber,
      blockHash: origin.blockHash,
      transactionHash: origin.transactionHash,
      logIndex: origin.logIndex,
      caller: origin.caller,
      quotedOperators: origin.quotedOperators,
    },
    inputs: fingerprint(body),
    output: output && fingerprint(output),
    // The signed bytes could be sent by whoever reads them.
    transactions: transactions.map(({ raw: _raw, calls, ...transaction }) => ({ ...transaction, resultsCarried: calls.length })),
    feeBumps: feeBumps(transactions),
    final: state === 'final',
    events: events.map(({ at, kind, detail }) => ({ at: timeText(at), kind, detail })),
  };
}

function because(record: CallRecord): string {
  const reason = [record.errorCode, record.errorMessage].filter((text) => text !== undefined).join(': ');
  const meaning = meaningOf(record);
  return redactText(reason === '' ? meaning : `${meaning} (${reason})`);
}

/** Each further version of a nonce offers more for its gas. */
function feeBumps(transactions: readonly LedgerTransaction[]): number {
  return transactions.length - new Set(transactions.map(({ account, nonce }) => `${account}/${nonce}`)).size;
}

function storyText(story: Story): string {
  const { record, events, transactions } = story;
  const rows = events.map(({ at, kind, detail }) => [timeText(at), kind, detailText(detail)]);
  const { output } = record;
  const lines = [callTitle(record), `${record.state}: ${printable(because(record))}`, '', table([['TIME', 'EVENT', 'DETAIL'], ...rows])];
  if (output) lines.push('', `output: ${output.length} bytes, sha256 ${fingerprint(output).sha256}`);
  if (transactions.length > 0) lines.push('', transactionsText(transactions), `fee bumps: ${feeBumps(transactions)}`);
  lines.push('', `final: ${record.state === 'final' ? 'yes' : 'no'}`);
  return lines.join('\n');
}

function detailText(detail: LedgerEvent['detail']): string {
  const known = Object.entries(detail).filter(([, value]) => value !== null && value !== undefined);
  return known.map(([name, value]) => `${name} ${valueText(name, value)}`).join(', ');
}

function valueText(name: string, value: unknown): string {
  if (typeof value === 'number' && name.endsWith('At')) return timeText(value);
  if (typeof value === 'number') return String(Number(value.toFixed(3)));
  return typeof value === 'string' ? value : JSON.stringify(value);
}

function transactionsText(transactions: readonly LedgerTransaction[]): string {
  const rows = transactions.map((transaction) => [
    String(transaction.nonce),
    transaction.state,
    transaction.purpose,
    transaction.hash,
    gwei(transaction.maxFeePerGas),
    String(transaction.gas),
    String(transaction.calls.length),
    transaction.block ? String(transaction.block.number) : '-',
  ]);
  return table([['NONCE', 'STATE', 'PURPOSE', 'TRANSACTION', 'MAX FEE (GWEI)', 'GAS LIMIT', 'RESULTS', 'BLOCK'], ...rows]);
}

function gwei(wei: bigint): string {
  const amount = Number(wei) / 1e9;
  // Where gas costs next to nothing, all of it is behind the third place.
  return amount >= 1 ? amount.toFixed(3) : String(Number(amount.toPrecision(6)));
}
