/** Cloud Logging for tests: what instances wrote, and `entries:list` with the filters that the plugin writes. */

import { randomBytes } from 'node:crypto';
import { ENTRIES, bodyAs, invalid, pageOf, textOf } from './gcp-schema.ts';
import type { Fields } from './gcp-schema.ts';

interface Origin {
  readonly name: string;
  readonly revision: string;
  readonly region: string;
  readonly project: string;
}

type Test = (entry: Fields) => boolean;

export class LogStore {
  readonly entries: Fields[] = [];

  /** Takes lines as the agent of Cloud Run does: JSON is split up, with the fields that the agent knows. */
  writer({ name, revision, region, project }: Origin): (line: string, stream: 'stdout' | 'stderr') => void {
    return (line, stream) => {
      const {
        severity,
        message,
        'logging.googleapis.com/labels': labels,
        'logging.googleapis.com/spanId': spanId,
        ...rest
      } = jsonOf(line) ?? { message: line };
      const payload =
        Object.keys(rest).length === 0 && typeof message === 'string'
          ? { textPayload: message }
          : { jsonPayload: { ...rest, ...(message !== undefined && { message }) } };
      this.entries.push({
        insertId: randomBytes(8).toString('hex'),
        logName: `projects/${project}/logs/run.googleapis.com%2F${stream}`,
        resource: {
          type: 'cloud_run_revision',
          labels: { project_id: project, service_name: name, revision_name: revision, location: region, configuration_name: name },
        },
        timestamp: new Date().toISOString(),
        labels: { instanceId: revision, 'goog-managed-by': 'cloudfunctions', ...(labels as Fields | undefined) },
        ...(severity !== undefined && { severity }),
        ...(spanId !== undefined && { spanId }),
        ...payload,
      });
    };
  }

  list(body: Buffer): Fields {
    const { resourceNames, filter = '', orderBy = 'timestamp asc', pageSize = 50, pageToken = '' } = bodyAs(body, ENTRIES);
    if (!Array.isArray(resourceNames) || resourceNames.length === 0) throw invalid('resourceNames must not be empty.');
    if (orderBy !== 'timestamp asc' && orderBy !== 'timestamp desc') throw invalid(`orderBy ${String(orderBy)} is not supported.`);
    const tests = clausesOf(textOf(filter)).map(testOf);
    // They are in the order of their times: they were written here.
    const found = this.entries.filter((entry) => tests.every((test) => test(entry)));
    const ordered = orderBy === 'timestamp desc' ? found.toReversed() : found;
    const [entries, next] = pageOf(ordered, { size: Number(pageSize), token: String(pageToken) });
    return { entries, ...next };
  }
}

/** What must all be so: clauses with AND or only spaces between them. */
function clausesOf(filter: string): readonly string[] {
  const clauses = filter.match(/(?:[^\s"()]|"(?:[^"\\]|\\.)*"|\((?:[^()"]|"(?:[^"\\]|\\.)*"|\([^)]*\))*\))+/g) ?? [];
  return clauses.filter((clause) => clause !== 'AND');
}

function testOf(clause: string): Test {
  const [, inner] = /^\((.*)\)$/.exec(clause) ?? [];
  if (inner !== undefined) {
    const tests = inner.split(' OR ').map(testOf);
    return (entry) => tests.some((test) => test(entry));
  }
  const [, log] = /^log_id\("([^"]+)"\)$/.exec(clause) ?? [];
  if (log !== undefined) return ({ logName }) => String(logName).endsWith(`/logs/${encodeURIComponent(log)}`);
  const [, path, operator, value] = /^([a-z_.A-Z"-]+)(=|>=|<=|:)("(?:[^"\\]|\\.)*")$/.exec(clause) ?? [];
  if (path !== undefined && value !== undefined) {
    const wanted = String(JSON.parse(value));
    return (entry) => {
      const found = String(
        path
          .replaceAll('"', '')
          .split('.')
          .reduce<unknown>((at, name) => (at as Fields | undefined)?.[name], entry),
      );
      if (operator === '=') return found === wanted;
      if (operator === ':') return decodeURIComponent(found).includes(wanted);
      return operator === '>=' ? found >= wanted : found <= wanted;
    };
  }
  if (/^"(?:[^"\\]|\\.)*"$/.test(clause)) {
    const wanted = String(JSON.parse(clause)).toLowerCase();
    return (entry) => JSON.stringify([entry['textPayload'], entry['jsonPayload'], entry['labels']]).toLowerCase().includes(wanted);
  }
  throw invalid(`Unparseable filter: ${clause}`);
}

function jsonOf(line: string): Fields | undefined {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === 'object' && value !== null ? (value as Fields) : undefined;
  } catch {
    return undefined;
  }
}
