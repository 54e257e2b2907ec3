/** Metrics as a scraper asks for them: the text format of Prometheus, or OpenMetrics 1.0. */

const TEXT_TYPE = 'text/plain; version=0.0.4; charset=utf-8';
const OPENMETRICS_TYPE = 'application/openmetrics-text; version=1.0.0; charset=utf-8';

export interface Exposition {
  readonly headers: { readonly 'content-type': string; readonly vary: string };
  readonly body: string;
}

/**
 * The answer to a request for metrics, of which the text is given in the format 0.0.4. OpenMetrics is what is asked for when `accept` names it
 * at least as willingly as `text/plain`.
 *
 * @example
 * const { headers, body } = exposition(await metrics.expose(), request.headers.accept);
 */
export function exposition(text: string, accept: string | undefined): Exposition {
  const isOpen = wantsOpenMetrics(accept ?? '');
  const headers = { 'content-type': isOpen ? OPENMETRICS_TYPE : TEXT_TYPE, vary: 'accept' };
  return { headers, body: isOpen ? openMetricsOf(text) : text };
}

function wantsOpenMetrics(accept: string): boolean {
  let [open, text] = [0, 0];
  for (const range of accept.toLowerCase().split(',')) {
    const [type, ...rest] = range.split(';').map((part) => part.trim());
    const parameters = new Map(rest.map((part) => [part.split('=', 1)[0], part.slice(part.indexOf('=') + 1)]));
    const quality = Number(parameters.get('q') ?? 1) || 0;
    if (type === 'text/plain') text = Math.max(text, quality);
    else if (type === 'application/openmetrics-text' && (parameters.get('version') ?? '1.0.0') === '1.0.0') open = Math.max(open, quality);
  }
  return open > 0 && open >= text;
}

interface Family {
  readonly name: string;
  kind: string;
  help: string | undefined;
  readonly lines: string[];
}

const SUFFIXES: Readonly<Record<string, readonly string[]>> = {
  histogram: ['_bucket', '_sum', '_count'],
  summary: ['_sum', '_count'],
};
const BOUND = /([{,])(le|quantile)="(-?\d+)"/;

function openMetricsOf(text: string): string {
  const families = familiesOf(text);
  return `${[...families.values()].map((family) => textOf(family, families)).join('')}# EOF\n`;
}

function familiesOf(text: string): ReadonlyMap<string, Family> {
  const families = new Map<string, Family>();
  const family = (name: string): Family => {
    const found = families.get(name) ?? { name, kind: 'untyped', help: undefined, lines: [] };
    families.set(name, found);
    return found;
  };
  let current: Family | undefined;
  for (const line of text.split('\n')) {
    if (line.startsWith('# HELP ') || line.startsWith('# TYPE ')) {
      const end = line.indexOf(' ', 7);
      current = family(line.slice(7, end === -1 ? undefined : end));
      const told = end === -1 ? '' : line.slice(end + 1);
      if (line.startsWith('# HELP ')) current.help = told;
      else current.kind = told.trim();
    } else if (line !== '' && !line.startsWith('#')) {
      const name = line.slice(0, line.search(/[{ ]/));
      if (!current || !isOf(name, current)) current = family(name);
      current.lines.push(line);
    }
  }
  return families;
}

function isOf(name: string, family: Family): boolean {
  return name === family.name || (SUFFIXES[family.kind] ?? []).some((suffix) => name === family.name + suffix);
}

/** There a counter has the name of its samples without `_total`; what cannot be one there is of an unknown kind. */
function textOf({ name, kind, help, lines }: Family, families: ReadonlyMap<string, Family>): string {
  if (lines.length === 0) return '';
  const bare = name.replace(/_total$/, '');
  const isCounter = kind === 'counter' && bare !== name && !families.has(bare);
  const shown = isCounter ? bare : name;
  const unknown = kind === 'untyped' || (kind === 'counter' && !isCounter);
  const head = `# TYPE ${shown} ${unknown ? 'unknown' : kind}\n`;
  const about = help === undefined ? '' : `# HELP ${shown} ${help.replaceAll('"', String.raw`\"`)}\n`;
  const hasBounds = SUFFIXES[kind] !== undefined;
  return head + about + lines.map((line) => `${sampleOf(hasBounds ? line.replace(BOUND, '$1$2="$3.0"') : line)}\n`).join('');
}

/** Timestamps are in seconds there, in milliseconds here. */
function sampleOf(line: string): string {
  const labelsEnd = line.lastIndexOf('}') + 1 || line.indexOf(' ');
  const [value = '', timestamp] = line.slice(labelsEnd).trim().split(/\s+/);
  return `${line.slice(0, labelsEnd)} ${value}${timestamp === undefined ? '' : ` ${Number(timestamp) / 1_000}`}`;
}
