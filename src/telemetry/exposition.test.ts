import { describe, expect, it } from 'vitest';
import { exposition } from './exposition.ts';
import { createMetrics } from './prometheus.ts';

const OPEN = 'application/openmetrics-text';
const TEXT = `# HELP calls_total Calls "seen".
# TYPE calls_total counter
calls_total{who="a b} 5"} 3
# HELP level How\\nmuch.
# TYPE level gauge
level +Inf 1700000000500
# TYPE took_seconds histogram
took_seconds_bucket{job="le=\\"7\\"",le="5"} 1
took_seconds_bucket{job="le=\\"7\\"",le="+Inf"} 2
took_seconds_sum{job="le=\\"7\\""} 9.5
took_seconds_count{job="le=\\"7\\""} 2
# a comment
untold 1
`;

const isOpen = (accept: string | undefined): boolean => exposition(TEXT, accept).headers['content-type'].startsWith(OPEN);

describe('which format', () => {
  it.each([
    undefined,
    '',
    '*/*',
    'text/plain',
    'application/json',
    `${OPEN};q=0`,
    `${OPEN};version=2.0.0`,
    `text/plain;q=0.9,${OPEN};q=0.5`,
    `${OPEN};q=many`,
  ])('%j: that of Prometheus, as it is', (accept) => {
    expect(exposition(TEXT, accept)).toEqual({
      headers: { 'content-type': 'text/plain; version=0.0.4; charset=utf-8', vary: 'accept' },
      body: TEXT,
    });
  });

  it.each([
    OPEN,
    `${OPEN}; version=1.0.0; charset=utf-8`,
    `Application/OpenMetrics-Text;version=1.0.0,${OPEN};version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1`,
    `${OPEN};version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=1.0.0;q=0.3,*/*;q=0.1`,
  ])('%j: OpenMetrics', (accept) => {
    expect(exposition(TEXT, accept).headers).toEqual({
      'content-type': 'application/openmetrics-text; version=1.0.0; charset=utf-8',
      vary: 'accept',
    });
    expect(isOpen(accept)).toBe(true);
  });
});

describe('OpenMetrics', () => {
  it('names counters without _total, writes bounds and times its own way, and ends', () => {
    expect(exposition(TEXT, OPEN).body).toBe(`# TYPE calls counter
# HELP calls Calls \\"seen\\".
calls_total{who="a b} 5"} 3
# TYPE level gauge
# HELP level How\\nmuch.
level +Inf 1700000000.5
# TYPE took_seconds histogram
took_seconds_bucket{job="le=\\"7\\"",le="5.0"} 1
took_seconds_bucket{job="le=\\"7\\"",le="+Inf"} 2
took_seconds_sum{job="le=\\"7\\""} 9.5
took_seconds_count{job="le=\\"7\\""} 2
# TYPE untold unknown
untold 1
# EOF
`);
  });

  it('has each family once, whatever there is', () => {
    const text = '# TYPE jobs gauge\njobs 1\n# TYPE jobs_total counter\njobs_total 2\n# TYPE odd counter\nodd 3\njobs 4\n';
    expect(exposition(text, OPEN).body).toBe(
      '# TYPE jobs gauge\njobs 1\njobs 4\n# TYPE jobs_total unknown\njobs_total 2\n# TYPE odd unknown\nodd 3\n# EOF\n',
    );
    expect(exposition('', OPEN).body).toBe('# EOF\n');
  });

  it('leaves no kind of what a process tells unknown', async () => {
    const metrics = createMetrics();
    metrics.histogram({ name: 'took_seconds', help: 'x' }).record(1);
    const { body } = exposition(await metrics.expose(), OPEN);
    expect(body).toMatch(/^# TYPE process_cpu_seconds counter$/m);
    expect(body).toMatch(/^# TYPE blueprint_invalid_samples counter$/m);
    expect(body).toMatch(/^took_seconds_bucket\{le="1\.0"\} 1$/m);
    expect(body).not.toMatch(/ unknown$/m);
    expect(body.endsWith('\n# EOF\n')).toBe(true);
  });
});
