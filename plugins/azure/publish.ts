/** From a package to an app that runs it. */

import { RunnerError, fieldsOf, text } from '../../src/plugin.ts';
import type { HttpResponse } from '../../src/plugin.ts';
import type { Apps, Keys } from './apps.ts';
import { RESOURCES_VERSION, failure, saidBy } from './client.ts';
import type { Site } from './site.ts';

/** Of the deployment service: https://github.com/projectkudu/kudu/wiki/REST-API and what the Azure CLI asks of it. */
const STATUS = { cancelled: -1, failed: 3, success: 4, conflict: 5, partial: 6 } as const;
const DEPLOY_MS_MAX = 15 * 60_000;
const START_MS_MAX = 5 * 60_000;
const LOG_LINES_MAX = 20;

export class Publisher {
  readonly #apps: Apps;

  constructor(apps: Apps) {
    this.#apps = apps;
  }

  /** Gives the id of the deployment, after its end. Rejects with `DEPLOY_FAILED` and the last lines of its log. */
  async publish(site: Site, zip: Uint8Array, signal?: AbortSignal): Promise<string> {
    const { client } = this.#apps;
    const what = `deploy the package of ${site.name}`;
    const until = client.clock.now() + DEPLOY_MS_MAX;
    const base = this.#apps.scmUrl(site);
    for (;;) {
      const headers = ['authorization', await client.bearer(), 'content-type', 'application/zip'];
      const response = await client.send(base, { method: 'POST', path: '/api/publish?RemoteBuild=false', headers, body: zip, signal });
      if (response.status < 300) return this.#deployed(site, idOf(response), signal);
      // Another deployment is under way, or the service of a new app is not there yet.
      const isPassing = [404, 409, 502, 503].includes(response.status) && client.clock.now() < until;
      if (!isPassing) throw failure(what, response, response.status === 413 ? 'PAYLOAD_TOO_LARGE' : undefined);
      await client.clock.sleep(client.pollMs, signal);
    }
  }

  /** The platform reads its triggers again. */
  async sync(site: Site, signal?: AbortSignal): Promise<void> {
    const { client, names } = this.#apps;
    await client.write(`read the triggers of ${site.name}`, {
      method: 'POST',
      path: `${names.site(site.name)}/syncfunctiontriggers`,
      signal,
    });
  }

  /** Waits until the host runs. Rejects with `DEPLOY_FAILED` and what the host says. */
  async started(site: Site, signal?: AbortSignal): Promise<void> {
    const { client } = this.#apps;
    const until = client.clock.now() + START_MS_MAX;
    let keys: Keys | undefined;
    for (let last = 'it gives no keys'; client.clock.now() < until; await client.clock.sleep(client.pollMs, signal)) {
      keys ??= await this.#apps.keys(site.name, signal);
      if (!keys) continue;
      const headers = ['x-functions-key', keys.master];
      const response = await client.send(this.#apps.hostUrl(site), { method: 'GET', path: '/admin/host/status', headers, signal });
      const { state, errors } = fieldsOf(response.body) ?? {};
      if (response.status === 200 && state === 'Running') return;
      last = `status ${response.status}, state ${String(state)}`;
      if (state === 'Error' && Array.isArray(errors))
        throw new RunnerError('DEPLOY_FAILED', `the app ${site.name} does not start: ${errors.map(String).join('; ')}`, { retry: 'never' });
      if (client.clock.now() + client.pollMs >= until)
        throw new RunnerError('DEPLOY_FAILED', `the app ${site.name} does not start: ${last}`);
    }
    throw new RunnerError('DEPLOY_FAILED', `the app ${site.name} does not start: it gives no keys`);
  }

  /** Adds tags, keeps the others: https://learn.microsoft.com/rest/api/resources/tags/update-at-scope */
  async tag(site: Site, tags: Readonly<Record<string, string>>, signal?: AbortSignal): Promise<void> {
    const { client, names } = this.#apps;
    const path = `${names.site(site.name)}/providers/Microsoft.Resources/tags/default`;
    const json = { operation: 'Merge', properties: { tags } };
    await client.write(`tag the app ${site.name}`, { method: 'PATCH', path, version: RESOURCES_VERSION, json, signal });
  }

  async #deployed(site: Site, id: string | undefined, signal: AbortSignal | undefined): Promise<string> {
    const { client } = this.#apps;
    const until = client.clock.now() + DEPLOY_MS_MAX;
    for (;;) {
      const response = await this.#scm(site, `/api/deployments/${id ?? 'latest'}`, signal);
      const fields = fieldsOf(response.body) ?? {};
      const known = text(fields['id']) ?? id;
      const status = Number(fields['status']);
      if (response.status === 200 && status === STATUS.success && known !== undefined) return known;
      const isOver = status === STATUS.failed || status === STATUS.cancelled || status === STATUS.conflict || status === STATUS.partial;
      if (response.status === 200 && isOver)
        throw await this.#failure(site, known ?? 'latest', { status, said: text(fields['status_text']), signal });
      if (response.status >= 400 && response.status !== 404 && response.status < 500)
        throw failure(`read the deployment of ${site.name}`, response);
      if (client.clock.now() > until) throw new RunnerError('DEPLOY_FAILED', `the deployment of ${site.name} does not come to an end`);
      await client.clock.sleep(client.pollMs, signal);
    }
  }

  async #failure(site: Site, id: string, { status, said, signal }: Ended): Promise<RunnerError> {
    const word = Object.entries(STATUS).find(([, value]) => value === status)?.[0] ?? String(status);
    const response = await this.#scm(site, `/api/deployments/${id}/log`, signal);
    const lines = linesOf(response).slice(-LOG_LINES_MAX);
    const reason = [said, ...lines].filter(Boolean).join('; ') || 'Azure does not say why';
    return new RunnerError('DEPLOY_FAILED', `the deployment of ${site.name} ended as ${word}: ${reason}`, {
      details: { deployment: id, platformCode: word, log: lines },
      retry: status === STATUS.conflict ? 'idempotent' : 'never',
    });
  }

  async #scm(site: Site, path: string, signal: AbortSignal | undefined): Promise<HttpResponse> {
    const { client } = this.#apps;
    const headers = ['authorization', await client.bearer()];
    return client.send(this.#apps.scmUrl(site), { method: 'GET', path, headers, signal });
  }
}

interface Ended {
  readonly status: number;
  readonly said: string | undefined;
  readonly signal: AbortSignal | undefined;
}

/** A JSON text. */
function idOf({ body }: HttpResponse): string | undefined {
  try {
    const id: unknown = JSON.parse(Buffer.from(body).toString('utf8'));
    return typeof id === 'string' && /^[\w-]+$/.test(id) ? id : undefined;
  } catch {
    return undefined;
  }
}

function linesOf(response: HttpResponse): string[] {
  if (response.status >= 300) return [];
  try {
    const lines: unknown = JSON.parse(Buffer.from(response.body).toString('utf8'));
    return Array.isArray(lines) ? lines.flatMap((line: unknown) => saidBy(Buffer.from(JSON.stringify(line))).message ?? []) : [];
  } catch {
    return [];
  }
}
