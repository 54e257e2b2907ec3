import type { Command } from 'commander';
import {
  CALL_ARGUMENT,
  STATES,
  callDocument,
  callTitle,
  changeLedger,
  findCalls,
  meaningOf,
  parseCount,
  parseJobId,
  parseSince,
  parseStates,
  parseUint64,
  readLedger,
  withLedgerOptions,
} from '../calls.ts';
import type { CallDocument, LedgerFlags } from '../calls.ts';
import type { CallRecord, CallState } from '../../ledger/ledger.ts';
import { RunnerError } from '../../errors.ts';
import { redactText } from '../../telemetry/redact.ts';
import { print, table, toHex } from '../output.ts';
import type { Cli } from '../output.ts';
import { addSubmit } from './jobs-submit.ts';

interface ListFlags extends LedgerFlags {
  readonly state?: readonly CallState[];
  readonly service?: bigint;
  readonly job?: bigint;
  readonly since?: number;
  readonly oldestFirst?: true;
  readonly limit: number;
}

interface ShowFlags extends LedgerFlags {
  readonly service?: bigint;
}

const LIST_EXAMPLES = `
Examples:
  bpr jobs list                                 the last 50 calls of the ledger, the newest first
  bpr jobs list --state failed,rejected --json  those that an operator should look at
  bpr jobs list --service 3 --job 0 --since 2h --limit 20
  bpr jobs list --oldest-first --since 2026-11-21T07:00:00Z

States: ${Object.keys(STATES).join(', ')}.

Exit status: 0 done; 1 failed, the message begins with a code of ERRORS.md; 2 called in a wrong way.`;

const RETRY_EXAMPLES = `
Examples:
  bpr jobs retry 7 --service 3   call 7 of service 3
  bpr jobs retry seq:12          the call in row 12, as jobs list shows it

A call that failed, or that nobody took, is executed again; the result of a rejected one is sent again. No runner may use the ledger meanwhile.

Exit status: 0 it is tried again when the runner starts; 1 not: no such call (NOT_FOUND), it did not fail (STATE_INVALID), a runner
uses the ledger (LEDGER_LOCKED); 2 called in a wrong way.`;

const SHOW_EXAMPLES = `
Examples:
  bpr jobs show 7 --service 3
  bpr jobs show 7 --json       inputs and output as 0x hex

Exit status: 0 done; 1 failed, the message begins with a code of ERRORS.md; 2 called in a wrong way.`;

const EXAMPLES = `
Examples:
  bpr jobs list --state failed
  bpr jobs show 7 --service 3 --json
  bpr jobs retry 7 --service 3
  bpr jobs submit 0 --service 3 --types 'uint64 x' --args '[5]'`;

/** `bpr jobs`: what the ledger knows of the calls, and a new one. */
export function addJobs(program: Command, cli: Cli): void {
  const jobs = program.command('jobs').description('list, show, retry and submit calls of jobs').addHelpText('after', EXAMPLES);
  addList(jobs, cli);
  addShow(jobs, cli);
  addRetry(jobs, cli);
  addSubmit(jobs, cli);
}

function addList(jobs: Command, { io }: Cli): void {
  withLedgerOptions(jobs.command('list').description('list calls'))
    .option('--state <states>', 'only calls in these states, comma-separated', parseStates)
    .option('--service <id>', 'only calls of this service', parseUint64)
    .option('--job <id>', 'only calls of this job', parseJobId)
    .option('--since <time>', 'only calls seen since then: 30s, 15m, 2h, 7d ago, or a date', parseSince)
    .option('--limit <count>', 'at most this many', parseCount, 50)
    .option('--oldest-first', 'in order of arrival')
    .addHelpText('after', LIST_EXAMPLES)
    .action(async (flags: ListFlags) => {
      const { state: states, service: serviceId, job: jobId, since: seenSince, limit } = flags;
      const filter = {
        ...(states && { states }),
        ...(serviceId !== undefined && { serviceId }),
        ...(jobId !== undefined && { jobId }),
        ...(seenSince !== undefined && { seenSince }),
        newestFirst: !flags.oldestFirst,
        limit,
      };
      const { records, stats } = await readLedger(io, flags, (ledger) => ({ records: ledger.find(filter), stats: ledger.stats() }));
      const calls = records.map(callDocument);
      print(io, flags.json, { document: { calls, byState: stats.byState }, text: calls.length === 0 ? 'no calls' : listText(calls) });
    });
}

function listText(calls: readonly CallDocument[]): string {
  const head = ['SEQ', 'SERVICE', 'CALL', 'JOB', 'STATE', 'ATTEMPTS', 'EXECUTOR', 'SEEN', 'ERROR'];
  const rows = calls.map((call) => [
    String(call.seq),
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
  withLedgerOptions(jobs.command('show').description('show one call').argument('<call>', CALL_ARGUMENT))
    .option('--service <id>', 'of this service: call ids count per service', parseUint64)
    .addHelpText('after', SHOW_EXAMPLES)
    .action(async (name: string, flags: ShowFlags) => {
      const records = await readLedger(io, flags, (ledger) => findCalls(ledger, name, flags.service));
      print(io, flags.json, { document: { calls: records.map(showDocument) }, text: records.map(showText).join('\n\n') });
    });
}

function addRetry(jobs: Command, { io }: Cli): void {
  withLedgerOptions(
    jobs.command('retry').description('have a call that failed or was rejected tried again').argument('<call>', CALL_ARGUMENT),
  )
    .option('--service <id>', 'of this service: call ids count per service', parseUint64)
    .addHelpText('after', RETRY_EXAMPLES)
    .action(async (name: string, flags: ShowFlags) => {
      const { seq } = await readLedger(io, flags, (ledger) => oneToRetry(findCalls(ledger, name, flags.service), name));
      const record = await changeLedger(io, flags, async (ledger) => {
        await ledger.retry(seq);
        return oneToShow(ledger.get(seq), seq);
      });
      const next = record.state === 'seen' ? 'it is executed' : 'its result is settled';
      const text = `${callTitle(record)} is ${record.state} again: ${next} when the runner starts`;
      print(io, flags.json, { document: { calls: [callDocument(record)] }, text });
    });
}

function oneToRetry(records: readonly CallRecord[], name: string): CallRecord {
  const wasNotRun = ({ state, errorCode }: CallRecord): boolean => state === 'ignored' && errorCode !== undefined;
  const candidates = records.filter((record) => record.state === 'failed' || record.state === 'rejected' || wasNotRun(record));
  const [record] = candidates;
  if (record && candidates.length === 1) return record;
  if (record) {
    const rows = candidates.map((candidate) => `seq:${candidate.seq} (${callTitle(candidate)})`).join(', ');
    throw new RunnerError('CONFIG_INVALID', `${name} names several such calls: ${rows}; name one of them so, or pass --service`);
  }
  const states = records.map((other) => `${callTitle(other)} is ${other.state}: ${meaningOf(other)}`).join('; ');
  throw new RunnerError('STATE_INVALID', `only calls that failed, were rejected or found nobody to run them are tried again; ${states}`);
}

function oneToShow(record: CallRecord | undefined, seq: number): CallRecord {
  if (!record) throw new RunnerError('NOT_FOUND', `the ledger has no row ${seq} any more`);
  return record;
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
    ['state', `${record.state}: ${meaningOf(record)}`],
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
