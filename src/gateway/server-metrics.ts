/** What the server counts of requests. */

import type { Counter, Histogram, Labels, Metrics } from '../telemetry/telemetry.ts';
import type { Route } from './http.ts';

/** The pattern of a route, not the path: the number of series stays small. */
type Pattern = Pick<Route, 'method' | 'path'>;

interface RouteSeries {
  readonly byStatus: Map<number, Counter>;
  readonly seconds: Histogram;
}

export class ServerMetrics {
  readonly #metrics: Metrics;
  readonly #prefix: string;
  /** Undefined: no route was found. */
  readonly #routes = new Map<Pattern | undefined, RouteSeries>();

  constructor(metrics: Metrics, prefix = 'blueprint_gateway') {
    this.#metrics = metrics;
    this.#prefix = prefix;
  }

  answered(pattern: Pattern | undefined, status: number, seconds: number): void {
    let series = this.#routes.get(pattern);
    if (!series) this.#routes.set(pattern, (series = this.#seriesOf(labelsOf(pattern))));
    let counter = series.byStatus.get(status);
    if (!counter) {
      const labels = { ...labelsOf(pattern), status: String(status) };
      counter = this.#metrics.counter({
        name: `${this.#prefix}_requests_total`,
        help: 'Requests answered, by route and status.',
        labels,
      });
      series.byStatus.set(status, counter);
    }
    counter.add();
    series.seconds.record(seconds);
  }

  #seriesOf(labels: Labels): RouteSeries {
    const options = { name: `${this.#prefix}_request_seconds`, help: 'Time to answer a request, by route.', labels };
    return { byStatus: new Map(), seconds: this.#metrics.histogram(options) };
  }
}

function labelsOf(pattern: Pattern | undefined): Labels {
  return pattern ? { route: pattern.path, method: pattern.method } : { route: 'none', method: 'other' };
}
