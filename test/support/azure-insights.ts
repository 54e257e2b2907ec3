/** Application Insights for tests: the part of the query language that logs are asked with, over what apps wrote. */

import type { AzureRequest, Reply } from './azure-wire.ts';
import { Refusal, only } from './azure-wire.ts';
import type { AzureApp } from './azure-app.ts';

interface Row {
  readonly timestamp: string;
  readonly message: string;
  readonly cloud_RoleName: string;
  readonly itemId: string;
}

const APP_ID = 'insights-of-tests';
const SOURCE = 'union traces, (exceptions | extend message = outerMessage)';
const COLUMNS = ['timestamp', 'message', 'severityLevel', 'operation_Id', 'cloud_RoleInstance', 'itemId'];

/** `| where`, `| project`, `| order by timestamp desc, itemId desc` and `| take`; everything else is refused. */
export function answerQuery(apps: readonly AzureApp[], { method, path, body }: AzureRequest): Reply {
  if (method !== 'POST' || path !== `/v1/apps/${APP_ID}/query`) throw new Refusal(404, 'PathNotFoundError', path);
  const { query } = only(body, ['query', 'timespan'], 'query');
  const [source, ...operators] = String(query).split('\n| ');
  if (source !== SOURCE) throw new Refusal(400, 'BadArgumentError', `unknown source: ${source}`);
  let rows = apps.flatMap(({ name, traces }) =>
    traces.map(({ at, message, id }): Row => ({ timestamp: new Date(at).toISOString(), message, cloud_RoleName: name, itemId: id })),
  );
  for (const operator of operators) {
    const [, word = '', rest = ''] = /^(where|project|order by|take) (.*)$/s.exec(operator) ?? [];
    if (word === 'where') rows = rows.filter(conditionOf(rest));
    else if (word === 'take') rows = rows.slice(0, Number(rest));
    else if (word === 'order by' && rest === 'timestamp desc, itemId desc')
      rows = rows.toReversed().toSorted((a, b) => Date.parse(b.timestamp) - Date.parse(a.timestamp));
    else if (word !== 'project' || rest !== COLUMNS.join(', ')) throw new Refusal(400, 'BadArgumentError', `unknown operator: ${operator}`);
  }
  const columns = COLUMNS.map((name) => ({ name, type: 'string' }));
  const table = rows.map(({ timestamp, message, itemId }) => [timestamp, message, 1, '', 'instance-1', itemId]);
  return { status: 200, body: { tables: [{ name: 'PrimaryResult', columns, rows: table }] } };
}

function conditionOf(text: string): (row: Row) => boolean {
  const [, column = '', operator = '', literal = ''] = /^(cloud_RoleName|timestamp|message) (=~|>=|<=|contains_cs) (.*)$/s.exec(text) ?? [];
  const [, time] = /^datetime\((.*)\)$/.exec(literal) ?? [];
  const value = time ?? literal.replace(/^'(.*)'$/s, '$1').replaceAll(/\\(.)/g, '$1');
  if (column === 'timestamp' && operator === '>=') return (row) => row.timestamp >= value;
  if (column === 'timestamp' && operator === '<=') return (row) => row.timestamp <= value;
  if (column === 'cloud_RoleName' && operator === '=~') return (row) => row.cloud_RoleName.toLowerCase() === value.toLowerCase();
  if (column === 'message' && operator === 'contains_cs') return (row) => row.message.includes(value);
  throw new Refusal(400, 'BadArgumentError', `unknown condition: ${text}`);
}
