/** A kubeconfig for tests. */

export interface ConfigFor {
  readonly server: string;
  readonly token?: string;
  /** More of the cluster and of the user. */
  readonly cluster?: object;
  readonly user?: object;
  readonly namespace?: string;
}

export function kubeconfigFor({ server, token, cluster = {}, user = {}, namespace }: ConfigFor): string {
  return JSON.stringify({
    apiVersion: 'v1',
    kind: 'Config',
    'current-context': 'test',
    clusters: [{ name: 'test', cluster: { server, ...cluster } }],
    users: [{ name: 'test', user: { ...(token !== undefined && { token }), ...user } }],
    contexts: [{ name: 'test', context: { cluster: 'test', user: 'test', ...(namespace !== undefined && { namespace }) } }],
  });
}
