/** What the server counts of requests. */

import type { Counter, Histogram, Metrics } from '../telemetry/telemetry.ts';

export interface AnsweredRequest {
  /** The pattern of the route, not the path: the number of series stays small. */
  readonly route: string;
  readonly method: string;
  readonly status: number;
  readonly seconds: number;
}

interface RouteSeries {
  readonly byStatus: Map<number, Counter>;
  readonly seconds: Histogram;
}

export class ServerMetrics {
  readonly #metrics: Metrics;
  readonly #routes = new Map<string, RouteSeries>();

  constructor(metrics: Metrics) {
    this.#metrics = metrics;
  }

  answered({ route, method, status, seconds }: AnsweredRequest): void {
    const key = `${method} ${route}`;
    let series = this.#routes.get(key);
    if (!series) {
      const options = { name: 'blueprint_gateway_request_seconds', help: 'Time to answer a request, by route.', labels: { route, method } };
      series = { byStatus: new Map(), seconds: this.#metrics.histogram(options) };
      this.#routes.set(key, series);
    }
    let counter = series.byStatus.get(status);
    if (!counter) {
      const labels = { route, method, status: String(status) };
      counter = this.#metrics.counter({
        name: 'blueprint_gateway_requests_total',
        help: 'Requests answered, by route and status.',
        labels,
      });
      series.byStatus.set(status, counter);
    }
    counter.add();
    series.seconds.record(seconds);
  }
}
