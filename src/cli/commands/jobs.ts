import type { Command } from 'commander';
import {
  STATES,
  callDocument,
  callTitle,
  findCalls,
  parseCount,
  parseStates,
  parseUint64,
  readLedger,
  withLedgerOptions,
} from '../calls.ts';
import type { CallDocument, LedgerFlags } from '../calls.ts';
import type { CallRecord, CallState } from '../../ledger/ledger.ts';
import { redactText } from '../../telemetry/redact.ts';
import { print, table, toHex } from '../output.ts';
import type { Cli } from '../output.ts';
import { addSubmit } from './jobs-submit.ts';

interface ListFlags extends LedgerFlags {
  readonly state?: readonly CallState[];
  readonly service?: bigint;
  readonly limit: number;
}

interface ShowFlags extends LedgerFlags {
  readonly service?: bigint;
}

const LIST_EXAMPLES = `
Examples:
  bpr jobs list                                 the calls of the ledger, in order of arrival
  bpr jobs list --state failed,rejected --json  those that an operator should look at
  bpr jobs list --service 3 --limit 20

States: ${Object.keys(STATES).join(', ')}.`;

const SHOW_EXAMPLES = `
Examples:
  bpr jobs show 7 --service 3
  bpr jobs show 7 --json       inputs and output as 0x hex`;

const EXAMPLES = `
Examples:
  bpr jobs list --state failed
  bpr jobs show 7 --service 3 --json
  bpr jobs submit 0 --service 3 --types 'uint64 x' --args '[5]'`;

/** `bpr jobs`: what the ledger knows of the calls, and a new one. */
export function addJobs(program: Command, cli: Cli): void {
  const jobs = program.command('jobs').description('list, show and submit calls of jobs').addHelpText('after', EXAMPLES);
  addList(jobs, cli);
  addShow(jobs, cli);
  addSubmit(jobs, cli);
}

function addList(jobs: Command, { io }: Cli): void {
  withLedgerOptions(jobs.command('list').description('list calls'))
    .option('--state <states>', 'only calls in these states, comma-separated', parseStates)
    .option('--service <id>', 'only calls of this service', parseUint64)
    .option('--limit <count>', 'at most this many, the oldest', parseCount, 50)
    .addHelpText('after', LIST_EXAMPLES)
    .action(async (flags: ListFlags) => {
      const { state: states, service: serviceId, limit } = flags;
      const filter = { ...(states && { states }), ...(serviceId !== undefined && { serviceId }), limit };
      const { records, stats } = await readLedger(io, flags, (ledger) => ({ records: ledger.find(filter), stats: ledger.stats() }));
      const calls = records.map(callDocument);
      print(io, flags.json, { document: { calls, byState: stats.byState }, text: calls.length === 0 ? 'no calls' : listText(calls) });
    });
}

function listText(calls: readonly CallDocument[]): string {
  const head = ['SERVICE', 'CALL', 'JOB', 'STATE', 'ATTEMPTS', 'EXECUTOR', 'SEEN', 'ERROR'];
  const rows = calls.map((call) => [
    String(call.serviceId ?? '-'),
    String(call.callId ?? call.id),
    String(call.jobId),
    call.state,
    String(call.attempts),
    call.executor ?? '-',
    call.seenAt,
    call.errorCode ?? '',
  ]);
  return table([head, ...rows]);
}

function addShow(jobs: Command, { io }: Cli): void {
  withLedgerOptions(jobs.command('show').description('show one call').argument('<call>', 'its call id, or the id of a call of a producer'))
    .option('--service <id>', 'of this service: call ids count per service', parseUint64)
    .addHelpText('after', SHOW_EXAMPLES)
    .action(async (name: string, flags: ShowFlags) => {
      const records = await readLedger(io, flags, (ledger) => findCalls(ledger, name, flags.service));
      print(io, flags.json, { document: { calls: records.map(showDocument) }, text: records.map(showText).join('\n\n') });
    });
}

function showDocument(record: CallRecord): object {
  const { body, metadata, origin } = record.call;
  return {
    ...callDocument(record),
    inputs: body,
    ...(record.output && { output: record.output }),
    ...(origin && { origin: { ...origin, inputs: undefined } }),
    metadata,
  };
}

function showText(record: CallRecord): string {
  const { call, output } = record;
  const document = callDocument(record);
  const lines: [string, string | undefined][] = [
    ['state', `${record.state}: ${STATES[record.state]}`],
    ['id', call.id],
    ['caller', call.origin?.caller],
    ['block', call.origin && `${call.origin.blockNumber} (${call.origin.blockHash})`],
    ['submitted in', call.origin?.transactionHash],
    ['inputs', toHex(call.body)],
    ['executor', record.executor],
    ['attempts', String(record.attempts)],
    ['output', output && toHex(output)],
    ['error', record.errorMessage && redactText(`${record.errorCode ?? ''} ${record.errorMessage}`.trim())],
    ['settled in', record.transactionHash],
    ['seen', document.seenAt],
    ['updated', document.updatedAt],
  ];
  const rows = lines.flatMap(([name, value]) => (value === undefined ? [] : [[`  ${name}`, value]]));
  return [callTitle(record), table(rows)].join('\n');
}
