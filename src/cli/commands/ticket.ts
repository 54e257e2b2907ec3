import type { Command } from 'commander';
import { InvalidArgumentError, Option } from 'commander';
import { TICKET_SCOPES, isScope } from '../../queue/ticket.ts';
import type { TicketScope } from '../../queue/ticket.ts';
import { parseCount } from '../calls.ts';
import { ACCESS_HELP, collect, parseSpan, withAccess, withControl } from '../control-access.ts';
import type { ControlFlags } from '../control-access.ts';
import { print, table, timeText } from '../output.ts';
import type { Cli } from '../output.ts';

interface CreateFlags extends ControlFlags {
  readonly name?: string;
  readonly scope?: readonly TicketScope[];
  readonly capability?: readonly string[];
  readonly uses: number;
  readonly duration: number;
  readonly after?: number;
}

/** As the control plane tells it. */
interface Ticket {
  readonly id: string;
  readonly name: string;
  readonly scopes: readonly string[];
  readonly uses: number;
  readonly used: number;
  readonly notBefore: number;
  readonly expiresAt: number;
  readonly closedAt?: number;
  readonly revokedAt?: number;
  readonly ticket?: string;
}

const EXAMPLES = `
Examples:
  bpr ticket create --name gpu-7                        one worker may enrol within an hour
  bpr ticket create --uses 20 --duration 7d --capability gpu
  bpr ticket create --scope publish                     for who publishes jobs from elsewhere
  bpr ticket list
  bpr ticket revoke 0123456789abcdef0123456789abcdef    its workers are refused at once
  bpr ticket rotate                                     the ticket file is written anew; who has enrolled goes on

Scopes: ${TICKET_SCOPES.join(', ')}; admin includes the others. A worker needs claim and objects.
${ACCESS_HELP}

Exit status: 0 done; 1 there is no such ticket or control plane; 2 called in a wrong way.`;

/** `bpr ticket`: who may work for a control plane. */
export function addTicket(program: Command, { io }: Cli): void {
  const ticket = program.command('ticket').description('tickets with which workers enrol').addHelpText('after', EXAMPLES);
  withAccess(ticket.command('create').description('make a ticket; it is shown once'))
    .option('--name <name>', 'for people')
    .option('--scope <scopes>', 'comma-separated (default: claim,publish,objects)', parseScopes)
    .option('--capability <name>', 'what workers may say that they are capable of; several by repeating (default: anything)', collect)
    .option('--uses <count>', 'workers that may enrol', parseCount, 1)
    .addOption(new Option('--duration <span>', 'how long they may').argParser(parseSpan).default(3_600_000, '1h'))
    .option('--after <span>', 'not before this has passed', parseSpan)
    .addHelpText('after', EXAMPLES)
    .action(async (flags: CreateFlags) => {
      const notBefore = Date.now() + (flags.after ?? 0);
      const body = {
        name: flags.name,
        scopes: flags.scope,
        capabilities: flags.capability,
        uses: flags.uses,
        ...(flags.after !== undefined && { notBefore }),
        expiresAt: notBefore + flags.duration,
      };
      const made = ticketOf(await withControl(io, flags, (control) => control.ask({ path: '/tickets', body })));
      print(io, flags.json, { document: made, text: made.ticket ?? '' });
    });
  withAccess(ticket.command('list').description('list tickets, without their secrets'))
    .addHelpText('after', EXAMPLES)
    .action(async (flags: ControlFlags) => {
      const { tickets } = await withControl(io, flags, (control) => control.ask({ method: 'GET', path: '/tickets' }));
      const all = tickets as readonly Ticket[]; // of our own control plane
      const head = ['id', 'name', 'scopes', 'used', 'from', 'until', 'state'];
      print(io, flags.json, {
        document: { tickets: all },
        text: all.length === 0 ? 'no tickets' : table([head, ...all.map(rowOf)]),
      });
    });
  withAccess(ticket.command('revoke').description('refuse a ticket, and its workers, from now on'))
    .argument('<id>', 'as the list shows it')
    .addHelpText('after', EXAMPLES)
    .action(async (id: string, flags: ControlFlags) => {
      const path = `/tickets/${encodeURIComponent(id)}`;
      const revoked = ticketOf(await withControl(io, flags, (control) => control.ask({ method: 'DELETE', path })));
      print(io, flags.json, { document: revoked, text: `revoked ${id}` });
    });
  withAccess(ticket.command('rotate').description('replace a ticket: nobody new enrols with the old one'))
    .argument('[id]', 'as the list shows it (default: the one in the ticket file)')
    .addHelpText('after', EXAMPLES)
    .action(async (id: string | undefined, flags: ControlFlags) => {
      const path = id === undefined ? '/tickets/rotate' : `/tickets/${encodeURIComponent(id)}/rotate`;
      const made = ticketOf(await withControl(io, flags, (control) => control.ask({ path })));
      print(io, flags.json, { document: made, text: made.ticket ?? '' });
    });
}

function ticketOf(answer: unknown): Ticket {
  return answer as Ticket; // of our own control plane
}

function rowOf({ id, name, scopes, used, uses, notBefore, expiresAt, closedAt, revokedAt }: Ticket): string[] {
  const state =
    revokedAt === undefined ? (closedAt === undefined ? (expiresAt <= Date.now() ? 'expired' : 'open') : 'replaced') : 'revoked';
  return [id, name, scopes.join(','), `${used}/${uses}`, timeText(notBefore), timeText(expiresAt), state];
}

function parseScopes(text: string): readonly TicketScope[] {
  return text.split(',').map((part) => {
    const scope = part.trim();
    if (!isScope(scope)) throw new InvalidArgumentError(`${part} is not one of ${TICKET_SCOPES.join(', ')}.`);
    return scope;
  });
}
